"""Collects the members of a tar that belong to an image, whatever their types, for export."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.sources.archive import Archive
from pipeline.sources.base import IMAGE_SUFFIXES, MAX_IMAGE_BYTES, Members, Sample
from pipeline.support.census import is_hidden
from pipeline.support.errors import BadSample, DataFault, ShardError

# What ends a group in `Grouping`, too: members of other types may stand between its members.
_SIDECARS = ("json", "txt")
# A group is held until it ends.
_MOST_MEMBERS, _HELD_BYTES = 1000, 512 << 20


@dataclass
class _Group:
    """Holds members that follow each other and share the name up to its first dot."""

    name: str
    images: dict[str, set[str]] = field(default_factory=dict)  # suffixes of the images by their stems
    others: dict[str, bytes | DataFault] = field(default_factory=dict)  # by name
    size: int = 0

    def hold(self, member: tarfile.TarInfo, archive: Archive) -> None:
        """Read a member that is no image; ShardError if the group then holds too much."""
        content = self.others[member.name] = _content(archive, member)
        self.size += len(content) if isinstance(content, bytes) else 0
        if len(self.others) > _MOST_MEMBERS or self.size > _HELD_BYTES:
            limits = f"{_MOST_MEMBERS:,} members, or {_HELD_BYTES >> 20} MiB"
            raise ShardError(f"more than {limits}, share the name {self.name}")

    def of_image(self, stem: str) -> Members:
        """Return the members of an image by suffix: those of its own name, and those of no other's."""
        own, shared = {}, {}
        for name, content in self.others.items():
            owner = max(
                (image for image in self.images if name.startswith(f"{image}.")), key=len, default=self.name
            )
            if owner == stem:
                own[name.removeprefix(f"{stem}.")] = content
            elif owner == self.name:
                shared[name.removeprefix(f"{self.name}.")] = content
        return own | {f"group.{suffix}" if suffix in own else suffix: shared[suffix] for suffix in shared}


def members_of(archive: Archive, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Members]]:
    """Yield each sample of `Grouping` with the other members of its group, by suffix.

    A member of an image's own name (`a.left.cls` of `a.left.jpg`) is that image's alone; the others of a
    group (`a.cls`) are those of all its images.

    Args:
        samples: all samples of the archive, in order.

    Raises:
        ShardError: a group has too many members to be held, or the samples are not those of the archive.
        TarError: the archive cannot be read further.
    """
    images = ((group, stem) for group in _groups(archive) for stem in group.images)
    for sample in samples:
        if sample.taken[0] == 0:  # sidecars without an image
            yield sample, {}
            continue
        group, stem = next(images, (None, ""))
        if group is None or stem != sample.key:
            raise ShardError(f"it has another image where {sample.key} was")
        yield sample, group.of_image(stem)


def _groups(archive: Archive) -> Iterator[_Group]:
    """Yield the groups of the archive; if it breaks off, the last one as far as it goes."""
    group = _Group("")
    early = _Group("")  # members of other types that stand before their group's first image or sidecar
    try:
        for member, _ in archive.members():
            stem, suffix, base = _split(member.name)
            if member.isdir() or is_hidden(member.name) or not suffix:
                continue
            is_image = suffix in IMAGE_SUFFIXES
            again = suffix in group.images.get(stem, ()) if is_image else member.name in group.others
            goes_on = base == group.name and not again
            if not goes_on and (is_image or suffix in _SIDECARS):
                yield group
                group, early = (early if early.name == base else _Group(base)), _Group("")
            elif not goes_on and (base != early.name or member.name in early.others):
                early = _Group(base)
            if is_image:
                group.images.setdefault(stem, set()).add(suffix)
            else:
                (group if goes_on or suffix in _SIDECARS else early).hold(member, archive)
    except tarfile.TarError:
        yield group
        raise
    yield group


def _split(name: str) -> tuple[str, str, str]:
    """Split a name into stem, suffix and group, as `Grouping` does."""
    start = name.rfind("/") + 1
    dot = name.rfind(".", start)
    if dot < 0:
        return name, "", name
    return name[:dot], name[dot + 1 :].lower(), name[: name.index(".", start)]


def _content(archive: Archive, member: tarfile.TarInfo) -> bytes | DataFault:
    if not member.isreg() or member.issparse():
        return BadSample("it is a link, a device or sparse, not a plain file")
    if member.size > MAX_IMAGE_BYTES:
        return BadSample(f"it is too large: {member.size} bytes")
    return archive.content(member)
