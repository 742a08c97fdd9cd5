"""Tells how far each slice of a run is, from its note and the files' names and times."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.output.slice_notes import SliceNote, slice_notes
from pipeline.output.units import Finished
from pipeline.storage.uris import Storage

# A run counts as stopped after GAPS times the usual time between two units, and at least LEAST_S seconds.
GAPS, LEAST_S = 10, 120.0
_NEWEST = 64  # units, of which a slice's rate is


@dataclass(frozen=True)
class SliceState:
    """Holds the state of one slice.

    `state` is `finished`, `running` or `stopped` (concluded from when its newest units came) or `empty` (no
    unit yet). `samples_per_s` is that of its newest units; None: they are too few.
    """

    slice: str
    state: str
    shards: int
    shards_finished: int
    units: int
    samples_per_s: float | None
    begun: float
    host: str


def slice_states(folder: str, finished: Finished, storage: Storage) -> list[SliceState]:
    """Read the states of the slices that have begun; none: the run has no slices.

    Args:
        finished: with the times of the files.
    """
    return [_state_of(note, finished) for note in slice_notes(folder, storage)]


def _state_of(note: SliceNote, finished: Finished) -> SliceState:
    places = slice(*np.searchsorted(finished.shards, [note.first, note.stop]).tolist())
    lengths, times = (finished.stops - finished.firsts)[places], finished.times[places]
    newest = np.argsort(times, kind="stable")[-_NEWEST:]
    newest = newest[times[newest] >= note.begun]  # of its latest start
    written = times[newest]
    seconds = float(written[-1] - written[0]) if len(newest) else 0.0
    done = sum(finished.has_shard(shard) for shard in range(note.first, note.stop))
    return SliceState(
        slice=note.slice,
        state="finished" if done == note.stop - note.first else _state_since(note.begun, written, len(times)),
        shards=note.stop - note.first,
        shards_finished=done,
        units=len(times),
        samples_per_s=int(lengths[newest][1:].sum()) / seconds if seconds > 0 else None,
        begun=note.begun,
        host=note.host,
    )


def _state_since(begun: float, written: NDArray[np.float64], units: int) -> str:
    """Conclude a slice's state; its latest start is a sign of life, too."""
    return "empty" if not units and not len(written) else state_at([begun, *written.tolist()])


def state_at(times: list[float]) -> str:
    """Conclude from when the newest units were written, in order, whether units are still being made."""
    if not times:
        return "empty"
    gaps = np.diff(times)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    return "running" if time.time() - times[-1] < max(LEAST_S, GAPS * usual) else "stopped"


def slice_lines(slices: list[SliceState]) -> Iterator[str]:
    """Describe the slices, a line each."""
    for one in slices:
        rate = f", {one.samples_per_s:.2f} samples/s" if one.samples_per_s and one.state == "running" else ""
        yield (
            f"{'slice':10}{one.slice}: {one.shards_finished:,} of {one.shards:,} shards, {_STATES[one.state]}"
            f"{rate}, on {one.host}"
        )
    if slices and len(slices) < (count := int(slices[0].slice.rpartition("/")[2])):
        yield f"{'':10}{count - len(slices):,} of {count:,} slices have not begun"


_STATES = {
    "finished": "finished",
    "running": "running, it seems",
    "stopped": "stopped, it seems",
    "empty": "no unit yet",
}
