"""`trimline benchmark`: what it prints, what it writes, what it refuses."""

import json

import pytest

from jobs.entry import run_command
from pipeline.benchmark import driver_memory, reduction
from pipeline.benchmark.table import SPREAD, Table, show, spread


def test_a_table_is_plain_text_where_there_is_no_terminal(capsys):
    note = "a [note] that is longer than any terminal is wide, and that a pipe must not find folded, " * 3
    rows = [("bare loop", *spread([12.0, 0.5, 1234.5])), ("[pipe]ing", *spread([3.0]))]
    show(Table("speed [a/b]", ("", *SPREAD), rows, (note.strip(),)))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "speed [a/b]",
        "           median    min    max              rounds",
        "bare loop    12.0  0.500  1,234  12.0  0.500  1,234",
        "[pipe]ing    3.00   3.00   3.00                3.00",
        note.strip(),
    ]


def test_a_table_has_a_frame_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(Table("counts", ("what", "how many"), [("units", 12345), ("shards", "some")]))
    told = capsys.readouterr().out
    assert "│ units  │   12,345 │" in told
    assert "╰────────┴──────────╯" in told


def test_every_part_has_its_table(capsys):
    runs = [{"requests": 5000, "units": 10, "peak_bytes": 3 << 28}]
    show(driver_memory.table({"runs": runs, "ratio": 1.0}))
    cost = {"images": 64, "dtype": "float32", "reduce_s": 0.25, "vit_s": 100.0, "share": 0.0025}
    show(reduction.table(cost))
    told = capsys.readouterr().out
    assert "5,000 requests     10       768" in told
    assert "TRIM                       0.250" in told
    assert "TRIM takes 0.25% of the forward pass" in told


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("benchmark.name=speed", "there is: pipeline"),
        ("benchmark.parts=[efficiency,speed]", "['speed'] not among"),
        ("benchmark.rounds=0", "rounds must be at least 1"),
        ("benchmark.samples=3", "samples must be at least 4"),
        ("benchmark.driver_requests=[]", "driver_requests must not be empty"),
        ("benchmark.json=nowhere/figures.json", "benchmark.json: "),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(folder, capfd, override, reason):
    assert run_command("benchmark", [override]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("trimline benchmark: ")
    assert reason in told.err
    assert told.err.count("\n") == 1


@pytest.mark.slow
def test_efficiency_is_measured_printed_and_written(folder, capfd):
    import ray

    part = ["benchmark.parts=[efficiency]", "benchmark.samples=4", "benchmark.rounds=1", "unit_samples=1"]
    small = ["benchmark.side=32", "decoding.max_new_tokens=1", "device=cpu", "benchmark.json=figures.json"]
    threads = ["cluster.encode.threads=1", "cluster.generate.threads=1"]
    try:
        assert run_command("benchmark", [*part, *small, *threads]) == 0
    finally:
        ray.shutdown()
    told = capfd.readouterr().out
    written = json.loads((folder / "figures.json").read_text())
    assert written["machine"]["cores"] >= 1
    figures = written["efficiency"]
    assert (figures["requests"], figures["units"], len(figures["bare"])) == (4, 4, 1)
    assert figures["efficiency_rounds"] == [figures["efficiency"]]
    rates = figures["pipeline_requests_per_s"], figures["bare_requests_per_s"]
    assert figures["efficiency"] == pytest.approx(rates[0] / rates[1])
    assert "efficiency: requests per second" in told
    assert "pipeline / bare loop" in told
    assert "4 requests in 4 units a round" in told
