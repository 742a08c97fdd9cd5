"""Reads what the slices of a run wrote into its outputs when they began."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.output.footers import known_fields
from pipeline.output.layout import SLICES
from pipeline.storage.uris import Storage, list_names, read_bytes

_SLICE = re.compile(r"\d{1,9}/\d{1,9}")


@dataclass(frozen=True)
class SliceNote:
    """Tells of one slice.

    Args:
        slice: its number and the number of slices, as the key `slice` has it.
        begun: when it was last started, in seconds since the epoch.
        host: the driver's machine.
        first, stop: its shards.
    """

    slice: str
    begun: float
    host: str
    first: int
    stop: int

    @property
    def count(self) -> int:
        """The number of slices."""
        return int(self.slice.rpartition("/")[2])


def slice_notes(folder: str, storage: Storage) -> list[SliceNote]:
    """Read the notes of the newest division into slices, in the order of their shards."""
    notes = list(_notes(folder, storage))
    if not notes:
        return []
    newest = max(notes, key=lambda note: note.begun)
    same = (note for note in notes if note.count == newest.count)
    return sorted(same, key=lambda note: (note.first, note.stop, note.slice))


def _notes(folder: str, storage: Storage) -> Iterator[SliceNote]:
    fs, path = storage.open(folder)
    for name in list_names(fs, f"{path}/{SLICES}"):
        if name.endswith(".json") and not name.startswith("."):
            try:
                tree = json.loads(read_bytes(fs, f"{path}/{SLICES}/{name}") or b"")
                note = SliceNote(**known_fields(SliceNote, tree))
                if _SLICE.fullmatch(note.slice) and 0 <= note.first <= note.stop and note.begun >= 0:
                    yield note
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # not one of ours, or of another version
