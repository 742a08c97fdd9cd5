"""A request that kills its worker gets a row with the signal; all others are answered."""

import hashlib
import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pipeline.output.units import Unit
from pipeline.stages.batches import identity_of
from tests.support.processes import run
from tests.support.reference import SETTINGS, TRIMLINE
from tests.support.runs import lasting, read_units, rows, unit_names

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]
# Patches Pillow, a library, in every process: the crash comes from a decoder, not from code of ours.
DEADLY_DECODER = """
import signal
from PIL import ImageFile
load = ImageFile.ImageFile.load
def deadly(self):
    if self.size == {size}:
        signal.raise_signal(signal.SIGSEGV)
    return load(self)
ImageFile.ImageFile.load = deadly
"""
TRIM = (Path(__file__).parents[2] / "conf" / "reducer" / "trim.yaml").read_text()
# Samples of the reference's input, each in a unit with others: in shard 0 one for each of three stages, and
# one of shard 1 that kills its reader.
ENCODED, GENERATED, READ = "000/000005", "000/000008", "001/000020"


def test_each_deadly_sample_is_named_and_all_others_are_answered(reference, tmp_path):
    images = {}
    for file in sorted(Path(reference.tars).iterdir()):
        images |= read_images(file)
    decoded, size = sample_of_unique_size(images)
    question = next(row["question"] for row in reference.rows if row["sample_key"] == ENCODED)
    identity = identity_of(hashlib.sha256(images[ENCODED]).hexdigest(), question)
    word = next(row["question"] for row in reference.rows if row["sample_key"] == GENERATED)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(DEADLY_DECODER.format(size=size))
    for group, text in (
        ("reducer", TRIM.replace("trim.Trim", "poison.PoisonedReducer") + f"deadly: [{identity}]\n"),
        ("engine", f"_target_: poison.PoisonedEngine\nword: '{word}'\n"),
        ("source", f"_target_: poison.PoisonedTars\npath: ???\ndeadly: {READ}\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "poisoned.yaml").write_text(text)
    settings = [item for item in SETTINGS if not item.startswith(("reducer=", "source="))]
    output = tmp_path / "out"
    command = [
        *(TRIMLINE, "annotate", "--config-dir", str(tmp_path / "conf"), *settings),
        *("source=poisoned", "reducer=poisoned", "engine=poisoned"),
        *(f"source.path={reference.tars}", f"output={output}", "max_failed_fraction=0.5"),
    ]
    code = [str(tmp_path / "code"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    result = run(command, tmp_path, PYTHONPATH=os.pathsep.join(code))
    assert result.returncode == 1, result.stderr
    assert "/1.tar): reading it killed its worker: SIGABRT" in result.stdout + result.stderr

    answered = lasting(rows(output), "reducer")
    failed = {row["sample_key"]: row["error"] for row in answered if row["status"] != "ok"}
    assert failed == {
        decoded: "the worker of stage decode died of SIGSEGV on this sample alone",
        ENCODED: "the worker of stage encode died of SIGSEGV on this sample alone",
        GENERATED: "the worker of stage generate died of SIGKILL on this sample alone",
    }
    # of shard 1 the units before the deadly sample, and a last one that tells why there are no more
    units = [Unit.of_file(name) for name in reference.names]
    (cut,) = (unit.first for unit in units if unit.shard == 1 and unit.first <= int(READ[4:]) < unit.stop)
    whole = [unit.file_name for unit in units if unit.shard != 1 or unit.stop <= cut]
    broken_off = Unit(1, cut, cut, True).file_name
    assert unit_names(output) == sorted([*whole, broken_off])
    footer = read_units(output)[broken_off][1]
    assert footer["shard_error"] == "reading it killed its worker: SIGABRT"
    expected = [
        row
        for row in lasting(reference.rows, "reducer")
        if row["key"] < f"000001-{cut:08d}" or row["key"] > "000002"
    ]
    assert [row["key"] for row in answered] == [row["key"] for row in expected]
    assert all(row == same for row, same in zip(answered, expected, strict=True) if row["status"] == "ok")


def read_images(file: Path) -> dict[str, bytes]:
    """Read a tar's images, by the samples' keys."""
    with tarfile.open(file) as tar:
        return {
            member.name.removesuffix(".jpg"): tar.extractfile(member).read()
            for member in tar
            if member.name.endswith(".jpg")
        }


def sample_of_unique_size(images: dict[str, bytes]) -> tuple[str, tuple[int, int]]:
    """Choose a sample of shard 0 whose picture is the only one of its size."""
    sizes = {key: Image.open(io.BytesIO(data)).size for key, data in images.items()}
    often = Counter(sizes.values())
    return next(
        (key, size)
        for key, size in sizes.items()
        if often[size] == 1 and key.startswith("000/") and key not in (ENCODED, GENERATED)
    )
