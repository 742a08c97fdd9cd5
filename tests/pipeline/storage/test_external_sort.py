"""Test the external merge sort: sorted, complete, with few files open, whatever the numbers of lines."""

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import external_sort
from pipeline.storage.external_sort import in_order

LINES = st.lists(
    st.tuples(st.text(max_size=4), st.integers(0, 2**62), st.sampled_from(["", "é"])), max_size=200
)


@settings(max_examples=60)
@given(LINES, st.integers(1, 9), st.integers(2, 4))
def test_lines_are_sorted(lines, run, merged):
    assert list(in_order(iter(lines), run_lines=run, merged_runs=merged)) == sorted(lines)


def test_few_files_are_open_however_many_runs_there_are(monkeypatch):
    disks = []

    def temporary():
        disks.append(tempfile.SpooledTemporaryFile())  # noqa: SIM115
        return disks[-1]

    monkeypatch.setattr(external_sort.tempfile, "TemporaryFile", temporary)
    lines = [(f"{number * 7919 % 1024:04d}", number, "") for number in range(1024)]
    merged = in_order(iter(lines), run_lines=2, merged_runs=4)
    first = next(merged)
    assert sum(not disk.closed for disk in disks) <= 4 * 5 < len(disks), "of 512 runs"
    assert [first, *merged] == sorted(lines)
    assert all(disk.closed for disk in disks)
