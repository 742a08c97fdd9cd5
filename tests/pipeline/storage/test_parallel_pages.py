"""Test that several threads list what one does: every key once, whatever the layout and the store's order."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.key_ranges import LAST, KeyRange, between, doubtful_folders, is_ordered
from pipeline.storage.listing import list_files
from pipeline.storage.pages import s3_pages
from pipeline.storage.parallel_pages import parallel_pages
from pipeline.storage.s3 import _time
from pipeline.storage.uris import write_atomic
from pipeline.support.errors import ConfigError
from tests.support.ordered_store import OrderedStore, by_bytes, by_names

ORDERS = pytest.mark.parametrize("order", [by_bytes, by_names], ids=["S3", "SeaweedFS"])
# names around "/" in the order of bytes, of one and of several letters, digits and others
NAMES = st.text(st.sampled_from("a-.!b01Zé\uff61\U0001f600"), min_size=1, max_size=4).filter(
    lambda name: name.strip(".")
)
KEYS = st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=80)


def listed(store: OrderedStore, start: str, threads: int = 16) -> list[str]:
    return [item["Key"] for page in parallel_pages(store, f"bucket/{start}", threads) for item in page]


def possible(keys: set[str]) -> set[str]:
    """Leave out what lies in a folder that has the name of a file: SeaweedFS has no such keys."""
    folders = {
        key: ["/".join(key.split("/")[:depth]) for depth in range(1, key.count("/") + 1)] for key in keys
    }
    return {key for key in keys if keys.isdisjoint(folders[key])}


@ORDERS
@settings(max_examples=300)
@given(KEYS, st.integers(1, 4), st.sampled_from(["", "a", "a/", "a-", "x/"]), st.integers(1, 16))
def test_every_key_is_listed_once(order, keys, page, start, threads):
    under_x = possible({f"x/{key}" for key in keys} | keys)
    expected = sorted(key for key in under_x if key.startswith(start))
    store = OrderedStore(under_x, order, page, delay_s=0.0002)
    assert sorted(listed(store, start, threads)) == expected


LAYOUTS = {
    "one flat folder": [f"set/{number:06d}.jpg" for number in range(6_000)],
    "one flat folder, names with hyphens": [f"set/img-{number:06d}.jpg" for number in range(6_000)],
    "hashes": [f"set/{number * 2654435761 % 2**32:08x}.jpg" for number in range(6_000)],
    "large folders": [f"set/{number % 20:03d}/{number:06d}.jpg" for number in range(6_000)],
    "small folders": [f"set/{number:06d}/a.jpg" for number in range(6_000)],
    "folders of a page": [f"set/{number // 20:03d}/{number:06d}.jpg" for number in range(6_000)],
    "one deep folder": [f"set/2026/11/29/0/{number:06d}.jpg" for number in range(6_000)],
    "one large folder among small ones": [
        f"set/{number // 3:06d}/{number}" if number < 3_000 else f"set/000500/{number:06d}.jpg"
        for number in range(6_000)
    ],
}


@ORDERS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_have_work_and_requests_are_few(order, layout):
    """A page has 20 keys, so that 6,000 are 300 pages."""
    store = OrderedStore(LAYOUTS[layout], order, 20, delay_s=0.005)
    assert sorted(listed(store, "set/")) == sorted(LAYOUTS[layout])
    assert store.requests < 2 * 300 + 100
    assert store.most_at_once >= 12 and store.mean_at_once > 8


@pytest.mark.parametrize("pages", [1, 16])
def test_a_prefix_of_few_pages_costs_a_request_a_page_and_no_thread(pages):
    store = OrderedStore([f"a/{number}" for number in range(2 * pages)], by_bytes, 2)
    before = threading.active_count()
    listed_pages = parallel_pages(store, "bucket/a/")
    assert [item["Key"] for item in next(listed_pages)] == ["a/0", "a/1"]
    assert threading.active_count() == before
    assert sum(len(page) for page in listed_pages) == 2 * pages - 2 and store.requests == pages


@ORDERS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_some_pages_cost_few_requests_more(order, layout):
    keys = LAYOUTS[layout][:400]
    store = OrderedStore(keys, order, 20, delay_s=0.005)
    assert sorted(listed(store, "set/")) == sorted(keys)
    assert store.requests <= 40, "for 20 pages"


@pytest.mark.parametrize("number", [1, 2, 20, 100])
def test_the_error_of_any_thread_is_raised_and_all_end(number):
    store = OrderedStore(LAYOUTS["large folders"], by_bytes, 20, delay_s=0.001, fails_at=number)
    before = threading.active_count()
    with pytest.raises(PermissionError, match="Forbidden"):
        listed(store, "set/")
    assert threading.active_count() == before


def test_whoever_takes_no_more_pages_ends_the_threads_and_few_are_listed_ahead():
    store = OrderedStore(LAYOUTS["large folders"], by_bytes, 5)
    before = threading.active_count()
    pages = parallel_pages(store, "bucket/set/")
    next(pages), next(pages)
    seen = 0
    while seen != store.requests:  # until all threads wait
        seen = store.requests
        time.sleep(0.3)
    assert store.requests < 300, "of 1,200 pages"
    pages.close()
    assert threading.active_count() == before


def test_a_store_without_an_order_is_listed_by_one_thread():
    keys = [f"set/{number * 7919 % 1000:03d}" for number in range(1000)]
    store = OrderedStore(keys, lambda key: keys.index(key) if key in keys else -1, 20)
    assert not is_ordered(store.keys[:20])
    assert listed(store, "set/") == keys
    assert store.requests == 50


def test_a_store_that_begins_again_is_refused():
    class Forgetful(OrderedStore):
        def call_s3(self, method, **options):
            options.pop("StartAfter", None)
            return super().call_s3(method, **options)

    store = Forgetful(LAYOUTS["one flat folder"], by_bytes, 20, delay_s=0.001)
    with pytest.raises(OSError, match=r"no known order; give the listing as source\.listing"):
        listed(store, "set/")


# --- ranges ---

NAME = st.text(st.sampled_from("-0a~"), max_size=5)


@given(NAME, st.none() | NAME.filter(bool))
def test_a_name_between_two_others(low, high):
    found = between(low, high, "-0a~")
    if found is not None:
        name, part = found
        assert low < name and 0 < part <= 1
        assert high is None or name < high or (name.startswith(high) and name != high)
    else:
        assert high is not None and low > high and not low.startswith(high)


def test_halves_are_wide_and_short():
    assert between("000123.jpg", None, "0123456789.jpg")[0] < "a"
    assert len(between("000123.jpg", "000999.jpg", "0123456789.jpg")[0]) == 4
    assert between("b", "a", "ab") is None


def test_folders_about_which_stores_disagree():
    assert doubtful_folders("set/", "img-5") == ["set/img/"]
    assert doubtful_folders("", "2026-11.a") == ["2026/", "2026-11/"]
    assert doubtful_folders("set/img-0", "1") == [], "all keys begin with img-0: none is in a folder img"
    assert doubtful_folders("set/", "-5") == [], "no folder has an empty name"


def test_what_a_range_leaves_to_others():
    part = KeyRange("s/", "s/")
    assert part.take(["s/a/1", "s/a/2"], is_last=False) == [0, 1]
    behind = part.split("m")
    assert (behind.after, behind.stop, part.stop) == (f"s/m{LAST}", None, "m")
    assert part.take(["s/b", "s/m", "s/m/1", "s/m1", "s/n"], is_last=False) == [0, 1, 2, 3] and part.is_done
    assert behind.take(["s/n"], is_last=True) == [0]


def test_a_range_within_a_folder():
    part = KeyRange("s/", "s/", stop="x")
    part.take(["s/a/1", "s/a/2"], is_last=False)
    part.take(["s/a/3", "s/a/4"], is_last=False)
    assert (part.inside, part.pages_inside) == ("s/a/", 2)
    rest = part.enter_folder()
    assert (part.base, part.stop, rest.stop, rest.skipped) == ("s/a/", None, "x", "s/a/")
    assert part.take(["s/a/5", "s/b"], is_last=False) == [0] and part.is_done
    assert rest.take(["s/b", "s/y"], is_last=False) == [0] and rest.is_done


# --- a real server ---


class SmallPages:
    """Asks a real store for a few keys a page."""

    def __init__(self, fs, size: int) -> None:
        self._fs, self._size, self.req_kw = fs, size, fs.req_kw

    def call_s3(self, method, **options):
        return self._fs.call_s3(method, **{"MaxKeys": self._size, **options})


@settings(max_examples=25)
@given(KEYS, st.integers(1, 5))
def test_a_real_store_is_listed_like_by_one_thread(s3, keys, page):
    fs, folder = s3.open("s3://bucket/threads")
    taken = possible(keys)
    for key in {item["Key"] for page_ in s3_pages(fs, f"{folder}/") for item in page_.get("Contents", ())}:
        fs.call_s3("delete_object", Bucket="bucket", Key=key)
    for key in taken:
        write_atomic(fs, f"{folder}/{key}", b"")
    small = SmallPages(fs, page)
    found = [item["Key"] for items in parallel_pages(small, f"{folder}/") for item in items]
    assert sorted(found) == sorted(f"threads/{key}" for key in taken)


def test_a_store_that_refuses_in_the_middle(s3, monkeypatch):
    fs, folder = s3.open("s3://bucket/refused")
    for number in range(20):
        write_atomic(fs, f"{folder}/{number}", b"")
    call, calls = type(fs).call_s3, []

    def refusing(self, method, **options):
        calls.append(method)
        if len(calls) > 3 and method == "list_objects_v2":
            options["Bucket"] = "no-such-bucket"
        return call(self, method, **{"MaxKeys": 2, **options})

    monkeypatch.setattr(type(fs), "call_s3", refusing)
    with pytest.raises(ConfigError, match=r"source\.path: .*s3://bucket/refused"):
        list(list_files("s3://bucket/refused", s3))


def test_times_of_a_listing_are_those_of_a_file(s3):
    fs, path = s3.open("s3://bucket/times/a")
    write_atomic(fs, path, b"")
    (item,) = fs.call_s3("list_objects_v2", Bucket="bucket", Prefix="times/")["Contents"]
    header = fs.call_s3("head_object", Bucket="bucket", Key="times/a")["LastModified"]  # in another form
    assert abs((item["LastModified"] - header).total_seconds()) < 1.5
    assert _time("2026-11-29T01:02:03.000Z") == _time("Sun, 29 Nov 2026 01:02:03 GMT") == _time(1795914123)
