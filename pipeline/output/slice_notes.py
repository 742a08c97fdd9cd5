"""Reads and writes what the slices of a run tell of themselves: a file each, in every output of the run."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from pipeline.output.footers import Json, known_fields
from pipeline.output.layout import SLICES
from pipeline.storage.uris import Storage, list_names, read_bytes, write_atomic

MOST_INCIDENTS = 20  # named in the note of one slice
MOST_OF_ALL = 100  # named of all slices
OTHERS = "others"  # the event of an entry that stands for incidents that are not named

_SLICE = re.compile(r"\d{1,9}/\d{1,9}")


@dataclass(frozen=True)
class SliceNote:
    """Tells of one slice.

    Args:
        slice: its number and the number of slices, as the key `slice` has it.
        begun: when it was last started, in seconds since the epoch.
        host: the driver's machine.
        first, stop: its shards.
        incidents: what happened to GPUs when it last made units, as `Incident.to_json` has it; see
            `few_incidents`. None: nothing.
    """

    slice: str
    begun: float
    host: str
    first: int
    stop: int
    incidents: list[Json] | None = None

    @property
    def count(self) -> int:
        """The number of slices."""
        return int(self.slice.rpartition("/")[2])

    @property
    def is_sound(self) -> bool:
        """Whether the values can be those of a slice."""
        told = self.incidents or []
        return (
            _SLICE.fullmatch(self.slice) is not None
            and 0 <= self.first <= self.stop
            and self.begun >= 0
            and all(isinstance(item["event"], str) and isinstance(item["times"], int) for item in told)
        )


def write_note(note: SliceNote, folder: str, storage: Storage) -> None:
    """Write the note of a slice into an output."""
    fs, path = storage.open(folder)
    text = storage.as_json(asdict(note), indent=2)
    write_atomic(fs, f"{path}/{SLICES}/{_name_of(note.slice)}", text.encode())


def read_note(name: str, folder: str, storage: Storage) -> SliceNote | None:
    """Read the note of the slice of this name, `i/n`; None if there is none, or it is of another version."""
    fs, path = storage.open(folder)
    return _parsed(read_bytes(fs, f"{path}/{SLICES}/{_name_of(name)}"))


def slice_notes(folder: str, storage: Storage) -> list[SliceNote]:
    """Read the notes of the newest division into slices, in the order of their shards."""
    notes = list(_notes(folder, storage))
    if not notes:
        return []
    newest = max(notes, key=lambda note: note.begun)
    same = (note for note in notes if note.count == newest.count)
    return sorted(same, key=lambda note: (note.first, note.stop, note.slice))


def incidents_of_slices(folder: str, storage: Storage) -> list[Json]:
    """List what the notes of slices have of incidents, each with its slice; see `few_incidents`."""
    told = (
        {"slice": note.slice, **incident}
        for note in slice_notes(folder, storage)
        for incident in note.incidents or ()
    )
    return few_incidents(told, MOST_OF_ALL)


def few_incidents(incidents: Iterable[Json], most: int) -> list[Json]:
    """Keep the first incidents; a last entry counts the events of all others, if there are any.

    The incidents may have such entries already.
    """
    named, others = list[Json](), 0
    for incident in incidents:
        if incident["event"] == OTHERS or len(named) == most:
            others += incident["times"]
        else:
            named.append(incident)
    return [*named, {"event": OTHERS, "times": others}] if others else named


def _name_of(name: str) -> str:
    return f"{name.replace('/', '-of-')}.json"


def _notes(folder: str, storage: Storage) -> Iterator[SliceNote]:
    fs, path = storage.open(folder)
    for name in list_names(fs, f"{path}/{SLICES}"):
        if name.endswith(".json") and not name.startswith("."):
            note = _parsed(read_bytes(fs, f"{path}/{SLICES}/{name}"))
            if note is not None:
                yield note


def _parsed(data: bytes | None) -> SliceNote | None:
    """Parse a note; None if it is not one of ours, or of another version."""
    try:
        note = SliceNote(**known_fields(SliceNote, json.loads(data or b"")))
        return note if note.is_sound else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
