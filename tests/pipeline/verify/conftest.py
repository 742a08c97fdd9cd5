"""Fixtures of verification: a whole output, a copy to damage, and `verify` itself."""

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
    """A finished output of two tars, 18 requests in six units; `again(output)` makes missing units."""
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
    """Run `verify` on one output; return texts by (kind, file or range), and the whole result."""

    def run(output, **options):
        (result,) = verify(Verification(output=str(output), **options), Storage())
        findings = {
            (finding.kind, finding.file or (finding.shard, finding.first, finding.stop)): finding.text
            for finding in result.findings
        }
        assert len(findings) == len(result.findings), "no finding is repeated"
        return findings, result

    return run
