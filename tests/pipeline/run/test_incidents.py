"""Test that what happened to GPUs is told at the end of a run, in its notes, its log and summary.json."""

import json

import pytest

from pipeline.output.summary import Summary
from pipeline.run.annotate import annotate
from pipeline.run.guard.incidents import LOST, RETIRED, Incident
from pipeline.run.guard.location import Location
from pipeline.sources.webdataset import WebDataset
from tests.support.runs import make_config, without_ray
from tests.support.tars import write_tar

GPU = Location("node-7", "an id of Ray's", ("3",))
SEEN = [
    Incident(LOST, "generate", GPU, "AcceleratorError: CUDA error: uncorrectable ECC error", times=2),
    Incident(RETIRED, "generate", GPU, "no sample is answered"),
]


@pytest.mark.parametrize("incidents", [SEEN, []])
def test_the_summary_and_the_notes_name_node_and_gpu(random_checkpoint, tmp_path, incidents):
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "0.tar", 1)
    config = make_config(random_checkpoint, WebDataset(path=str(tmp_path / "in")), tmp_path / "out")
    with without_ray(incidents):
        outcome = annotate(config)
    assert outcome.status == 0
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert Summary.from_json(written) == outcome.summary
    if not incidents:
        assert "incidents" not in written and not any("GPU" in note for note in outcome.notes)
        return
    assert outcome.notes[-2:] == (
        "stage generate: a process could use GPU 3 of node node-7 no more, and was started again (2 times): "
        "AcceleratorError: CUDA error: uncorrectable ECC error",
        "stage generate: GPU 3 of node node-7 was given up, and its units went to another: "
        "no sample is answered",
    )
    lost = {"event": "lost", "stage": "generate", "node": "node-7", "gpus": ["3"], "times": 2}
    assert written["incidents"][0].items() >= lost.items()
