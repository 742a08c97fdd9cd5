"""`trimline benchmark`: printed tables, the JSON file, refused options."""

import json

import pytest

from jobs.common.entry import run_command
from pipeline.benchmark import driver_memory
from pipeline.benchmark.gauges import machine
from pipeline.models.devices import torch_device
from pipeline.support.table import SPREAD, Table, show, spread_cells
from tests.support.pretended_cuda import pretended_cuda


def test_a_table_is_plain_text_without_a_terminal(capsys):
    note = "a [note] that is longer than any terminal is wide, and that a pipe must not find folded, " * 3
    rows = [("bare loop", *spread_cells([12.0, 0.5, 1234.5])), ("[pipe]ing", *spread_cells([3.0]))]
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
    printed = capsys.readouterr().out
    assert "│ units  │   12,345 │" in printed
    assert "╰────────┴──────────╯" in printed


def test_driver_memory_has_a_table(capsys):
    runs = [
        {"requests": 5000, "units": 10, "peak_bytes": 3 << 28, "seconds_a_unit": 0.05, "driver_cpu_s": 0.0123}
    ]
    show(driver_memory.table({"runs": runs, "ratio": 1.0}))
    printed = capsys.readouterr().out
    assert "5,000 requests     10       768       50.0                  12.3" in printed


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("benchmark.name=speed", "there is: pipeline"),
        ("benchmark.parts=[efficiency,speed]", "['speed'] not among"),
        ("benchmark.rounds=0", "rounds must be at least 1"),
        ("benchmark.samples=3", "samples must be at least 4"),
        ("benchmark.driver_requests=[]", "driver_requests must not be empty"),
        ("benchmark.driver_actors=[1]", "driver_actors must be at least 2 each"),
        ("benchmark.json=nowhere/figures.json", "benchmark.json: "),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(folder, capfd, override, reason):
    assert run_command("benchmark", [override]) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("trimline benchmark: ")
    assert reason in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("own", ["clip_text: {text: bare}", "engine: {max_batch: 2}", "budget_of: trim"])
def test_settings_of_an_arm_that_are_not_measured_are_refused(folder, capfd, own):
    arms = f"benchmark.arms={{trim: {{}}, cdpruner: {{{own}}}}}"
    assert run_command("benchmark", ["benchmark.name=end_to_end", arms]) == 2
    key = own.partition(":")[0]
    assert capfd.readouterr().err == (
        f"trimline benchmark: benchmark: arm cdpruner has {key}, which is not measured here\n"
    )


@pytest.mark.slow
def test_efficiency_is_measured_printed_and_written(ray, folder, capfd):
    part = ["benchmark.parts=[efficiency]", "benchmark.samples=4", "benchmark.rounds=1", "unit_samples=1"]
    small = ["benchmark.side=32", "decoding.max_new_tokens=1", "device=cpu", "benchmark.json=figures.json"]
    threads = ["cluster.encode.threads=1", "cluster.generate.threads=1"]
    assert run_command("benchmark", [*part, *small, *threads]) == 0
    printed = capfd.readouterr().out
    written = json.loads((folder / "figures.json").read_text())
    assert written["machine"]["cores"] >= 1
    figures = written["efficiency"]
    assert (figures["requests"], figures["units"], len(figures["bare"])) == (4, 4, 1)
    assert figures["efficiency_rounds"] == [figures["efficiency"]]
    rates = figures["pipeline_requests_per_s"], figures["bare_requests_per_s"]
    assert figures["efficiency"] == pytest.approx(rates[0] / rates[1])
    assert "efficiency: requests per second" in printed
    assert "pipeline / bare loop" in printed
    assert "4 requests in 4 units a round" in printed


@pytest.mark.slow
def test_questions_and_workers_are_measured_printed_and_written(ray, folder, capfd):
    part = ["benchmark.parts=[questions,workers]", "benchmark.rounds=1", "benchmark.question_images=3"]
    small = ["benchmark.samples=8", "benchmark.side=32", "unit_samples=1", "decoding.max_new_tokens=1"]
    assert run_command("benchmark", [*part, *small, "device=cpu", "benchmark.json=figures.json"]) == 0
    printed = capfd.readouterr().out
    written = json.loads((folder / "figures.json").read_text())
    seconds = written["questions"]["seconds_a_request"]
    assert written["questions"]["ratio"] == pytest.approx(seconds["10"][0] / seconds["1"][0])
    rates = written["workers"]["requests_per_s"]
    assert written["workers"]["speedup"] == pytest.approx(rates["2"][0] / rates["1"][0])
    assert "questions: encode seconds a request, demo" in printed
    assert "workers: requests per second" in printed


@pytest.mark.demo
def test_the_demo_takes_arms_as_a_comparison_does(folder, capfd):
    reducers = "{trim_cover: {diversity: [0.1, 1.0]}, apart: {reducer: divprune, num_kept: 9}}"
    arms = f"benchmark.demo_reducers={reducers}"
    options = ["benchmark.name=demo", "benchmark.demo_pictures=1", "benchmark.demo_budgets=[64]"]
    assert run_command("benchmark", [arms, *options, "benchmark.json=figures.json"]) == 0
    printed = capfd.readouterr().out
    arm_figures = json.loads((folder / "figures.json").read_text())["demo"]["arms"]
    for name in ("trim_cover-diversity=0.1", "trim_cover-diversity=1.0", "apart"):
        assert name in printed
        assert arm_figures[name]["kept"] == arm_figures["trim"]["kept"]
        assert arm_figures[f"{name}_64"]["kept"] == 64


@pytest.mark.slow
def test_decoding_is_measured_by_format_and_size(folder, capfd):
    options = ["benchmark.name=decode", "benchmark.decode_sides=[64,3200]", "benchmark.rounds=1"]
    assert run_command("benchmark", [*options, "benchmark.json=figures.json"]) == 0
    assert "JPEG 3200 x 2400" in capfd.readouterr().out
    rows = json.loads((folder / "figures.json").read_text())["decode"]["rows"]
    differences = {(row["format"], row["side"]): row["mean_difference"] for row in rows}
    assert len(differences) == 6
    assert 0 < differences["JPEG", 3200] < 0.5
    assert {value for name, value in differences.items() if name != ("JPEG", 3200)} == {0}


def test_the_head_names_the_gpu_only_if_a_part_computes_on_it(folder, capfd):
    decode = ["benchmark.name=decode", "benchmark.decode_sides=[32]", "benchmark.rounds=1"]
    with pretended_cuda():
        assert run_command("benchmark", [*decode, "device=cuda"]) == 0
        assert machine(torch_device("auto"))["gpu"] == "NVIDIA H100"
        assert machine(torch_device("cpu"))["gpu"] is None
    assert ", no GPU used\n" in capfd.readouterr().out


def test_a_device_that_is_not_there_is_refused(folder, capfd):
    assert run_command("benchmark", ["benchmark.name=reducers", "device=cuda"]) == 2
    assert "device=cuda: torch" in capfd.readouterr().err
