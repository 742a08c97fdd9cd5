"""The planner's numbers of requests to an object store, counted on a real store."""

import math
from collections import Counter

import pytest
import s3fs

from pipeline.output.changed import require_same
from pipeline.output.footers import read_footers
from pipeline.output.plan_growth import make_plan
from pipeline.output.units import UnitLimits, finished_units
from pipeline.sources.images import Images
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.read import read_shard
from pipeline.storage.uris import write_atomic
from tests.support.quick import quick_answer
from tests.support.s3 import BUCKET
from tests.support.tars import jpeg, write_tar

READ_BYTES = 1 << 16


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """Count the calls of each S3 operation."""
    counts: Counter = Counter()
    call_s3 = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *arguments, **options):
        counts[method] += 1
        return await call_s3(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return counts


def gets(calls: Counter) -> int:
    return calls["get_object"] + calls["head_object"]


def read_all(source, storage, output: str, calls: Counter) -> int:
    """Read every shard of a source as a run does; return the number of units.

    Finding a shard in the plan takes two requests to the output; all requests after it go to the source.
    """
    plan = make_plan(output, source, None, storage)
    calls.clear()
    shards = [plan.shard(number, storage) for number in range(len(plan))]
    assert gets(calls) == 2 * len(shards)
    calls.clear()
    units = 0
    for shard in shards:
        require_same(shard, storage)
        options = {"storage": storage, "task": Task(source_questions=True), "finished": {}}
        units += sum(1 for _ in read_shard(source, shard, limits=UnitLimits(unit_samples=4), **options))
    return units


def test_a_tar_takes_two_requests_and_one_per_range(s3, tmp_path, calls):
    fs, _ = s3.open(f"s3://{BUCKET}")
    tar = write_tar(tmp_path / "a.tar", 40, questions=1, width=200)
    fs.put_file(str(tar), f"{BUCKET}/plan/a.tar")
    source = WebDataset(path=f"s3://{BUCKET}/plan/*.tar", read_bytes=READ_BYTES)
    assert read_all(source, s3, f"s3://{BUCKET}/plan-out", calls) == 10
    ranges = math.ceil(tar.stat().st_size / READ_BYTES)
    assert ranges > 2
    assert gets(calls) == 2 + ranges


def test_an_image_and_its_sidecar_are_read_once(s3, calls):
    fs, _ = s3.open(f"s3://{BUCKET}")
    for index in range(3):
        fs.pipe_file(f"{BUCKET}/plan-images/{index}.jpg", jpeg(index))
        fs.pipe_file(f"{BUCKET}/plan-images/{index}.txt", b"what?")
    source = Images(path=f"s3://{BUCKET}/plan-images")
    assert read_all(source, s3, f"s3://{BUCKET}/plan-images-out", calls) == 1
    assert gets(calls) == 6


def test_a_units_file_is_one_put_and_its_footer_two_gets(s3, tmp_path, calls):
    quick_answer(WebDataset(path=str(write_tar(tmp_path / "a.tar", 6))), tmp_path / "out", unit_samples=2)
    files = sorted((tmp_path / "out" / "data").iterdir())
    output = f"s3://{BUCKET}/plan-written"
    fs, folder = s3.open(output)
    calls.clear()
    for file in files:
        write_atomic(fs, f"{folder}/data/{file.name}", file.read_bytes())
    assert dict(calls) == {"put_object": len(files)}
    calls.clear()
    assert len(list(read_footers(output, finished_units(output, s3), s3))) == len(files)
    assert gets(calls) == 2 * len(files) and calls["list_objects_v2"] == 1
