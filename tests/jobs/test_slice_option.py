"""Test `slice=i/n` as users give it: refused in one line, told at the end, and taken by `compare`."""

import pytest

from jobs.common.entry import run_command
from tests.support.runs import lasting, rows, unit_names, without_ray

SMALL = ["model=random", "device=cpu", "decoding.max_new_tokens=2", "source.slice_files=1"]


@pytest.mark.parametrize("text", ["4/4", "1", "one/two", "0/0"])
def test_what_is_no_slice_is_refused_in_one_line(annotate, folder, text):
    assert annotate.refused(f"slice={text}").startswith(f"slice: '{text}' is none: give i/n")
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_slices_of_annotate_are_told_and_finished(annotate, folder, capfd):
    with without_ray():
        for which, told in (
            ("2/4", "1 shards done"),
            ("0/4", "1 shards done"),
            ("1/4", "it has none of the 3"),
        ):
            status, out, _ = annotate(*SMALL, f"slice={which}")
            assert status == 0
            last = out.splitlines()[-1]
            assert last.startswith(f"slice {which}: {told}")
            assert last.endswith("; when all slices are done: trimline finish output=out")
        assert run_command("finish", ["output=out"]) == 1
        assert annotate(*SMALL, "slice=3/4")[0] == 0
        assert not (folder / "out" / "_SUCCESS").exists()
        assert run_command("finish", ["output=out"]) == 0
        assert (folder / "out" / "_SUCCESS").exists()
        assert '"slice": null' in (folder / "out" / "run.json").read_text(), "all slices have one run.json"
        assert annotate(*SMALL, "output=one")[0] == 0
    assert unit_names(folder / "out") == unit_names(folder / "one")
    assert lasting(rows(folder / "out"), "run_id") == lasting(rows(folder / "one"), "run_id")


@pytest.mark.slow
def test_compare_takes_slices_and_compares_without_one(folder, capsys):
    command = [*SMALL, "arms=[full,trim]", "source.path=pictures", "output=out", "compare.resamples=10"]
    with without_ray():
        for which in ("0/2", "1/2"):
            assert run_command("compare", [*command, f"slice={which}"]) == 0
            lines = capsys.readouterr().out.splitlines()
            then = "trimline finish output=out, then this command without slice compares"
            for arm in ("full", "trim"):
                (line,) = (line for line in lines if line.startswith(f"{arm}: slice {which}: "))
                assert line.endswith(f"when all slices are done: {then}")
        assert not (folder / "out" / "comparison.json").exists()
        assert run_command("finish", ["output=out"]) == 0
        assert run_command("compare", command) == 0
    assert (folder / "out" / "comparison.json").exists()
