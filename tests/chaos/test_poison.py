"""A request that kills its worker gets a row with the signal; all others are answered."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.stages.reduce import identity_of
from tests.support.processes import run
from tests.support.reference import SETTINGS, TRIMLINE
from tests.support.runs import lasting, read_units, rows
from tests.support.tars import add, jpeg

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]
# Patches Pillow, a library, in every process: the crash comes from a decoder, not from code of ours.
DEADLY_DECODER = """
import signal
from PIL import ImageFile
load = ImageFile.ImageFile.load
def deadly(self):
    if self.size == (101, 37):
        signal.raise_signal(signal.SIGSEGV)
    return load(self)
ImageFile.ImageFile.load = deadly
"""


def write(path: Path, seed: int, samples: int, *, poison: bool) -> None:
    """Write samples of one question; with poison, sample 2 kills the decoder and sample 8 the engine."""
    with tarfile.open(path, "w") as tar:
        for index in range(samples):
            deadly = poison and index == 2
            picture = jpeg(index, 101, 37) if deadly else jpeg(100 * seed + index, 64)
            word = "poison" if poison and index == 8 else "thing"
            add(tar, f"{seed}-{index:03d}.jpg", picture)
            add(
                tar, f"{seed}-{index:03d}.json", json.dumps({"question": f"what {word} is {index}?"}).encode()
            )


def test_each_deadly_sample_is_named_and_all_others_are_answered(tmp_path):
    import hashlib

    (tmp_path / "tars").mkdir()
    write(tmp_path / "tars" / "0.tar", 0, 12, poison=True)
    write(tmp_path / "tars" / "1.tar", 1, 12, poison=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(DEADLY_DECODER)
    identity = identity_of(hashlib.sha256(jpeg(5, 64)).hexdigest(), "what thing is 5?")
    for group, target, keys in (
        ("reducer", "poison.PoisonedReducer", f"deadly: [{identity}]"),
        ("engine", "poison.PoisonedEngine", "token_budget: 4096"),
        ("source", "poison.PoisonedTars", "path: ???\ndeadly: 1-007"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "poisoned.yaml").write_text(f"_target_: {target}\n{keys}\n")
    settings = [item for item in SETTINGS if not item.startswith(("reducer=", "source=", "unit_bytes="))]
    output = tmp_path / "out"
    command = [
        *(TRIMLINE, "annotate", "--config-dir", str(tmp_path / "conf"), *settings, "unit_samples=4"),
        *("source=poisoned", "reducer=poisoned", "engine=poisoned"),
        *(f"source.path={tmp_path}/tars", f"output={output}", "max_failed_fraction=0.5"),
    ]
    path = f"{tmp_path / 'code'}:{Path(__file__).parent}"
    result = run(command, tmp_path, PYTHONPATH=path)
    assert result.returncode == 1, result.stderr
    assert "shard 1: reading it killed its worker: SIGABRT" in result.stdout + result.stderr

    by_key = {row["sample_key"]: row for row in rows(output)}
    failed = {key: row["error"] for key, row in by_key.items() if row["status"] != "ok"}
    assert failed == {
        "0-002": "the worker of stage decode died of SIGSEGV on this sample alone",
        "0-005": "the worker of stage encode died of SIGSEGV on this sample alone",
        "0-008": "the worker of stage generate died of SIGKILL on this sample alone",
    }
    assert sorted(by_key) == [f"0-{index:03d}" for index in range(12)] + [
        f"1-{index:03d}" for index in range(4)
    ]
    footers = {name: footer for name, (_, footer) in read_units(output).items()}
    broken = footers["000001-00000004-00000004-end.parquet"]
    assert broken["shard_error"] == "reading it killed its worker: SIGABRT"

    undisturbed_command = [
        *(TRIMLINE, "annotate", *settings, "unit_samples=4", "source=webdataset", "reducer=full"),
        *("engine.token_budget=4096", f"source.path={tmp_path}/tars", f"output={tmp_path}/calm"),
    ]
    assert run(undisturbed_command, tmp_path).returncode == 0
    undisturbed = {row["sample_key"]: row for row in lasting(rows(tmp_path / "calm"), "reducer")}
    answered = {row["sample_key"]: row for row in lasting(rows(output), "reducer")}
    assert all(answered[key] == undisturbed[key] for key in answered.keys() - failed.keys())
    assert np.mean([row["status"] == "ok" for row in undisturbed.values()]) == 1
