"""From a folder to its report: a run's own figures, or those of the comparison that lies there."""

import json
from typing import Any

from pipeline.output.layout import COMPARISON, REPORT_PAGE, REPORT_TEXT
from pipeline.output.opened import open_output
from pipeline.report.choose import choose
from pipeline.report.gallery import make_gallery
from pipeline.report.headline import cards
from pipeline.report.measure import measure
from pipeline.report.page import Report, to_html, to_text
from pipeline.report.pictures import images_of
from pipeline.report.rows import of_comparison, of_run
from pipeline.report.tables import failure_tables, figure_tables, status_table, worst_tables
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.errors import ConfigError

_MOST = 2000  # more do not fit into the page


def write_report(folder: str, storage: Storage, *, gallery: int, seed: int) -> list[str]:
    """Write report.html and report.txt into the folder of a finished run or comparison; returns their paths.

    Args:
        gallery: how many requests are shown with their pictures, as far as they fit into a page of 10 MB.
        seed: of their choice.

    Raises:
        ConfigError: the folder holds neither, or what it holds is not finished or damaged.
    """
    folder = folder.rstrip("/")
    report = gather(folder, storage, gallery=gallery, seed=seed)
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        for name, text in ((REPORT_PAGE, to_html(report)), (REPORT_TEXT, to_text(report))):
            write_atomic(fs, f"{path}/{name}", text.encode("utf-8", "replace"))
    return [f"{folder}/{name}" for name in (REPORT_PAGE, REPORT_TEXT)]


def gather(folder: str, storage: Storage, *, gallery: int, seed: int) -> Report:
    """Everything that a report shows; reads every row once, and the gallery's rows and images again."""
    compared = _comparison(folder, storage)
    if compared is None:
        output = open_output(folder, storage).require_finished()
        requests = of_run(output)
        figures = measure(requests, output)
    else:
        output = open_output(f"{folder}/{compared['baseline']}", storage)
        requests = of_comparison(folder, list(compared["arms"]), storage)
        figures = compared
    chosen = choose(
        requests,
        storage,
        most=min(gallery, _MOST),
        seed=seed,
        shards=len(output.plan),
        first=[one["key"] for pair in figures["pairs"].values() for one in pair.get("worst") or ()],
    )
    return Report(
        title="Trimline comparison" if compared else "Trimline run",
        about=f"{figures['requests']:,} requests from {storage.redact(str(figures['source']))}",
        cards=cards(figures),
        figures=figures,
        tables=figure_tables(figures),
        status=status_table(figures),
        failures=failure_tables(chosen.examples),
        worst=worst_tables(figures["pairs"]),
        gallery=make_gallery(requests, chosen.keys, images_of(output), storage),
        kinds=chosen.kinds,
        notes=[storage.redact(str(note)) for note in figures.get("notes") or ()],
    )


def _comparison(folder: str, storage: Storage) -> dict[str, Any] | None:
    """The content of comparison.json with the baseline first among the arms; None if there is none."""
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        data = read_bytes(fs, f"{path}/{COMPARISON}")
    if data is None:
        return None
    try:
        found = json.loads(data)
        arms, baseline = found["arms"], found["baseline"]
        ordered = {baseline: arms[baseline]} | arms
        return {**found, "arms": ordered, "pairs": found.get("pairs") or {}}
    except (ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{COMPARISON} in {storage.redact(folder)} is damaged or of another version"
        ) from None
