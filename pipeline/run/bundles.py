"""Decides how many units one task takes, so that the driver of a large cluster starts fewer tasks.

A task costs the driver some 3.5 ms of CPU, whatever it does. Units wait until there are enough for a task, or
no more will come; so the number follows the language models that work at once. Units that wait to be written
are at most half as many as those models have in work, which is what a crash may cost besides.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa

_MOST_WRITTEN = 8
_DECODED = 2  # more would leave cores idle that decode, while the first units come
_DECODED_FROM = 8  # language models


def units_a_task(stage: str, models: int) -> int:
    """Return how many units a task of a stage takes, where so many language models work at once."""
    if stage == "write":
        return min(max(1, models // 2), _MOST_WRITTEN)
    return _DECODED if stage == "decode" and models >= _DECODED_FROM else 1


def one_by_one(task: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """Make a function that runs a task's function on each row of a table, and yields each result at once."""

    def run(rows: pa.Table) -> Iterator[pa.Table]:
        for index in range(rows.num_rows):
            yield task(rows.slice(index, 1))

    run.__name__ = task.__name__
    return run
