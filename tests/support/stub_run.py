"""Run `annotate` without Ray and models, in a process of its own if asked: plan, units and files are real.

`python -m tests.support.stub_run CONFIG` unpickles a `RunConfig`, waits for a line on stdin, and prints the
exit status and the last line of the run.
"""

import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.benchmark.driver_memory import StubEncode, StubGenerate
from pipeline.run.annotate import annotate
from pipeline.run.config import Outcome, RunConfig
from pipeline.run.guard.incidents import Incident
from tests.support.runs import without_ray

ROOT = Path(__file__).parents[2]


def stub_run(config: RunConfig, incidents: Sequence[Incident] = ()) -> Outcome:
    """Run `annotate` in this process; `incidents` are what it says happened to GPUs."""
    with without_ray(incidents, encode=StubEncode, generate=StubGenerate):
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
