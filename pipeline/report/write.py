"""Writes the report of a folder: of the comparison in it, or of a single run."""

import json
from dataclasses import replace

from pipeline.compare.comparison import Comparison
from pipeline.output.layout import COMPARISON, REPORT_PAGE, REPORT_TEXT, require_arm_names
from pipeline.output.opened import open_output
from pipeline.report.choose import select_requests
from pipeline.report.gallery import make_gallery
from pipeline.report.headline import cards
from pipeline.report.measure import measure_run
from pipeline.report.page import Report, to_html, to_text
from pipeline.report.pictures import images_of
from pipeline.report.rows import requests_of_comparison, requests_of_run
from pipeline.report.tables import failure_tables, figure_tables, status_table, worst_tables
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.errors import ConfigError

_MOST = 2000  # more do not fit into the page


def write_report_files(
    folder: str, storage: Storage, reading: Storage | None = None, *, gallery: int, seed: int
) -> list[str]:
    """Write report.html and report.txt into the folder of a finished run or comparison; returns their paths.

    Args:
        storage, reading: how to reach the output and the source; None: both the same way.
        gallery: the number of requests to show with their pictures, as far as a page of 10 MB holds them.
        seed: of the sample of these requests.

    Raises:
        ConfigError: the folder holds neither, or the run or comparison is not finished or damaged.
    """
    folder = folder.rstrip("/")
    report = gather_report(folder, storage, reading, gallery=gallery, seed=seed)
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        for name, text in ((REPORT_PAGE, to_html(report)), (REPORT_TEXT, to_text(report))):
            write_atomic(fs, f"{path}/{name}", text.encode("utf-8", "replace"))
    return [f"{folder}/{name}" for name in (REPORT_PAGE, REPORT_TEXT)]


def gather_report(
    folder: str, storage: Storage, reading: Storage | None = None, *, gallery: int, seed: int
) -> Report:
    """Gather a report's content; reads every row once, and the gallery's rows and images again."""
    comparison = _read_comparison(folder, storage)
    if comparison is None:
        output = open_output(folder, storage).require_finished()
        requests = requests_of_run(output)
        figures = measure_run(requests, output)
    else:
        output = open_output(f"{folder}/{comparison.baseline}", storage)
        requests = requests_of_comparison(folder, list(comparison.arms), storage)
        figures = comparison
    selection = select_requests(
        requests,
        storage,
        most=min(gallery, _MOST),
        seed=seed,
        shards=len(output.plan),
        first=[answer.key for pair in figures.pairs.values() for answer in pair.worst],
    )
    return Report(
        title="Trimline comparison" if comparison else "Trimline run",
        about=f"{figures.requests:,} requests from {storage.redact(figures.source)}",
        cards=cards(figures),
        comparison=figures,
        tables=figure_tables(figures),
        status=status_table(figures),
        failures=failure_tables(selection.examples),
        worst=worst_tables(figures.pairs),
        gallery=make_gallery(requests, selection.keys, images_of(output, reading), storage),
        kinds=selection.kinds,
        notes=[storage.redact(note) for note in figures.notes],
    )


def _read_comparison(folder: str, storage: Storage) -> Comparison | None:
    """Read comparison.json, with the baseline first among the arms; None if there is no file."""
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        data = read_bytes(fs, f"{path}/{COMPARISON}")
    if data is None:
        return None
    try:
        comparison = Comparison.from_json(json.loads(data))
        require_arm_names(comparison.arms)
        baseline = str(comparison.baseline)
        return replace(comparison, arms={baseline: comparison.arms[baseline]} | comparison.arms)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(
            f"{COMPARISON} in {storage.redact(folder)} is damaged or of another version"
        ) from None
