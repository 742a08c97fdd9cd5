"""report.html and report.txt as files: their size, their words, and refused inputs."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.compare.compare import compare_outputs
from pipeline.compare.terminal import comparison_tables, summary_text
from pipeline.report.page import embedded
from pipeline.report.write import gather_report, write_report_files
from pipeline.run.prepare import prepare
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.words import duration, figure_text, interval_text, number, percent, size, times
from tests.pipeline.report.compared import ARMS, configure, make_rows
from tests.support.s3 import BUCKET

MOST_BYTES = 10_000_000


@pytest.mark.slow
def test_a_hundred_thousand_requests_fit_into_ten_megabytes(outputs, tmp_path, random_checkpoint):
    """The worst case: pictures of noise, and long answers in characters that JSON escapes."""
    images, rows, folder = 40, 100_000, tmp_path / "compared"
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for index in range(images):
        noise = Image.fromarray(rng.integers(0, 256, (336, 336, 3), np.uint8))
        noise.save(tmp_path / "in" / f"{index:03d}.jpg")
    prepare(configure(tmp_path / "in", folder, random_checkpoint))
    digests = [_sha256(tmp_path / "in" / f"{index:03d}.jpg") for index in range(images)]
    predictions = ["画" * 3000 if row % 200 == 0 else "yes" for row in range(rows)]
    columns = {f"kept_patches.{arm}": [bytes(72)] * rows for arm in ARMS}
    columns |= {"key": [f"000000-{row % images:08d}-{row // images:04d}" for row in range(rows)]}
    columns |= {
        "image_sha256": [digests[row % images] for row in range(rows)],
        "prediction.trim": predictions,
    }
    make_rows(folder, rows, tuple(ARMS), **columns)
    shutil.copy(outputs / "comparison.json", folder)
    html, text = write_report_files(str(folder), Storage(), gallery=2000, seed=0)
    content = (folder / "report.html").read_bytes()
    assert html == f"{folder}/report.html" and text == f"{folder}/report.txt"
    assert 8_000_000 < len(content) < MOST_BYTES
    assert content.count(b"data:image/webp") > 20
    assert b"more did not fit into this file" in content


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_text_holds_the_same_figures(comparison, run):
    figures = json.loads((comparison / "comparison.json").read_text())
    text = (comparison / "report.txt").read_text()
    kept = figures["arms"]["trim"]["tokens"]["visual_tokens_kept"]["mean"]["value"]
    same = figures["pairs"]["trim"]["normalised_agreement"]["value"]
    assert f"{kept:.0f} of 576" in text
    assert f"the same answer to {percent(same)} of the requests" in text
    assert "EUR" in text and "bad_image" in text and "000000-00000005-0000" in text
    assert f"{kept:.0f} of 576" in (run / "report.txt").read_text()
    for report in (text, (run / "report.txt").read_text()):
        assert "\x1b" not in report and all(line == line.rstrip() for line in report.splitlines())


def test_terminal_and_page_report_the_same_agreement(outputs, tmp_path):
    """TRIM's answers equal those of all tokens, except for case and a full stop in some rows."""
    copy = tmp_path / "copy"
    shutil.copytree(outputs, copy)
    for file in sorted((copy / "full" / "data").iterdir()):
        predictions = [text and "a red ring" for text in pq.read_table(file)["prediction"].to_pylist()]
        for arm, answers in (
            ("full", predictions),
            ("a third", predictions),
            ("trim", ["A red ring.", *predictions[1:]]),
        ):
            path = copy / arm / "data" / file.name
            unit = pq.read_table(path)
            place = unit.schema.get_field_index("prediction")
            column = pa.array(answers, pa.string())
            pq.write_table(unit.set_column(place, unit.schema.field(place), column), path)
    comparison = compare_outputs(
        {name: str(copy / name) for name in ARMS},
        place=str(copy),
        storage=Storage(),
        baseline="full",
        resamples=0,
    )
    pair = comparison.pairs["trim"]
    same, exact = pair.normalised_agreement["value"], pair.exact_agreement["value"]
    assert same == 1 and exact < 1
    terminal = summary_text(comparison).split("\ntrim: ")[1].splitlines()[1]
    assert "the same answer to 100 % of the requests" in terminal
    rows = dict(row[:2] for table in comparison_tables(comparison) for row in table.rows)
    assert rows["trim: same answer"] == same and rows["trim: letter for letter"] == exact
    write_report_files(str(copy), Storage(), gallery=0, seed=0)
    page = (copy / "report.html").read_text().replace("\xa0", " ")
    for report in (page, (copy / "report.txt").read_text()):
        assert "the same answer to 100 % of the requests" in report
        assert f"letter for letter: {percent(exact)}" in report


