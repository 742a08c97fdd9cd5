"""The choice of requests for the gallery."""

from collections import Counter

import pytest

from pipeline.report.choose import KINDS, select_requests
from pipeline.storage.uris import Storage
from tests.pipeline.report.compared import SHARDS, make_rows


def kinds_of(rows: int) -> dict:
    """Make columns in which 1 row in 100 fails and 1 in 50 differs."""
    predictions = ["no" if row % 50 == 1 else "yes" for row in range(rows)]
    status = ["failed" if row % 100 == 0 else "ok" for row in range(rows)]
    return {
        "prediction.trim": predictions,
        "status.trim": status,
        "error.trim": [f"error {row}" for row in range(rows)],
    }


def test_failures_and_disagreements_are_preferred(tmp_path):
    requests = make_rows(tmp_path, 5000, **kinds_of(5000))
    selection = select_requests(requests, Storage(), most=40, seed=0, shards=SHARDS)
    assert selection.kinds == Counter(failed=50, differs=100, same=4850)
    assert len(set(selection.keys)) == 40
    rows = [int(key[:6]) + SHARDS * int(key[7:15]) for key in selection.keys]
    shown = Counter("failed" if row % 100 == 0 else "differs" if row % 50 == 1 else "same" for row in rows)
    assert shown == Counter(failed=10, differs=20, same=10)
    assert {kind for kind in KINDS if kind in shown} == set(KINDS)
    assert select_requests(requests, Storage(), most=40, seed=0, shards=SHARDS) == selection
    assert select_requests(requests, Storage(), most=40, seed=1, shards=SHARDS).keys != selection.keys
    (examples,) = selection.examples.values()
    assert [example.error for example in examples] == [f"error {row}" for row in range(0, 500, 100)]


@pytest.mark.parametrize(("most", "shown"), [(0, 0), (1, 1), (7, 7), (100, 100), (500, 200)])
def test_the_gallery_is_limited_by_most_and_by_the_requests(tmp_path, most, shown):
    requests = make_rows(tmp_path, 200, **kinds_of(200))
    selection = select_requests(requests, Storage(), most=most, seed=0, shards=SHARDS)
    assert len(selection.keys) == len(set(selection.keys)) == shown


def test_the_worst_disagreements_come_first_and_few_shards_are_read(tmp_path):
    requests = make_rows(tmp_path, 5000, **kinds_of(5000))
    everything = select_requests(requests, Storage(), most=200, seed=0, shards=SHARDS).keys
    worst = [key for key in everything if (int(key[:6]) + SHARDS * int(key[7:15])) % 50 == 1][-5:]
    keys = select_requests(requests, Storage(), most=40, seed=0, shards=SHARDS, first=worst).keys
    assert set(worst) <= set(keys[:20])
    assert len({key[:6] for key in keys if key not in worst}) <= 32


def test_a_single_run_without_rows_has_an_empty_gallery(tmp_path):
    selection = select_requests(make_rows(tmp_path, 0), Storage(), most=10, seed=0, shards=1)
    assert selection.keys == [] and not selection.examples
