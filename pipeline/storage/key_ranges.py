"""Divides the keys of an S3 prefix into ranges, which several threads can list at once.

Stores differ in the order in which they list. S3 sorts the bytes of whole keys: `a-b/1`, `a/1`. SeaweedFS
sorts the names in each folder: `a/1`, `a-b/1`. A range ends at a name on which both agree.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

# Sorts behind every character, so that `a/` with it sorts behind every key in the folder `a`.
LAST = "\U0010ffff"


@dataclass(eq=False)
class KeyRange:
    """Holds the keys that one thread lists, in the store's order.

    Args:
        prefix: what the store is asked for.
        base: what its keys begin with; `stop` and splits are names behind it.
        after: the key behind which it begins.
        stop: it ends with the names that begin with this; what is behind them is another range's.
        skipped: a folder, with a slash, whose keys are another range's.

    Attributes:
        last: the last key that was seen, "" before the first page.
        inside: the folder directly below `base` that has all of the last page's keys, with a slash.
        pages_inside: how many pages in a row lay in that folder.
        is_done: the last page has been seen.
    """

    prefix: str
    base: str
    after: str = ""
    stop: str | None = None
    skipped: str | None = None
    last: str = field(default="", init=False)
    inside: str | None = field(default=None, init=False)
    pages_inside: int = field(default=0, init=False)
    is_done: bool = field(default=False, init=False)

    def take(self, keys: Sequence[str], *, is_last: bool) -> list[int]:
        """Note a page that the store has listed, and return the places of the keys that are this range's."""
        own = []
        end = None if self.stop is None else self.stop + LAST
        for place, key in enumerate(keys):
            name = key[len(self.base) :]
            if not key.startswith(self.base) or (end is not None and name > end):
                is_last = True
                break
            self.last = key
            if self.skipped is None or not key.startswith(self.skipped):
                own.append(place)
        self.is_done = is_last
        self._note_folder(keys)
        return own

    def _note_folder(self, keys: Sequence[str]) -> None:
        name, slash, _ = keys[0][len(self.base) :].partition("/") if keys else ("", "", "")
        folder = f"{self.base}{name}/"
        if not slash or not keys[-1].startswith(folder) or not keys[0].startswith(self.base):
            self.inside, self.pages_inside = None, 0
        else:
            self.pages_inside = self.pages_inside + 1 if folder == self.inside else 1
            self.inside = folder

    @property
    def name(self) -> str:
        """The name directly below `base` that the last key has: a file's or a folder's."""
        return self.last[len(self.base) :].partition("/")[0]

    def enter_folder(self) -> "KeyRange":
        """Restrict this range to the folder that it is in, and return what is behind the folder.

        Any store lists a folder's keys one after another.
        """
        folder = self.inside
        assert folder is not None
        rest = KeyRange(self.prefix, self.base, f"{folder}{LAST}", self.stop, folder)
        self.base, self.stop, self.inside, self.pages_inside = folder, None, None, 0
        return rest

    def split(self, name: str) -> "KeyRange":
        """End this range with the names that begin with `name`, and return what is behind them.

        A folder that is called `name` and LAST, a character that is none, would be lost on SeaweedFS.
        """
        behind = KeyRange(self.prefix, self.base, f"{self.base}{name}{LAST}", self.stop)
        self.stop = name
        return behind


def between(low: str, high: str | None, letters: Collection[str]) -> tuple[str, float] | None:
    """Find a short name halfway between two, and how far they are apart; None if there is none.

    Args:
        low, high: the name is behind `low`, and before `high` or behind it if it begins with `high`, as the
            names that a range still has do; None: the end of all names.
        letters: what names consist of, those of `low` and `high` among them.

    Returns:
        The name, and the part of all names that lies between `low` and `high`.
    """
    ordered = sorted(letters)
    digits = {letter: digit for digit, letter in enumerate(ordered)}
    size = len(ordered)
    first, limit, total = 0, 0 if high is not None else 1, 1
    for place in range(max(len(low), len(high or "")) + 2):
        first = first * size + (digits[low[place]] if place < len(low) else 0)
        limit += high is not None and place == len(high)
        limit = limit * size + (digits[high[place]] if high is not None and place < len(high) else 0)
        total *= size
        if limit - first >= 2:
            middle, name = (first + limit) // 2, ""
            for _ in range(place + 1):
                middle, digit = divmod(middle, size)
                name = ordered[digit] + name
            return name, (limit - first) / total
    return None


def doubtful_folders(base: str, name: str) -> list[str]:
    """Name the folders that must not exist if stores are to agree on what is before and behind a name.

    Before `a-b`, SeaweedFS lists the folder `a`, and S3 does not, since `-` sorts before `/`.
    """
    folder, _, begun = base.rpartition("/")
    whole = begun + name
    first = max(1, len(begun))
    above = f"{folder}/" if base[: len(folder) + 1].endswith("/") else ""
    return [f"{above}{whole[:place]}/" for place in range(first, len(whole)) if whole[place] < "/"]


def is_ordered(keys: Sequence[str]) -> bool:
    """Tell whether keys are in the order of their bytes, or of the names in each folder."""
    listed = list(keys)
    return listed == sorted(listed) or listed == sorted(listed, key=lambda key: key.split("/"))
