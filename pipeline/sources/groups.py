"""Makes samples of a tar's members: an image with the sidecars of its name, as webdataset groups them."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.sources.archive import Archive
from pipeline.sources.base import AHEAD, IMAGE_SUFFIXES, MAX_IMAGE_BYTES, Sample, Want, Wanted
from pipeline.sources.questions import MAX_SIDECAR_BYTES, Keys
from pipeline.sources.sidecars import SIDECARS, assemble
from pipeline.support.census import PassedOver, Reason, is_hidden
from pipeline.support.errors import BadImage, BadSample, DataFault

_READ = frozenset((*IMAGE_SUFFIXES, *SIDECARS))
# A group holds images until it ends, since sidecars may follow them, and sidecars until their images come:
# at most AHEAD images, and these bytes of images and of sidecars beside the last image.
_HELD_BYTES = 32 << 20
_MEMBER_BYTES = 2 << 10  # about what tarfile's object takes

Content = bytes | DataFault
Key = tuple[str, str]  # of a sidecar: stem and suffix


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
    parts: dict[str, Content] = field(default_factory=dict)


@dataclass
class _Sidecar:
    """Holds a sidecar: its content, or the member, to be read when it is needed."""

    member: tarfile.TarInfo
    content: Content | None = None
    used: bool = False

    @property
    def size(self) -> int:
        """The most bytes that it takes in memory: content that is too large is not read."""
        return _MEMBER_BYTES + (self.member.size if self.member.size <= MAX_SIDECAR_BYTES else 0)


class Grouping:
    """Makes samples of members, in the order of their images.

    Members that follow each other and share the name up to its first dot are a group. A sidecar belongs to
    the group's images of its own stem (`a.left.json` or `a.left.jpg.json` to `a.left.jpg`), else, if the
    group's name is its stem (`a.json`), to the group's other images. What is yielded does not depend on what
    is wanted, but for the content. However long a group is, memory is bounded.
    """

    def __init__(self, archive: Archive, wanted: Wanted, keys: Keys | None = None) -> None:
        self._archive, self._wanted, self._keys = archive, wanted, keys
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
        self._sidecars: dict[Key, _Sidecar] = {}
        self._sidecar_bytes = 0
        self._let_go = False  # whether an image was yielded before the group's end

    def _add(self, member: tarfile.TarInfo, end: int) -> None:
        name = _split(member.name)
        if member.isdir():  # folders are no entries
            return
        if reason := _reason(member, name):
            self._ready.append(PassedOver(member.name, reason))
            return
        key = (name.stem, name.suffix)
        same = self._sidecars.get(key) if name.group == self._group else None
        if same is not None and same.member.name != member.name:
            # the names differ in letter case alone
            self._ready.append(PassedOver(member.name, Reason.SECOND_SIDECAR))
            return
        if name.group != self._group or same is not None or self._has_image(key):
            self._finish()
            self._begin(name.group)
        self._end = end
        if name.suffix in IMAGE_SUFFIXES:
            self._add_image(member, name)
        elif self._let_go and not any(_is_own(key, image) for image in self._images):
            self._ready.append(PassedOver(member.name, Reason.FAR_SIDECAR))
        else:
            self._add_sidecar(member, key)

    def _has_image(self, key: Key) -> bool:
        image = self._image_of(key[0])
        return image is not None and key[1] in image.parts

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
        try:
            image.parts[name.suffix] = _content(self._archive, member, image.want, is_image=True)
        except tarfile.TarError:
            image.parts[name.suffix] = _broken_off(member)
            raise
        while len(self._images) > 1 and self._holds_too_much():
            self._let_image_go()

    def _holds_too_much(self) -> bool:
        return len(self._images) == AHEAD or sum(held.size for held in self._images[:-1]) > _HELD_BYTES

    def _let_image_go(self) -> None:
        """Make the first image ready before the group's end, and forget the sidecars that are its alone."""
        self._let_go = True
        image = self._images.pop(0)
        self._ready.append(self._sample(image))
        for key in [(stem, kind) for stem in (image.name.stem, image.name.whole) for kind in SIDECARS]:
            if key[0] != self._group and key in self._sidecars:
                sidecar = self._forget(key)
                if not sidecar.used:
                    self._ready.append(PassedOver(sidecar.member.name, Reason.SECOND_SIDECAR))

    def _add_sidecar(self, member: tarfile.TarInfo, key: Key) -> None:
        sidecar = self._sidecars[key] = _Sidecar(member)
        self._sidecar_bytes += sidecar.size
        try:
            sidecar.content = self._read_sidecar(member)
        except tarfile.TarError:
            sidecar.content = _broken_off(member)
            raise
        while self._sidecar_bytes > _HELD_BYTES and (far := self._first_waiting()) is not None:
            self._ready.append(PassedOver(self._forget(far).member.name, Reason.FAR_SIDECAR))

    def _first_waiting(self) -> Key | None:
        """Find the first sidecar that waits for an image of its own."""
        for key in self._sidecars:
            if key[0] != self._group and not any(_is_own(key, image) for image in self._images):
                return key
        return None

    def _forget(self, key: Key) -> _Sidecar:
        sidecar = self._sidecars.pop(key)
        self._sidecar_bytes -= sidecar.size
        return sidecar

    def _read_sidecar(self, member: tarfile.TarInfo) -> Content | None:
        """Read a sidecar if questions of the group, or the next, are wanted; else it can be read later."""
        wanted = self._archive.is_compressed or Want.QUESTIONS in self._peek_want()
        for image in self._images:
            wanted = wanted or Want.QUESTIONS in image.want
        return _content(self._archive, member, Want.ALL, is_image=False) if wanted else None

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
        if not self._images:
            for key, sidecar in self._sidecars.items():
                if key[0] == self._group:
                    self._ready.append(self._sample(_Image(_split(sidecar.member.name), self._take_want())))
                    break
        used = {key[0] for key, sidecar in self._sidecars.items() if sidecar.used}
        for key, sidecar in self._sidecars.items():
            if not sidecar.used:
                second = key[0] == self._group or key[0] in used
                reason = Reason.SECOND_SIDECAR if second else Reason.NO_IMAGE
                self._ready.append(PassedOver(sidecar.member.name, reason))

    def _sample(self, image: _Image) -> Sample | None:
        """Make an image's sample, or None if it is not wanted; its sidecars count as used in either case."""
        contents, sidecars = dict(image.parts), 0
        for kind in SIDECARS:
            if (sidecar := self._sidecar_of(image, kind)) is not None:
                sidecars += not sidecar.used
                sidecar.used = True
                if Want.QUESTIONS in image.want:
                    if sidecar.content is None:
                        sidecar.content = _content(self._archive, sidecar.member, Want.ALL, is_image=False)
                    contents[kind] = sidecar.content
        if not image.want:
            return None
        key = image.name.stem if image.parts else self._group
        return assemble(key, self._end, contents, (len(image.parts), sidecars), self._keys)

    def _sidecar_of(self, image: _Image, kind: str) -> _Sidecar | None:
        for stem in (image.name.stem, image.name.whole, self._group) if self._sidecars else ():
            if (sidecar := self._sidecars.get((stem, kind))) is not None:
                return sidecar
        return None


