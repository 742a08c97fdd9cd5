"""Slices and then `finish`: the summary of one run, in any order of the slices."""

import json
from dataclasses import replace

import pytest

from pipeline.run.finish import Finishing, finish_outputs
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError
from tests.support.runs import make_config
from tests.support.stub_run import stub_run
from tests.support.tars import write_tar

OF_TIME = ("stage_seconds", "active_seconds", "samples_per_s", "requests_per_s", "starts")


def test_slices_and_finish_have_the_summary_of_one_run(tmp_path, random_checkpoint):
    for number, samples in enumerate((3, 1, 4, 2, 5)):
        write_tar(tmp_path / "tars" / f"{number}.tar", samples, seed=number % 4, questions=2, width=24)
    source = WebDataset(path=str(tmp_path / "tars"))

    def run(output, which=None):
        config = make_config(random_checkpoint, source, tmp_path / output, unit_samples=2)
        return stub_run(replace(config, options=replace(config.options, slice=which, max_failed_fraction=1)))

    def finish():
        options = Finishing(output=str(tmp_path / "slices"), max_failed_fraction=1)
        ((_, outcome),) = finish_outputs(options, Storage())
        return outcome

    def summary(output):
        tree = json.loads((tmp_path / output / "summary.json").read_text())
        return {name: value for name, value in tree.items() if name not in OF_TIME}

    assert run("one").status == 0
    for which in ("2/3", "0/3"):
        assert run("slices", which).status == 0
        assert not (tmp_path / "slices" / "summary.json").exists()
    with pytest.raises(
        RunError, match=r"shards are not finished, the first is .*run slice=1/3, which makes it"
    ):
        finish()
    assert run("slices", "1/3").status == 0
    assert finish().message == "done"
    assert summary("slices") == summary("one")
    assert summary("one")["repeated"]["sample_key"]["count"] == 3, "across slices, too"
    assert finish().message.startswith("nothing to do")
    sums = [{file.name for file in (tmp_path / name / "done").iterdir()} for name in ("one", "slices")]
    assert sums[0] == sums[1] and len(sums[0]) == 10
