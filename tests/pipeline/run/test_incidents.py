"""Test that what happened to GPUs is told at the end of a run, in its notes, its log and summary.json."""

import json
from dataclasses import replace

import pytest

from pipeline.output.slice_notes import few_incidents
from pipeline.output.summary import Summary
from pipeline.run.annotate import annotate
from pipeline.run.finish import Finishing, finish_outputs
from pipeline.run.guard.incidents import LOST, RETIRED, Incident
from pipeline.run.guard.location import Location
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from tests.support.runs import make_config, without_ray
from tests.support.stub_run import stub_run
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


def test_finish_tells_what_happened_in_slices(random_checkpoint, tmp_path):
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", 1, seed=number, width=24)
    config = make_config(random_checkpoint, WebDataset(path=str(tmp_path / "in")), tmp_path / "out")

    def run(own_slice, incidents=()):
        sliced = replace(config, options=replace(config.options, slice=own_slice))
        assert stub_run(sliced, incidents).status == 0

    many = [Incident(LOST, "encode", Location(f"node-{number}", "id", ("0",)), "") for number in range(30)]
    run("0/3", SEEN)
    run("1/3")
    run("2/3", many)
    run("0/3", many)  # which has nothing to make, so that nothing happens
    ((_, outcome),) = finish_outputs(Finishing(output=str(tmp_path / "out")), Storage())
    assert "33 incidents in slices 0/3, 2/3: see incidents in summary.json" in outcome.notes
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["incidents"]
    named = [("0/3", incident) for incident in SEEN] + [("2/3", incident) for incident in many[:20]]
    assert told[:-1] == [{"slice": name, **incident.to_json()} for name, incident in named]
    assert told[-1] == {"event": "others", "times": 10}


def test_some_incidents_are_named_and_all_are_counted():
    each = [{"event": LOST, "times": 2} for _ in range(5)]
    assert few_incidents(each, 5) == each
    assert few_incidents(each, 3) == [*each[:3], {"event": "others", "times": 4}]
    assert few_incidents([*few_incidents(each, 1), *few_incidents(each, 2)], 3) == [
        *each[:3],
        {"event": "others", "times": 14},
    ]