def _is_own(key: Key, image: _Image) -> bool:
    """Tell whether a sidecar is of an image's own name, as `a.left.json` and `a.left.jpg.json` are."""
    return key[0] in (image.name.stem, image.name.whole)


def _broken_off(member: tarfile.TarInfo) -> BadSample:
    return BadSample(f"the tar breaks off within {member.name}")


def _reason(member: tarfile.TarInfo, name: _Name) -> Reason | None:
    """Say why a member is no part of a sample; None: it is."""
    if is_hidden(name.whole):
        return Reason.HIDDEN
    return None if name.suffix in _READ else Reason.OTHER_TYPE


def _content(archive: Archive, member: tarfile.TarInfo, want: Want, *, is_image: bool) -> Content:
    """Read a member; a fault if it is no plain file or too large."""
    if not want:
        return b""
    if not member.isreg() or member.issparse():  # a sparse file of a few bytes may be gigabytes of zeros
        return BadSample(f"the tar member {member.name} is a link, a device or sparse, not a plain file")
    if member.size > (MAX_IMAGE_BYTES if is_image else MAX_SIDECAR_BYTES):
        fault = BadImage if is_image else BadSample
        return fault(f"the tar member {member.name} is too large: {member.size} bytes")
    if is_image and Want.IMAGE not in want:
        archive.require(member)
        return b""
    return archive.content(member)
