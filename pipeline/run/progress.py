"""Shows the live progress of a run: a display on a terminal, one line every few seconds elsewhere."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.stages.write import UnitStats
from pipeline.support import log

_LINE_EVERY_S = 5.0
_RATE_AFTER_S = 1.0  # over less time than this, a rate depends on the first units alone


@dataclass
class Progress:
    """Counts finished units, and estimates the remaining time from source bytes."""

    total_bytes: int
    known_samples: int | None  # None until every shard has been read to its end
    samples: int = 0
    rows: int = 0
    failed: int = 0
    status: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    reduced_rows: int = 0
    done_bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    steady_since: float | None = None  # when the first unit came: start-up must not count in the rate
    steady_samples: int = 0
    steady_bytes: int = 0

    def __post_init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._last_line = self.started
        self._is_shown = True  # whether the last line includes every unit

    def __enter__(self) -> Self:
        if self._console.is_terminal and not log.is_json():
            self._live = Live(
                get_renderable=self._text, console=self._console, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self._is_shown:
            self._show()

    def add(self, stats: UnitStats) -> None:
        """Count one unit."""
        now = time.monotonic()
        self.samples += stats.samples
        self.done_bytes += stats.source_bytes
        if self.steady_since is None:
            self.steady_since = now
        else:
            self.steady_samples += stats.samples
            self.steady_bytes += stats.source_bytes
        for totals in stats.totals:
            self.rows += totals.rows
            self.failed += totals.rows - totals.ok
            self.status.update(totals.status)
            self.kept += totals.tokens["visual_tokens_kept"]
            self.reduced_rows += totals.ok
        self._is_shown = False
        if self._live is None and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._show()

    def _show(self) -> None:
        self._is_shown = True
        if log.is_json():
            log.event("progress", **self.counts())
        else:
            print(self.line(), file=sys.stderr, flush=True)

    def counts(self) -> dict[str, Any]:  # of a log event
        """Return counts, rate and remaining seconds as data; the rate is since the first unit."""
        elapsed = self._elapsed()
        return {
            "samples": self.samples,
            "samples_in_all": self.known_samples,
            "rows": self.rows,
            "status": dict(self.status),
            "samples_per_s": self.steady_samples / elapsed if elapsed else None,
            "left_s": self._left_s(elapsed) if elapsed else None,
            "mean_visual_tokens_kept": self.kept / self.reduced_rows if self.reduced_rows else None,
        }

    def line(self) -> str:
        """Describe counts, rate and remaining time in one line."""
        if self.steady_since is None:
            return f"starting, {time.monotonic() - self.started:.0f} s"
        elapsed = self._elapsed()
        known = "" if self.known_samples is None else f"/{self.known_samples:,}"
        parts = [f"{self.samples:,}{known} samples"]
        if elapsed:
            parts += [f"{self.steady_samples / elapsed:.1f}/s", f"ETA {self._eta(elapsed)}"]
        if self.reduced_rows:
            parts.append(f"{self.kept / self.reduced_rows:.0f} visual tokens kept")
        parts.append(f"{self.failed:,} failed rows")
        return " | ".join(parts)

    def _elapsed(self) -> float | None:
        """Return the seconds since the first unit; None while they are too few for a rate."""
        if self.steady_since is None or not self.steady_samples:
            return None
        elapsed = time.monotonic() - self.steady_since
        return elapsed if elapsed >= _RATE_AFTER_S else None

    def _text(self) -> Text:
        return Text(self.line(), no_wrap=True, overflow="ellipsis")

    def _eta(self, elapsed: float) -> str:
        left_s = self._left_s(elapsed)
        if left_s is None:
            return "?"
        hours, rest = divmod(int(left_s), 3600)
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"

    def _left_s(self, elapsed: float) -> float | None:
        if not self.steady_bytes:
            return None
        return max(self.total_bytes - self.done_bytes, 0) * elapsed / self.steady_bytes
