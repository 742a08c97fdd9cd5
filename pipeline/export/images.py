"""Names the image of each conversation: a file of the source, a file written here, or a name alone."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.export.answers import Answers, Rows, Written
from pipeline.export.names import UniqueNames, image_suffix
from pipeline.sources.base import Sample
from pipeline.storage.paths import key_root, path_of_text
from pipeline.storage.uris import Storage

Named = Iterator[tuple[str, Rows]]  # an image's name and its rows


def named_images(answers: Answers, written: Written) -> Named:
    """Yield each sample's rows with the name of its image, and note where the files are.

    A name is a path below one folder, which no other image has. It never leads out of that folder.
    """
    if answers.options.images is not None:
        return _written_out(answers, answers.options.images, written)
    folder = _common_folder(_image_folders(answers))
    return _unwritten(answers, written) if folder is None else _of_source(answers, folder, written)


def _written_out(answers: Answers, folder: str, written: Written) -> Named:
    """Write each image below `folder`, those of a shard in a folder of its number."""
    fs, place = answers.storage.open(folder)
    made = set()
    for shard in answers.shards():
        names = _FileNames(f"{shard.shard:06d}")
        for sample, rows in answers.with_source(shard):
            assert sample is not None and sample.image is not None
            name, is_new = names.name(sample, rows[0]["key"])
            if is_new:
                with answers.storage.reaching("images", folder):
                    parent = f"{place}/{name}".rpartition("/")[0]
                    if parent not in made:
                        fs.makedirs(parent, exist_ok=True)
                        made = {parent}
                    fs.pipe_file(f"{place}/{name}", bytes(sample.image))
            yield name, rows
    written.notes.append(f"images are named relative to {folder}")


class _FileNames:
    """Names the images of one shard; an image that several samples show under one key is one file."""

    def __init__(self, folder: str) -> None:
        self._folder, self._names = folder, UniqueNames()
        self._of_image: dict[bytes, str] = {}

    def name(self, sample: Sample, row_key: str) -> tuple[str, bool]:
        """Return the name of a sample's image, and whether it is new."""
        image = bytes(sample.image or b"")
        digest = hashlib.sha256(repr(sample.key).encode() + image).digest()
        if (name := self._of_image.get(digest)) is not None:
            return name, False
        name = f"{self._folder}/{self._names.take(sample.key, row_key)}.{image_suffix(image)}"
        self._of_image[digest] = name
        return name, True


def _image_folders(answers: Answers) -> Iterator[str | None]:
    questions = answers.questions
    for shard in answers.shards():
        yield questions.source.image_folder(questions.moved(shard), questions.reading)


def _common_folder(folders: Iterable[str | None]) -> str | None:
    """Return the deepest folder that holds all of the folders; None if there is none."""
    common: list[str] | None = None
    for folder in folders:
        if folder is None:
            return None
        parts = folder.rstrip("/").split("/")
        common = parts if common is None else _common_start(common, parts)
    # `scheme:`, an empty part and the store's name are no folder yet
    return None if common is None or len(common) < 3 else "/".join(common) + "/"


def _common_start(one: list[str], other: list[str]) -> list[str]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [part for part, _ in pairs]


def _of_source(answers: Answers, folder: str, written: Written) -> Named:
    """Name the files that the source read, relative to the folder that holds them all."""
    questions = answers.questions
    fs, place = questions.reading.open(folder)
    images = missing = 0
    first_missing = ""
    for shard in answers.shards():
        own = questions.source.image_folder(questions.moved(shard), questions.reading)
        assert own is not None
        for _, rows in answers.samples(shard.shard):
            name = own.removeprefix(folder) + _path_in_folder(own, rows[0]["sample_key"], questions.reading)
            images += 1
            if isinstance(fs, LocalFileSystem) and not _is_file(Path(place) / name):
                missing += 1
                first_missing = first_missing or name
            yield name, rows
    if images:
        is_local = isinstance(fs, LocalFileSystem)
        written.notes.append(f"images are named relative to {place if is_local else folder}")
    if missing:
        written.notes.append(
            f"{missing:,} of {images:,} images are no files there, the first is {first_missing}: "
            "images=FOLDER writes them all"
        )


def _path_in_folder(folder: str, name: str, storage: Storage) -> str:
    """Return a file's path relative to its folder; the source may name it by its whole path or URI."""
    _, place = storage.open(folder)
    for start in (folder, f"{place.rstrip('/')}/"):
        if name.startswith(start):
            return name.removeprefix(start).lstrip("/")
    return name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _unwritten(answers: Answers, written: Written) -> Named:
    """Name images that are no files: by their shard, as the source names it, and their key."""
    images = 0
    path = path_of_text(answers.plan.source)
    roots = {key_root(uri, path, answers.reading) for uri in answers.plan.table["uri"].to_pylist()}
    folder = roots.pop() if len(roots) == 1 else _common_folder(roots) or ""
    for shard in answers.shards():
        names = UniqueNames()
        place = shard.uri.removeprefix(folder)
        for _, rows in answers.samples(shard.shard):
            images += 1
            yield f"{place}/{names.take(rows[0]['sample_key'], rows[0]['key'])}", rows
    if images:
        written.notes.append(
            "the images are not in files of their own: `image` names the shard and the sample, and no such "
            "files exist; images=FOLDER writes them"
        )
