"""A folder listed in several parts has the same names as in one."""

import time

import pytest

from pipeline.storage.flat import list_in_parts
from pipeline.storage.uris import Storage, list_names
from tests.support.ordered_store import OrderedStore, by_bytes, by_names

NAMES = [
    *(
        f"{number:06d}-{first:08d}.parquet"
        for number in (0, 1, 9, 10, 19, 100, 101, 999_999)
        for first in (0, 64)
    ),
    *(
        "1000000-0.parquet",
        "100000-0.parquet",
        "1000001-0.parquet",
        "9.txt",
        "notes.txt",
        ".000001.tmp",
        "z~",
    ),
]


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    """A file system and a folder with these names and a subfolder."""
    if request.param == "disk":
        fs, path = Storage().open(str(tmp_path / "flat"))
        fs.makedirs(path)
    else:
        fs, path = request.getfixturevalue("s3").open("s3://bucket/flat")
    for name in [*NAMES, "000001/below.txt"]:
        fs.makedirs(f"{path}/000001", exist_ok=True)
        fs.pipe_file(f"{path}/{name}", b"x")
    return fs, path


@pytest.mark.parametrize(("numbers", "a_part"), [(0, 1), (20, 1), (102, 10), (1_000_002, 16), (5, 500)])
def test_in_parts(folder, numbers, a_part):
    listed = [file for file in list_in_parts(*folder, range(numbers), a_part) if file[0] != "000001"]
    assert sorted(name for name, _ in listed) == sorted(NAMES)
    assert set(NAMES) == set(list_names(*folder)) - {"000001"}
    times = dict(listed)
    assert all(abs(time.time() - times[name]) < 300 for name in NAMES)


@pytest.mark.parametrize(
    "numbers", [range(1, 10), range(10, 102), range(999_999, 1_000_001), range(1_000_000, 1_000_002)]
)
def test_only_some_numbers(folder, numbers):
    def among(names):
        return sorted(
            name for name in names if (head := name.split("-")[0]).isdecimal() and int(head) in numbers
        )

    wanted = [name for name in among(NAMES) if "-" in name]
    assert (
        [name for name in among(dict(list_in_parts(*folder, numbers, 4, only=True))) if "-" in name]
        == wanted
        != []
    )


@pytest.mark.parametrize("order", [by_bytes, by_names], ids=["S3", "SeaweedFS"])
@pytest.mark.parametrize("of_shard", [1, 8, 300])
def test_known_numbers_are_listed_by_threads_with_few_requests(order, of_shard):
    """A page has 20 names, so that 6,000 are 300 pages."""
    shards = 6_000 // of_shard
    names = [f"{number:06d}-{first:08d}.parquet" for number in range(shards) for first in range(of_shard)]
    store = OrderedStore([f"out/data/{name}" for name in names], order, 20, delay_s=0.005)
    assert sorted(name for name, _ in list_in_parts(store, "bucket/out/data", range(shards), 1)) == names
    assert store.requests < 2 * 300 and store.mean_at_once > 8
    some, store.requests = range(shards // 4, shards // 2), 0
    listed = [name for name, _ in list_in_parts(store, "bucket/out/data", some, 1, only=True)]
    assert sorted(listed) == [name for name in names if int(name[:6]) in some]
    assert store.requests < 2 * 75 + 16


def test_a_store_that_begins_again_is_refused():
    class Forgetful(OrderedStore):
        def call_s3(self, method, **options):
            options.pop("StartAfter", None)
            return super().call_s3(method, **options)

    store = Forgetful([f"out/data/{number:06d}.json" for number in range(100)], by_bytes, 10)
    with pytest.raises(OSError, match="no known order"):
        list(list_in_parts(store, "bucket/out/data", range(50, 100), 1, only=True))


def test_a_folder_that_does_not_exist(s3, tmp_path):
    assert list(list_in_parts(*Storage().open(str(tmp_path / "none")), range(100), 1)) == []
    assert list(list_in_parts(*s3.open("s3://bucket/flat-none"), range(100), 1)) == []
