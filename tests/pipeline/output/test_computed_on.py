"""Test that an output tells on which devices its rows were answered, and says so if they are several."""

import pytest

from pipeline.output.computed_on import UNKNOWN, computed_on, mixture_lines
from pipeline.output.summary import read_summary
from pipeline.run.annotate import _tell_other_device, annotate
from pipeline.run.cluster.resources import Cluster
from pipeline.run.cluster.start import start_ray
from pipeline.run.prepare import prepare
from pipeline.sources.webdataset import WebDataset
from pipeline.status.status import Look, look
from pipeline.status.terminal import lines
from pipeline.verify.verify import Verification, verify
from tests.support.footers import footer_of
from tests.support.quick import HERE, quick_answer, quick_prepare
from tests.support.runs import make_config, read_units, without_ray
from tests.support.tars import write_tar

H100, CPU = "NVIDIA H100", "CPU"
MIXED = "answered on different devices, which round differently: CPU (2 rows), NVIDIA H100 with CLIP on CPU"


@pytest.fixture
def mixed(tmp_path):
    """An output of three units: two from an H100 with CLIP on the CPU, the last from the CPU."""
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 6, questions=1, width=24)))
    output = tmp_path / "out"
    quick_answer(source, output, device=H100, clip=CPU, unit_samples=2)
    sorted((output / "data").iterdir())[-1].unlink()
    quick_answer(source, output, device=CPU, unit_samples=2)
    return output


def test_a_mixture_of_devices_is_told_by_summary_status_and_verify(mixed):
    rows = read_summary(str(mixed), HERE).rows_by_device
    assert rows == {f"{H100} with CLIP on CPU": 4, CPU: 2}
    (told,) = mixture_lines(rows)
    assert told.startswith(MIXED)
    (verified,) = verify(Verification(output=str(mixed)), HERE)
    assert told in verified.notes and verified.ok
    for name in ("_SUCCESS", "summary.json"):
        (status,) = look(Look(output=str(mixed)), HERE)
        assert status.rows_by_device == rows
        assert f"{'warning':10}{told}" in list(lines(status))
        (mixed / name).unlink()
    (status,) = look(Look(output=str(mixed)), HERE)  # of the footers now
    assert status.rows_by_device == rows


def test_rows_of_an_earlier_release_are_no_mixture_by_themselves():
    older = footer_of(stages={"generate": {"start": 0.0, "end": 1.0}})
    assert computed_on(older.stages) == UNKNOWN
    assert list(mixture_lines({UNKNOWN: 5, CPU: 3})) == list(mixture_lines({CPU: 3})) == []
    assert list(mixture_lines(None)) == []
    (told,) = mixture_lines({UNKNOWN: 5, CPU: 3, H100: 1})
    assert "unknown (5 rows)" in told


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_footers_name_the_device_and_a_run_says_that_it_goes_on_on_another(
    tmp_path, random_checkpoint, capsys
):
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 2, questions=1, width=24)))
    config = make_config(random_checkpoint, source, tmp_path / "out", unit_samples=1)
    with without_ray():
        outcome = annotate(config)
    assert outcome.summary.rows_by_device == {CPU: 2} and not outcome.notes
    for _, footer in read_units(tmp_path / "out").values():
        devices = {stage: visit.get("device") for stage, visit in footer["stages"].items()}
        assert devices == {"read": None, "decode": None, "encode": CPU, "generate": CPU, "write": None}
    start_ray(Cluster(), "cpu")
    _tell_other_device(config, prepare(config))
    assert capsys.readouterr().err == ""
    quick_answer(source, tmp_path / "other", device=H100, unit_samples=1)
    _tell_other_device(config, quick_prepare(source, tmp_path / "other", unit_samples=1))
    told = f"this output was begun on {H100} and goes on on CPU, which rounds differently\n"
    assert capsys.readouterr().err == told
