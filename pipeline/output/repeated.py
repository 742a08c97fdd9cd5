"""Counts the sample keys that an output has more than once, and question ids within one sample."""

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.support.hashes import Repeats, lasting_hashes
from pipeline.support.plain_text import printable

_NAMES = 3  # kept of each
_NAME_CHARACTERS = 200

Json = dict[str, Any]


@dataclass(frozen=True)
class Repeated:
    """Counts the names that came before; `first` has the first different ones of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def __add__(self, other: "Repeated") -> "Repeated":
        names = dict.fromkeys([*self.first, *other.first])
        return Repeated(self.count + other.count, list(names)[:_NAMES])

    @property
    def text(self) -> str:
        """Describe number and first names."""
        more = ", ..." if self.count > len(self.first) == _NAMES else ""
        return f"{self.count:,} ({', '.join(self.first)}{more})"


def key_hashes(table: pa.Table) -> NDArray[np.uint64]:
    """Hash the key of each sample of a unit's rows, in their order."""
    return lasting_hashes(table["sample_key"].take(pa.array(_first_rows(table))).to_pylist())


def repeated_ids(table: pa.Table) -> Repeated:
    """Count the question ids of a unit's rows that an earlier question of the same sample has."""
    columns = (table[name].to_pylist() for name in ("sample", "question_id", "sample_key"))
    seen = Counter(zip(*columns, strict=True))
    names = [f"{_name(question)} of {_name(key)}" for (_, question, key), times in seen.items() if times > 1]
    return Repeated(table.num_rows - len(seen), names[:_NAMES])


def names_of(table: pa.Table) -> tuple[str, Json | None]:
    """Return what the footer of these rows has: the packed hashes of their keys, and their repeated ids."""
    ids = repeated_ids(table)
    return packed(key_hashes(table)), asdict(ids) if ids.count else None


def packed(hashes: NDArray[np.uint64]) -> str:
    """Write hashes as text."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode()


def unpacked(text: str) -> NDArray[np.uint64]:
    """Read hashes that `packed` wrote; ValueError if it did not."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8")


class RepeatedNames:
    """Counts over all units of an output, which are added in order; see `Repeats` for its memory."""

    def __init__(self) -> None:
        self._keys, self._ids, self._is_known = Repeats(), Repeated(), True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._keys.__exit__(*error)

    def add_hashed(self, samples: int, hashes: NDArray[np.uint64] | None, ids: Repeated) -> None:
        """Add units by the hashes of their keys, None if unknown, and their repeated question ids."""
        if hashes is None or len(hashes) != samples:
            self._is_known = False  # an earlier release wrote the unit
        else:
            self._keys.add(hashes)
            self._ids += ids

    def add(self, samples: int, keys: str | None, ids: Json | None) -> None:
        """Add a unit by its footer: the packed hashes of its keys, None if unknown, and its repeated ids."""
        hashes = None if keys is None else unpacked(keys)
        self.add_hashed(samples, hashes, Repeated(**ids) if ids else Repeated())

    def counts(self) -> dict[str, int] | None:
        """Return both counts; None if a unit does not tell."""
        counts = self.to_json(lambda _: "")
        return counts and {column: repeated["count"] for column, repeated in counts.items()}

    def to_json(self, key_at: Callable[[int], str]) -> Json | None:
        """Return both counts with their first names; None if a unit does not tell.

        Args:
            key_at: reads the key of a sample by its place among all samples of the output.
        """
        if not self._is_known:
            return None
        count, places = self._keys.count(_NAMES)
        keys = Repeated(count, [_name(key_at(place)) for place in places])
        return {"sample_key": asdict(keys), "question_id": asdict(self._ids)}


def repeated_lines(counts: Json | None) -> Iterator[str]:
    """Describe what summary.json counts as repeated, in a line for each column that has something."""
    for column, where in (("sample_key", ""), ("question_id", " within one sample")):
        repeated = Repeated(**(counts or {}).get(column, {}))
        if repeated.count:
            yield f"repeated {column}{where}: {repeated.text}; use the column `key`, which is unique"


def _first_rows(table: pa.Table) -> NDArray[np.int64]:
    """Return the number of each sample's first row."""
    numbers = table["sample"].to_numpy()
    return np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))


def _name(text: str) -> str:
    return printable(text)[:_NAME_CHARACTERS]