def test_interleaved_arms_bring_no_warning(comparison):
    figures = json.loads((comparison / "comparison.json").read_text())
    assert figures["interleaved"] is True
    assert figures["notes"] == [
        "Rows failed in trim, a third, full: they are charged to the requests that were answered."
    ]
    assert "interleaved arms share their processes" in (comparison / "report.txt").read_text()


def test_a_run_has_the_figures_of_its_comparison(comparison):
    alone = gather_report(str(comparison / "trim"), Storage(), gallery=0, seed=0)
    alone = alone.comparison.to_json()["arms"]["trim"]
    compared = json.loads((comparison / "comparison.json").read_text())["arms"]["trim"]
    for name in ("status", "histogram", "kv_cache_bytes", "peak_memory_bytes", "run_id", "model"):
        assert alone[name] == compared[name], name
    for name, stage in alone["seconds"].items():
        assert math.isclose(stage["mean"]["value"], compared["seconds"][name]["mean"]["value"]), name


@pytest.mark.parametrize(
    ("scores", "notes"),
    [
        ({}, []),  # of 0.1.0
        ({"cut_off": 0, "max_new_tokens": 64, "published_max_new_tokens": 1024}, []),
        (
            {"cut_off": 2, "max_new_tokens": 64, "published_max_new_tokens": 1024},
            ["2 answers were cut off at decoding.max_new_tokens=64, where published runs have 1024."],
        ),
    ],
)
def test_a_runs_report_tells_of_answers_cut_off(comparison, tmp_path, scores, notes):
    shutil.copytree(comparison / "trim", tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"figures": {}, "groups": {}, **scores}))
    assert gather_report(str(tmp_path / "run"), Storage(), gallery=0, seed=0).notes == notes


def test_scores_are_reported(comparison, tmp_path):
    shutil.copytree(comparison, tmp_path / "scored")
    figures = json.loads((comparison / "comparison.json").read_text())
    for place, arm in enumerate(figures["arms"].values()):
        accuracy = {"value": 0.5 + place / 10, "low": 0.4, "high": 0.8}
        arm["figures"] = {"figures": {"accuracy": accuracy, "cider": {"value": 1.25}}, "groups": {}}
    for pair in figures["pairs"].values():
        pair["score_difference"] = {"value": -0.012, "low": -0.03, "high": 0.006}
        pair["figure_differences"] = {"accuracy": pair["score_difference"], "cider": {"value": -0.25}}
        pair["mcnemar"] = {"b": 3, "c": 1, "p": 0.625}
    (tmp_path / "scored" / "comparison.json").write_text(json.dumps(figures))
    write_report_files(str(tmp_path / "scored"), Storage(), gallery=2, seed=0)
    html = (tmp_path / "scored" / "report.html").read_text()
    for part in (html.replace("\xa0", " "), (tmp_path / "scored" / "report.txt").read_text()):
        assert "−1.2 pp (−3.0 to +0.6 pp)" in part and "0.625" in part
        assert "50.0 % (40.0 to 80.0 %)" in part and "1.25" in part and "−0.25" in part


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    tree = json.loads((folder / "comparison.json").read_text())
    change(tree)
    (folder / "comparison.json").write_text(json.dumps(tree))


