"""Makes samples of a tar's members: an image with the sidecars of its name, as webdataset groups them."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from pipeline.sources.archive import Archive
from pipeline.sources.base import AHEAD, IMAGE_SUFFIXES, MAX_IMAGE_BYTES, Sample, Want, Wanted
from pipeline.sources.sidecars import MAX_SIDECAR_BYTES, assemble
from pipeline.support.census import PassedOver, Reason, is_hidden
from pipeline.support.errors import BadImage, BadSample, DataFault

_SIDECARS = ("json", "txt")
_READ = frozenset((*IMAGE_SUFFIXES, *_SIDECARS))
# A group holds its images until it ends, since a sidecar may follow them; but no more than AHEAD images, and
# these bytes beside the last image.
_HELD_BYTES = 32 << 20

Part = bytes | DataFault | tarfile.TarInfo  # a member's content, or the member, to be read when it is needed


class _Name(NamedTuple):
    """Splits a member's name: `a/b.left.jpg` has stem `a/b.left`, suffix `jpg` and group `a/b`."""

    whole: str
    stem: str
    suffix: str
    group: str


def _split(name: str) -> _Name:
    start = name.rfind("/") + 1
    dot = name.rfind(".", start)
    if dot < 0:
        return _Name(name, name, "", name)
    return _Name(name, name[:dot], name[dot + 1 :].lower(), name[: name.index(".", start)])


@dataclass
class _Image:
    """Collects the images of one stem: one, or several, which are a fault."""

    name: _Name
    want: Want
    size: int = 0
    parts: dict[str, Part] = field(default_factory=dict)


