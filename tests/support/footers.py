"""Make footers without unit files, to test what is computed from footers."""

from dataclasses import replace
from typing import Any

from pipeline.output.footers import Footer
from pipeline.support.schema import COUNTS, SECONDS

_VISIT = {"node": "here", "pid": 1, "peak_memory_bytes": 1, "startup_s": 0.0}


def footer_of(
    *, totals: dict[str, Any] | None = None, stages: dict[str, dict[str, Any]] | None = None, **values: Any
) -> Footer:
    """Make a footer with these values; other totals are 0, and visits need `start` and `end`."""
    blank = {"rows": 0, "samples": 0, "status": {}, **dict.fromkeys((*COUNTS, *SECONDS), 0)}
    lasting = {
        **{"schema_version": 1, "fingerprint": "f", "shard": 0, "first": 0, "stop": 0, "end": False},
        **{"source_size": 1, "source_etag": "e", "source_bytes": 1, "image_bytes": 1, "shard_error": None},
        **{"attempt": "1", "start": 0.0, "end_time": 0.0},
    }
    visits = {stage: _VISIT | visit for stage, visit in (stages or {}).items()}
    return Footer.from_json({**lasting, **values, "totals": blank | (totals or {}), "stages": visits})


def with_visit(footer: Footer, stage: str, **changes: Any) -> Footer:
    """Copy the footer with some values of one visit changed."""
    return replace(footer, stages=footer.stages | {stage: replace(footer.stages[stage], **changes)})
