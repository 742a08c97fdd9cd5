"""Ray is let go before an output is concluded, and the sums of whole shards are written while it works."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.output.done import forget_sums, shards_with_sums
from pipeline.output.opened import open_output
from pipeline.output.units import Finished
from pipeline.run.cluster.start import start_ray
from pipeline.run.prepare import ArmState
from pipeline.run.shard_tasks import ShardTasks
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.write import UnitStats
from tests.support.processes import WITHOUT_RAY, run
from tests.support.quick import HERE, quick_answer, quick_prepare
from tests.support.runs import CLUSTER, make_config
from tests.support.tars import write_tar

# Runs `annotate` in a process that notes, whenever it lists or reads what is finished, what there is of Ray.
WATCHED = """
import json, os, sys
from pathlib import Path
import ray
from jobs.common.entry import run_command
from pipeline.output import done
from pipeline.run import annotate, flow
from pipeline.run.cluster import sweeper

place, noted = Path(os.environ["RAY_TMPDIR"]), []

def noting(name, function):
    def noted_first(*args, **more):
        noted.append([name, ray.is_initialized(), len(list(place.iterdir())), len(sweeper._writers(place))])
        return function(*args, **more)
    return noted_first

annotate.look_again = noting("look_again", annotate.look_again)
done.read_footer = noting("read_footer", done.read_footer)
flow.hardware = noting("hardware", flow.hardware)
status = run_command("annotate", sys.argv[1:])
print(json.dumps(noted), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_no_process_of_ray_is_left_when_the_first_footer_is_read(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", 3)
    overrides = [
        "source=webdataset",
        f"source.path={tmp_path}/in",
        f"output={tmp_path}/out",
        "unit_samples=1",
    ]
    overrides += ["model=random", "device=cpu", "decoding.max_new_tokens=2"]
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t-") as place:
        command = [sys.executable, "-c", WATCHED, *overrides]
        result = run(command, tmp_path, **WITHOUT_RAY | {"RAY_TMPDIR": place})
        assert result.returncode == 0, result.stderr
        assert not list(Path(place).iterdir())
    (began, *later) = json.loads(result.stderr.splitlines()[-1])
    assert began[:3] == ["hardware", True, 1] and began[3] > 2, "Ray was there while the run worked"
    assert later == [["look_again", False, 0, 0], *[["read_footer", False, 0, 0]] * 3]


@pytest.fixture
def output(tmp_path):
    """A finished output of two tars of 5 samples each, in units of 2."""
    for number in range(2):
        write_tar(tmp_path / "tars" / f"{number}.tar", 5, seed=number, width=24)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


def test_a_task_writes_the_sums_of_a_shard_when_its_last_unit_is_in(ray, output, random_checkpoint):
    start_ray(CLUSTER, "cpu")
    opened = open_output(str(output), HERE)
    before = {file.name: file.read_bytes() for file in (output / "done").iterdir()}
    forget_sums(str(output), [0, 1], 2, HERE)
    units = list(opened.finished)
    known = Finished([units[2].file_name, units[3].file_name])
    config = make_config(random_checkpoint, WebDataset(path=str(output.parent / "tars")), output)
    state = ArmState(config.arms[0], str(output), opened.manifest, known)
    prepared = replace(quick_prepare(config.source, output, unit_samples=2), states=(state,))
    tasks = ShardTasks(config, prepared, from_units=4)

    def written(*numbers):
        for number in numbers:
            tasks.add(UnitStats(unit=units[number], source_bytes=1, arms=[0], totals=[], stage_s={}))
        tasks.wait()
        return shards_with_sums(str(output), opened.plan, opened.finished, HERE)

    assert written(1) == set(), "shard 0 lacks a unit"
    assert written(0) == {0}, "its end was there before"
    assert written(5) == {0}
    assert written(4) == {0, 1}
    assert {file.name: file.read_bytes() for file in (output / "done").iterdir()} == before
