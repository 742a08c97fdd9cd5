"""Run `annotate` without Ray and models, in a process of its own if asked: plan, units and files are real.

`python -m tests.support.stub_run CONFIG` unpickles a `RunConfig`, waits for a line on stdin, and prints the
exit status and the last line of the run.
"""

import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.benchmark.driver_memory import StubGenerate
from pipeline.run.annotate import annotate
from pipeline.run.config import Outcome, RunConfig
from pipeline.run.guard.incidents import Incident
from pipeline.run.in_process import make_units
from pipeline.run.prepare import Prepared
from pipeline.sources.task import requests_of
from pipeline.stages.rows import pack_unit, unpack_unit
from pipeline.support.schema import REQUESTS, TOKENS

ROOT = Path(__file__).parents[2]


class EncodeAll:
    """Make a unit's requests without CLIP, those of faulty samples, too."""

    def __init__(self, **_: object) -> None:
        pass

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn IMAGES into REQUESTS without tokens."""
        row = unpack_unit(batch)
        samples = row.tables["images"].drop_columns(["pixels"]).to_pylist()
        requests = [
            {**sample, **request, "arm": 0}
            for sample in samples
            for request in requests_of(row.unit.shard, sample)
        ]
        lines = [{name: line.get(name) for name in REQUESTS.names} for line in requests]
        tables = {"requests": pa.Table.from_pylist(lines, schema=REQUESTS), "tokens": TOKENS.empty_table()}
        return pack_unit(row.passed("encode", time.time(), tables))


@contextmanager
def with_stubs() -> Iterator[None]:
    """Let the runs of the block make their units in this process, without an answer."""

    def run_units(config: RunConfig, prepared: Prepared) -> list[Incident]:
        make_units(config, prepared, f"{time.time():.3f}", encode=EncodeAll, generate=StubGenerate)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.run.annotate._run_units", run_units)
        yield


def stub_run(config: RunConfig) -> Outcome:
    """Run `annotate` in this process."""
    with with_stubs():
        return annotate(config)


def run_at_once(configs: Sequence[RunConfig], folder: Path) -> list[tuple[int, str]]:
    """Run configurations in processes of their own, all at once; returns exit statuses and last lines."""
    started = []
    for number, config in enumerate(configs):
        file = folder / f"config-{number}.pickle"
        file.write_bytes(pickle.dumps(config))
        command = [sys.executable, "-m", "tests.support.stub_run", str(file)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        started.append(subprocess.Popen(command, **pipes))
    for process in started:  # "ready" comes after the imports, so that the work itself is at the same time
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=300)[0] for process in started]
    return [(int(end.partition(" ")[0]), end.partition(" ")[2].strip()) for end in ends]


if __name__ == "__main__":
    print("ready", flush=True)
    input()
    ended = stub_run(pickle.loads(Path(sys.argv[1]).read_bytes()))
    print(ended.status, ended.message)