class Grouping:
    """Makes samples of members, in the order of their images.

    Members that follow each other and share the name up to its first dot are a group. A sidecar belongs to
    the group's images of its own stem (`a.left.json` or `a.left.jpg.json` to `a.left.jpg`), else, if the
    group's name is its stem (`a.json`), to the group's other images. What is yielded does not depend on what
    is wanted, but for the content.
    """

    def __init__(self, archive: Archive, wanted: Wanted) -> None:
        self._archive, self._wanted = archive, wanted
        self._index = 0  # of the next sample
        self._next_want: Want | None = None  # of the next sample, if it was asked for already
        self._end = 0  # bytes of the file up to the end of the last member
        self._ready: list[Sample | PassedOver | None] = []  # to be yielded
        self._begin("")

    def samples(self) -> Iterator[Sample | PassedOver | None]:
        """Yield the samples, None in the place of unwanted ones, and entries of which none is made.

        Raises:
            TarError: the tar cannot be read further; the sample that it breaks off in has been yielded.
        """
        damage: tarfile.TarError | None = None
        try:
            for member, end in self._archive.members():
                self._add(member, end)
                if self._ready:
                    yield from self._ready
                    self._ready.clear()
        except tarfile.TarError as error:
            damage = error
        self._finish()
        yield from self._ready
        if damage is not None:
            raise damage

    def _begin(self, group: str) -> None:
        self._group = group
        self._images: list[_Image] = []
        self._sidecars: dict[tuple[str, str], Part] = {}  # by stem and suffix
        self._spelled: dict[tuple[str, str], str] = {}  # how their names are spelled
        self._used: set[tuple[str, str]] = set()
        self._let_go = False  # whether an image was yielded before the group's end

    def _add(self, member: tarfile.TarInfo, end: int) -> None:
        name = _split(member.name)
        if reason := _reason(member, name):
            if not member.isdir():  # folders are no entries
                self._ready.append(PassedOver(member.name, reason))
            return
        is_image, key = name.suffix in IMAGE_SUFFIXES, (name.stem, name.suffix)
        if not is_image and name.group == self._group and self._spelled.get(key, name.whole) != name.whole:
            # its name differs in letter case alone
            self._ready.append(PassedOver(member.name, Reason.SECOND_SIDECAR))
            return
        if name.group != self._group or self._has(key):
            self._finish()
            self._begin(name.group)
        self._end = end
        if is_image:
            self._add_image(member, name)
        elif self._let_go and not any(_matches(key, image) for image in self._images):
            self._ready.append(PassedOver(member.name, Reason.LATE_SIDECAR))
        else:
            self._spelled[key] = name.whole
            self._store(self._sidecars, key, member)

    def _has(self, key: tuple[str, str]) -> bool:
        image = self._image_of(key[0])
        return key in self._sidecars or (image is not None and key[1] in image.parts)

    def _image_of(self, stem: str) -> _Image | None:
        for image in self._images:
            if image.name.stem == stem:
                return image
        return None

    def _add_image(self, member: tarfile.TarInfo, name: _Name) -> None:
        image = self._image_of(name.stem)
        if image is None:
            image = _Image(name, self._take_want())
            self._images.append(image)
        image.size += member.size
        self._store(image.parts, name.suffix, member, image.want)
        while len(self._images) > 1 and self._holds_too_much():
            self._let_go = True
            self._ready.append(self._sample(self._images.pop(0)))

    def _holds_too_much(self) -> bool:
        return len(self._images) == AHEAD or sum(held.size for held in self._images[:-1]) > _HELD_BYTES

    def _store(
        self,
        parts: "dict[str, Part] | dict[tuple[str, str], Part]",
        key: "str | tuple[str, str]",
        member: tarfile.TarInfo,
        want: Want | None = None,
    ) -> None:
        """Read a member into `parts`; if the tar breaks off within it, store the fault and raise TarError."""
        try:
            parts[key] = self._read(member, want)  # type: ignore[index]
        except tarfile.TarError:
            parts[key] = BadSample(f"the tar breaks off within {member.name}")  # type: ignore[index]
            raise

    def _read(self, member: tarfile.TarInfo, want: Want | None) -> Part:
        """Read a member if it is wanted; `want` None: a sidecar, which several images may share."""
        if want is None and not self._archive.is_compressed and not self._is_any_wanted():
            return member
        return _content(self._archive, member, Want.ALL if want is None else want, is_image=want is not None)

    def _is_any_wanted(self) -> bool:
        """Tell whether an image of the group, or the next one, is wanted."""
        for image in self._images:
            if image.want:
                return True
        return bool(self._peek_want())

    def _peek_want(self) -> Want:
        if self._next_want is None:
            self._next_want = self._wanted(self._index)
        return self._next_want

    def _take_want(self) -> Want:
        want, self._next_want = self._peek_want(), None
        self._index += 1
        return want

    def _finish(self) -> None:
        """Make what the group holds ready; a group of sidecars without an image is a sample, too."""
        self._ready += [self._sample(image) for image in self._images]
        if len(self._used) == len(self._sidecars):
            return
        own = [key for key in self._sidecars if key[0] == self._group]
        if own and not self._images and not self._let_go:
            self._ready.append(self._sample(_Image(_split(self._spelled[own[0]]), self._take_want())))
        stems = {key[0] for key in self._used}
        for key in self._sidecars:
            if key not in self._used:
                second = key[0] == self._group or key[0] in stems
                reason = Reason.SECOND_SIDECAR if second else Reason.NO_IMAGE
                self._ready.append(PassedOver(self._spelled[key], reason))

    def _sample(self, image: _Image) -> Sample | None:
        parts = dict(image.parts)
        before = len(self._used)
        for kind in _SIDECARS:
            if (key := self._sidecar_of(image, kind)) is not None:
                self._used.add(key)
                part = self._sidecars[key]
                if image.want and isinstance(part, tarfile.TarInfo):
                    part = _content(self._archive, part, Want.ALL, is_image=False)
                parts[kind] = part
        if not image.want:
            return None
        contents = cast("dict[str, bytes | DataFault]", parts)  # no member is left to be read
        taken = (len(image.parts), len(self._used) - before)
        return assemble(image.name.stem if image.parts else self._group, self._end, contents, taken)

    def _sidecar_of(self, image: _Image, kind: str) -> tuple[str, str] | None:
        for stem in (image.name.stem, image.name.whole, self._group) if self._sidecars else ():
            if (stem, kind) in self._sidecars:
                return stem, kind
        return None


def _matches(key: tuple[str, str], image: _Image) -> bool:
    return key[0] in (image.name.stem, image.name.whole)


def _reason(member: tarfile.TarInfo, name: _Name) -> Reason | None:
    """Say why a member is no part of a sample; None: it is."""
    if is_hidden(name.whole):
        return Reason.HIDDEN
    return None if name.suffix in _READ else Reason.OTHER_TYPE


def _content(archive: Archive, member: tarfile.TarInfo, want: Want, *, is_image: bool) -> bytes | DataFault:
    """Read a member; a fault if it is no plain file or too large."""
    if not want:
        return b""
    if not member.isreg() or member.issparse():  # a sparse file of a few bytes may be gigabytes of zeros
        return BadSample(f"the tar member {member.name} is a link, a device or sparse, not a plain file")
    if member.size > (MAX_IMAGE_BYTES if is_image else MAX_SIDECAR_BYTES):
        fault = BadImage if is_image else BadSample
        return fault(f"the tar member {member.name} is too large: {member.size} bytes")
    if is_image and want == Want.QUESTIONS:
        archive.require(member)
        return b""
    return archive.content(member)
