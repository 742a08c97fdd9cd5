"""From a folder to its report: a run's own figures, or those of the comparison that lies there."""

import json
from typing import Any

from pipeline.output.opened import COMPARISON
from pipeline.output.plan import load_plan
from pipeline.report.choose import choose
from pipeline.report.gallery import make_gallery
from pipeline.report.headline import cards
from pipeline.report.measure import measure
from pipeline.report.page import Report, to_html, to_text
from pipeline.report.pictures import open_output
from pipeline.report.rows import Requests, of_comparison, of_run
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
        for name, text in (("report.html", to_html(report)), ("report.txt", to_text(report))):
            write_atomic(fs, f"{path}/{name}", text.encode("utf-8", "replace"))
    return [f"{folder}/report.html", f"{folder}/report.txt"]


def gather(folder: str, storage: Storage, *, gallery: int, seed: int) -> Report:
    """Everything that a report shows; reads every row once, and the gallery's rows and images again."""
    compared = _comparison(folder, storage)
    if compared is None:
        figures, requests, output = _of_run(folder, storage)
    else:
        figures, requests, output = _of_comparison(folder, compared, storage)
    plan = load_plan(output, storage)
    if plan is None:
        raise ConfigError(f"output: {storage.redact(output)} is no output of Trimline: it has no plan")
    chosen = choose(
        requests,
        storage,
        most=min(gallery, _MOST),
        seed=seed,
        shards=len(plan),
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
        gallery=make_gallery(requests, chosen.keys, open_output(output, storage), storage),
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


def _of_comparison(
    folder: str, figures: dict[str, Any], storage: Storage
) -> tuple[dict[str, Any], Requests, str]:
    requests = of_comparison(folder, list(figures["arms"]), storage)
    return figures, requests, f"{folder}/{figures['baseline']}"


def _of_run(folder: str, storage: Storage) -> tuple[dict[str, Any], Requests, str]:
    requests = of_run(folder, storage)
    plan = load_plan(folder, storage)
    assert plan is not None, "an output whose shards are finished has a plan"
    return measure(requests, plan.source, storage), requests, folder
