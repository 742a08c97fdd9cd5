"""Lists a folder of very many files whose names begin with a number, in several parts at once."""

from collections.abc import Iterator
from itertools import pairwise

import fsspec

from pipeline.storage.pages import s3_pages
from pipeline.storage.uris import list_times, name_of
from pipeline.support.parallel import THREADS, each

_MOST_PARTS = 1000
_LAST = chr(0x10FFFF)  # after every name


def list_in_parts(
    fs: fsspec.AbstractFileSystem, folder: str, numbers: range, a_part: int, *, only: bool = False
) -> Iterator[tuple[str, float]]:
    """List the names in a folder with the times of writing; none if it does not exist.

    Names below subfolders are left out. Times are in seconds since the epoch.

    S3 is asked for several parts at once, which together hold all names whatever they are.

    Args:
        numbers: the names begin with numbers of six digits or more, most of which are among these.
        a_part: how many of these numbers a part has at least.
        only: S3 may leave out the names that begin with no number among these.
    """
    if "s3" not in fs.protocol:
        yield from list_times(fs, folder)
        return
    cuts = pairwise(_cuts(numbers, a_part, only))
    for part in each(lambda part: list(_objects(fs, folder, *part)), cuts, THREADS):
        yield from part


def _cuts(numbers: range, a_part: int, only: bool) -> list[str]:
    """Cut the names into parts, in the order of their bytes."""
    step = max(a_part, -(-len(numbers) // _MOST_PARTS))
    inner = sorted(f"{number:06d}" for number in numbers[step::step])
    if only and numbers:
        first, last = f"{numbers.start:06d}", f"{numbers.stop - 1:06d}"
        if len(first) == len(last):  # else the names of the longer numbers stand among those of the others
            return [first, *inner, f"{last}~"]
    return ["", *inner, _LAST]


def _objects(
    fs: fsspec.AbstractFileSystem, folder: str, start: str, stop: str
) -> Iterator[tuple[str, float]]:
    """List the names after one text, up to another; S3 lists in the order of the bytes."""
    begin = {"StartAfter": f"{folder.partition('/')[2]}/{start}"} if start else {}
    for page in s3_pages(fs, f"{folder}/", Delimiter="/", **begin):
        for item in page.get("Contents", ()):
            name = name_of(item["Key"])
            if name > stop:
                return
            if not item["Key"].endswith("/"):
                yield name, item["LastModified"].timestamp()
