"""Test that a source's unexpected exception ends its shard, and a failing store's the run."""

from dataclasses import dataclass

import pytest

from pipeline.output.units import UnitLimits
from pipeline.sources.base import Sample, Shard, Source
from pipeline.sources.items import items_of
from pipeline.sources.task import Task
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError, ShardError

SHARD = Shard(0, "file:///in/0.zip", 10, "etag")


@dataclass(frozen=True, kw_only=True)
class Two(Source):
    """Yields two samples, then raises."""

    error: BaseException

    def entries(self, storage):
        raise NotImplementedError

    def shards(self, entries, storage):
        raise NotImplementedError

    def samples(self, shard, storage, wanted):
        for index in range(2):
            wanted(index)
            yield Sample(f"{index}", index + 1, b"image")
        raise self.error


def test_the_samples_before_an_exception_are_kept_and_the_last_unit_tells_it():
    source = Two(path="in", error=ValueError("bad magic at /in/0.zip:3\nmore"))
    options = {"task": Task(prompts=("?",)), "limits": UnitLimits(unit_samples=5), "finished": {}}
    (unit,) = read_shard(source, SHARD, storage=Storage(), **options)
    row = unpack_unit(unit)
    assert row.unit.file_name == "000000-00000000-00000002-end.parquet"
    assert row.trace["shard_error"] == "source Two raised ValueError: bad magic at .../0.zip:3"


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), RunError("the store is gone"), ShardError("cut")])
def test_what_a_store_raises_and_our_own_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        list(items_of(Two(path="in", error=error), SHARD, Storage(), lambda _: 7))
    assert caught.value is error
