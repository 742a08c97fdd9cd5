"""Lists a folder of very many files whose names begin with a number, in several parts at once."""

import re
from collections.abc import Iterator

import fsspec

from pipeline.storage.parallel_pages import parallel_pages
from pipeline.storage.uris import list_times

_MOST_CUTS = 1000
_NUMBER = re.compile(r"\d+")


def list_in_parts(
    fs: fsspec.AbstractFileSystem, folder: str, numbers: range, a_part: int, *, only: bool = False
) -> Iterator[tuple[str, float]]:
    """List the names in a folder with the times of writing, in no order; none if it does not exist.

    Names below subfolders are left out. Times are in seconds since the epoch.

    S3 is asked for several parts at once, which together hold all names whatever they are.

    Args:
        numbers: the names begin with numbers of six digits or more, most of which are among these.
        a_part: how many of these numbers a part has at least.
        only: leave out names that begin with no number among these; S3 may list some of them.

    Raises:
        OSError: S3 lists in no order, after it seemed to have one.
    """
    if "s3" not in fs.protocol:
        yield from list_times(fs, folder, (lambda name: number_of(name) in numbers) if only else bool)
        return
    step = max(a_part, -(-len(numbers) // _MOST_CUTS))
    cuts = sorted(_digits(number) for number in numbers[step - 1 : -1 : step])
    ends = (_digits(numbers[0]), _digits(numbers[-1])) if only and numbers else ("", "")
    if len(ends[0]) != len(ends[1]):  # the names of the longer numbers stand among those of the others
        ends = ("", "")
    for page in parallel_pages(fs, f"{folder}/", after=ends[0], until=ends[1], cuts=cuts):
        for item in page:
            name = item["Key"].removeprefix(f"{folder.partition('/')[2]}/")
            if name and "/" not in name:
                yield name, item["LastModified"].timestamp()


def number_of(name: str) -> int:
    """Return the number with which a name begins; -1 if there is none."""
    number = _NUMBER.match(name)
    return int(number[0]) if number else -1


def _digits(number: int) -> str:
    return f"{number:06d}"
