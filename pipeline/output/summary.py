"""summary.json: what an output holds, read from its footers alone."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.support.errors import RunError
from pipeline.output.plan import Plan
from pipeline.support.schema import COUNTS, SECONDS
from pipeline.output.footers import FOOTER
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.parallel import THREADS, each
from pipeline.output.units import Finished
from pipeline.output.footers import read_footers

_MOST_SHARDS_NAMED = 100


@dataclass
class _Sums:
    units: int = 0
    samples: int = 0
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed_shards: list[dict[str, Any]] = field(default_factory=list)

    def add(self, footer: dict[str, Any]) -> None:
        totals = footer["totals"]
        self.units += 1
        self.samples += footer["stop"] - footer["first"]
        self.rows += totals["rows"]
        self.status.update(totals["status"])
        self.tokens.update({name: totals[name] for name in COUNTS})
        self.seconds.update({name: totals[name] for name in SECONDS})
        self.nodes[footer["stages"]["generate"]["node"]] += totals["rows"]
        begin, end = self.spans.get(footer["attempt"], (footer["start"], footer["end_time"]))
        self.spans[footer["attempt"]] = (min(begin, footer["start"]), max(end, footer["end_time"]))
        if footer["shard_error"]:
            self.failed_shards.append({"shard": footer["shard"], "error": footer["shard_error"]})






def take_back_success(output: str, storage: Storage) -> None:
    """Remove the mark of an earlier end: the output has grown since, lost a file, or is measured anew."""
    fs, folder = storage.open(output)
    if fs.exists(f"{folder}/_SUCCESS"):
        fs.rm_file(f"{folder}/_SUCCESS")


def _require_same_shard(footer: dict[str, Any], plan: Plan) -> None:
    """Refuse a unit of a shard that was mended since: a retry was stopped before it could delete it."""
    shard = footer["shard"]
    line = plan.line(shard) if shard < len(plan) else {"size": None, "etag": None}
    if (footer["source_size"], footer["source_etag"]) != (line["size"], line["etag"]):
        raise RunError(
            f"samples {footer['first']} to {footer['stop']} of shard {shard} are of another state of it than "
            "the plan's: `trimline verify output=... repair=true` removes them, a rerun makes them again"
        )


def summarise(folder: str, plan: Plan, finished: Finished, storage: Storage) -> dict[str, Any]:
    """Build summary.json of an output and write it; RunError if a unit is not of the plan's shard."""
    sums = _Sums()
    for footer in read_footers(folder, finished, storage):
        _require_same_shard(footer, plan)
        sums.add(footer)
    active_s = sum(end - begin for begin, end in sums.spans.values())
    ok = sums.status["ok"]
    shards_done = sum(finished.has_shard(ordinal) for ordinal in range(len(plan)))
    full, kept = sums.tokens["visual_tokens_full"], sums.tokens["visual_tokens_kept"]
    summary = {
        "source": plan.source,
        "shards": len(plan),
        "shards_finished": shards_done,
        "units": sums.units,
        "samples": sums.samples,
        "rows": sums.rows,
        "status": dict(sums.status),
        "tokens": {**sums.tokens, "kept_fraction": kept / full if full else None},
        "mean_visual_tokens_kept": kept / ok if ok else None,
        "stage_seconds": dict(sums.seconds),
        "active_seconds": active_s,
        "samples_per_s": sums.samples / active_s if active_s else None,
        "requests_per_s": sums.rows / active_s if active_s else None,
        "starts": len(sums.spans),
        "rows_by_node": dict(sums.nodes),
        "failed_shards": len(sums.failed_shards),
        "failed_shards_named": sums.failed_shards[:_MOST_SHARDS_NAMED],
    }
    fs, path = storage.open(folder)
    write_atomic(fs, f"{path}/summary.json", storage.hide(json.dumps(summary, indent=2)).encode())
    return summary
