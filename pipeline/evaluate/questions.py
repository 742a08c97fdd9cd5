"""Converts a dataset's questions into a source of a run; never writes into the dataset's folder.

A file's name holds a digest of its content, and its modification time is fixed: a restarted run finds the
source that its plan holds, even if the converted file had to be written anew.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.evaluate.base import Reference
from pipeline.sources.jsonl import Jsonl
from pipeline.storage.uris import Storage, put_atomic, write_atomic
from pipeline.support.cache import sha256_of

_CHECKSUM = ".sha256"  # ends the name of the file that holds the hash of a local file
_QUESTIONS_TOGETHER = 64  # of one image; more would be a sample that max_questions refuses

Question = tuple[Reference, str]  # and the text to ask


def request_lines(questions: Iterable[Question]) -> Iterator[str]:
    """Write LLaVA's JSONL with the questions of an image together: it is decoded and encoded once."""
    by_image: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for reference, text in questions:
        by_image[reference.sample_key].append((reference.question_id, text))
    waiting = {image: iter(of_image) for image, of_image in by_image.items()}
    while waiting:
        for image in list(waiting):
            together = list(islice(waiting[image], _QUESTIONS_TOGETHER))
            for question_id, text in together:
                yield json.dumps({"question_id": question_id, "image": image, "text": text}) + "\n"
            if len(together) < _QUESTIONS_TOGETHER:
                del waiting[image]


def jsonl_source(
    name: str, questions: Iterable[Question], images: str, folder: str, storage: Storage
) -> Jsonl:
    """Write `<folder>/<name>-<digest>.jsonl`; returns the source of it and the images below `images`."""
    data = "".join(request_lines(questions)).encode()
    uri = f"{folder.rstrip('/')}/{name}-{short_digest(data)}.jsonl"
    write_once(uri, data, storage)
    return Jsonl(path=uri, image_root=images)


def short_digest(data: bytes) -> str:
    """Compute a short name for a file's content, from its hash."""
    return hashlib.sha256(data).hexdigest()[:16]


def write_once(uri: str, content: bytes | str, storage: Storage) -> None:
    """Write bytes, or the content of a local file, unless the file exists: its name holds the digest."""
    if is_written(uri, storage):
        return
    fs, path = storage.open(uri)
    if isinstance(content, bytes):
        write_atomic(fs, path, content)
    else:
        put_atomic(fs, path, content)
    if isinstance(fs, LocalFileSystem):
        os.utime(path, (0, 0))  # a local file's etag is its time
        Path(f"{path}{_CHECKSUM}").write_text(sha256_of(Path(path)))


def is_written(uri: str, storage: Storage) -> bool:
    """Tell whether `write_once` has written a file; on a local disk also that it is unchanged since."""
    fs, path = storage.open(uri)
    if not fs.exists(path):
        return False
    if not isinstance(fs, LocalFileSystem):
        return True
    checksum = Path(f"{path}{_CHECKSUM}")
    return checksum.is_file() and checksum.read_text() == sha256_of(Path(path))
