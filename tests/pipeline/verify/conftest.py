"""An output that is verified, whole and damaged."""

import shutil
from types import SimpleNamespace

import pytest

from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.verify.verify import Verification, verify
from tests.support.quick import lasting_rows, quick_answer
from tests.support.tars import write_tar


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Two tars, 18 requests in six units, with _SUCCESS; `again(output)` makes what is missing of one."""
    folder = tmp_path_factory.mktemp("verify")
    for seed in range(2):
        write_tar(folder / "tars" / f"{seed}.tar", 6, seed=seed, questions=2, width=24)

    def again(output):
        quick_answer(WebDataset(path=str(folder / "tars")), output, unit_samples=2)

    again(folder / "out")
    return SimpleNamespace(folder=folder, again=again, rows=lasting_rows(folder / "out"))


@pytest.fixture
def output(finished, tmp_path):
    """A copy of the output, to be damaged."""
    shutil.copytree(finished.folder / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def check():
    """`verify` of one output: what it found as (kind, file or range), and all of it."""

    def run(output, **options):
        (found,) = verify(Verification(output=str(output), **options), Storage())
        told = {(one.kind, one.file or (one.shard, one.first, one.stop)): one.text for one in found.findings}
        assert len(told) == len(found.findings), "nothing is told twice"
        return told, found

    return run
