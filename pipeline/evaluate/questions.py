"""A dataset's questions as a source of a run: converted into a folder of one's own, never into the dataset's.

A file's name tells its content, and its time is always the same: a run that is started again finds the source
that its plan holds, also if the converted file had to be made anew.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice

from fsspec.implementations.local import LocalFileSystem

from pipeline.evaluate.base import Reference
from pipeline.sources.jsonl import Jsonl
from pipeline.storage.uris import Storage, put_atomic, write_atomic

_QUESTIONS_TOGETHER = 64  # of one image; more would be a sample that max_questions refuses

Asked = tuple[Reference, str]


def request_lines(asked: Iterable[Asked]) -> Iterator[str]:
    """LLaVA's JSONL: the questions of an image follow one another, so that it is decoded and encoded once."""
    by_image: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for reference, text in asked:
        by_image[reference.sample_key].append((reference.question_id, text))
    waiting = {image: iter(questions) for image, questions in by_image.items()}
    while waiting:
        for image in list(waiting):
            some = list(islice(waiting[image], _QUESTIONS_TOGETHER))
            for question_id, text in some:
                yield json.dumps({"question_id": question_id, "image": image, "text": text}) + "\n"
            if len(some) < _QUESTIONS_TOGETHER:
                del waiting[image]


def jsonl_source(name: str, asked: Iterable[Asked], images: str, folder: str, storage: Storage) -> Jsonl:
    """The source of `<folder>/<name>-<digest>.jsonl`, which it writes, and of the images below `images`."""
    data = "".join(request_lines(asked)).encode()
    place = f"{folder.rstrip('/')}/{name}-{digest_name(data)}.jsonl"
    keep(place, data, storage)
    return Jsonl(path=place, image_root=images)


def digest_name(data: bytes) -> str:
    """A short name for a content."""
    return hashlib.sha256(data).hexdigest()[:16]


def keep(place: str, content: bytes | str, storage: Storage) -> None:
    """Write bytes, or the content of a local file, unless the file is there: its name tells its content."""
    fs, path = storage.open(place)
    if fs.exists(path):
        return
    if isinstance(content, bytes):
        write_atomic(fs, path, content)
    else:
        put_atomic(fs, path, content)
    if isinstance(fs, LocalFileSystem):
        os.utime(path, (0, 0))  # a local file's etag is its time
