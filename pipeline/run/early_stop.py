"""Ends a run early, once so many rows have failed that it cannot end well any more."""

from typing import TYPE_CHECKING

import pyarrow.compute as pc

from pipeline.stages.write import UnitStats
from pipeline.support.errors import RunError

if TYPE_CHECKING:
    from pipeline.output.plan import Plan
    from pipeline.run.config import RunConfig


class EarlyStop:
    """Holds the most rows that a run can have, and ends it when more than their allowed part has failed.

    A sample counts with the most questions that it may have until its unit is written, and then with its
    rows. While the plan lacks some shard's number of samples, nothing is ended.

    Args:
        own: the shards that the run makes; None: all.
    """

    def __init__(self, config: "RunConfig", plan: "Plan", own: range | None = None) -> None:
        samples = plan.table["samples"]
        if own is not None:
            samples = samples.slice(own.start, len(own))
        self._allowed = config.options.max_failed_fraction
        self._of_sample = config.task.most_questions(config.limits.max_questions)
        self._most: int | None = None
        if not samples.null_count:
            self._most = (pc.sum(samples).as_py() or 0) * self._of_sample * len(config.arms)
        self._failed = 0

    def add(self, stats: UnitStats) -> None:
        """Count a unit's rows.

        Raises:
            RunError: more rows have failed than the run may have when it ends.
        """
        self._failed += sum(totals.rows - totals.ok for totals in stats.totals)
        if self._most is None:
            return
        self._most -= sum(stats.samples * self._of_sample - totals.rows for totals in stats.totals)
        if self._failed > self._allowed * self._most:
            raise RunError(
                f"stopped early: {self._failed} of at most {self._most} rows have failed, more than "
                f"max_failed_fraction={self._allowed} allows; raise it and run the same command again to "
                "go on"
            )