def test_a_comparison_of_an_older_version_has_its_report(comparison, tmp_path):
    """Keys of later versions are missing, and there is an unknown key."""
    for name in ("comparison.parquet", "full", "trim", "a third"):
        (tmp_path / name).symlink_to(comparison / name)
    shutil.copy(comparison / "comparison.json", tmp_path)
    edit(tmp_path, lambda tree: [tree.pop("interleaved"), tree.pop("notes"), tree.update(unknown={"a": 1})])
    edit(tmp_path, lambda tree: [arm.pop("moved_bytes") for arm in tree["arms"].values()])
    report = gather_report(str(tmp_path), Storage(), gallery=0, seed=0)
    assert (report.comparison.interleaved, report.notes) == (None, [])
    assert report.cards == gather_report(str(comparison), Storage(), gallery=0, seed=0).cards


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "full"), "full is no output of Trimline"),
        (lambda folder: (folder / "comparison.json").write_text("{"), "comparison.json in .* is damaged"),
        (lambda folder: edit(folder, lambda tree: tree.pop("baseline")), "comparison.json in .* is damaged"),
        (
            lambda folder: edit(folder, lambda tree: tree["arms"].update(trim=3)),
            "comparison.json in .* is damaged",
        ),
        (lambda folder: (folder / "comparison.parquet").write_text("?"), "output: .*parquet"),
        (
            lambda folder: (folder / "comparison.json").unlink(),
            "is no output of Trimline: it has no run.json",
        ),
    ],
)
def test_a_damaged_comparison_is_refused(outputs, tmp_path, damage, message):
    shutil.copytree(outputs, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(ConfigError, match=message) as caught:
        write_report_files(str(tmp_path / "copy"), Storage(), gallery=5, seed=0)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_not_finished_is_refused(outputs, tmp_path):
    shutil.copytree(outputs / "trim", tmp_path / "run")
    next((tmp_path / "run" / "data").glob("*-end.parquet")).unlink()
    with pytest.raises(ConfigError, match="is not finished: 1 of 1 shards are not"):
        write_report_files(str(tmp_path / "run"), Storage(), gallery=5, seed=0)


def test_without_its_model_an_output_has_a_report_without_pictures(outputs, tmp_path):
    shutil.copytree(outputs / "trim", tmp_path / "run")
    tree = json.loads((tmp_path / "run" / "run.json").read_text())
    tree["configuration"]["model"]["path"] = "/nowhere/model"
    (tmp_path / "run" / "run.json").write_text(json.dumps(tree))
    gallery = gather_report(str(tmp_path / "run"), Storage(), gallery=5, seed=0).gallery
    assert len(gallery.items) == 5 and gallery.pictures == []


def test_the_report_of_a_run_in_object_storage_is_stored_with_it(run, s3):
    fs, bucket = s3.open(f"s3://{BUCKET}")
    fs.put(str(run), f"{bucket}/reported", recursive=True)
    paths = write_report_files(f"s3://{BUCKET}/reported", s3, gallery=200, seed=0)
    assert paths == [f"s3://{BUCKET}/reported/report.html", f"s3://{BUCKET}/reported/report.txt"]
    assert fs.cat_file(f"{bucket}/reported/report.html") == (run / "report.html").read_bytes()


def test_embedded_data_cannot_end_its_element():
    text = embedded({"</script>": [math.nan, math.inf, "<!--<script>", "\u2028\ud800"]})
    assert "<" not in text
    assert json.loads(text) == {"</script>": [None, None, "<!--<script>", "\u2028\ud800"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(576), "576"),
        (number(1234567.8), "1,234,568"),
        (number(0.06251), "0.0625"),
        (number(3.1e-6), "3.1e-06"),
        (percent(0.2118), "21.2 %"),
        (percent(1.0), "100 %"),
        (duration(1.234), "1.23 s"),
        (duration(0.0004), "400 µs"),
        (duration(0), "0 s"),
        (duration(12345), "12,345 s"),
        (size(576 * 1024), "576 KiB"),
        (size(3 << 30), "3 GiB"),
        (times(0.449), "0.45 ×"),
        (interval_text({"value": 1, "low": 0.4, "high": 0.5}, times), "0.40 to 0.50 ×"),
        (interval_text({"value": 1, "low": 0.9, "high": 1.1}, duration), "900 ms to 1.1 s"),
        (interval_text(None), ""),
        (figure_text(None), "–"),
        (figure_text({"value": 2.0}), "2"),
    ],
)
def test_figures_in_words(text, expected):
    assert text == expected
