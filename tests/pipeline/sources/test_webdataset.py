"""Every member of a tar becomes an image or a sidecar of a sample, or is passed over with a reason."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.archive import Archive
from pipeline.sources.base import Sample, Want, files_of
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.census import PassedOver, Reason
from pipeline.support.errors import ShardError
from tests.support.tars import write_members

HERE = Storage()
ASK = b'{"question": "what is %s?"}'


def ask(word: str) -> bytes:
    return ASK.replace(b"%s", word.encode())


def read(path: Path, wanted=lambda _: Want.ALL) -> list[Sample | PassedOver | None]:
    source = WebDataset(path=str(path))
    (shard,) = source.shards(files_of(source, HERE), HERE)
    return list(source.samples(shard, HERE, wanted))


def questions(items) -> dict[str, list[str]]:
    return {
        item.key: [question.text for question in item.questions] for item in items if isinstance(item, Sample)
    }


def passed_over(items) -> dict[str, Reason]:
    return {item.name: item.reason for item in items if isinstance(item, PassedOver)}


def test_an_image_is_a_sample_whatever_dots_its_name_has(tmp_path):
    names = ["plain.jpg", "v1.5_street.jpg", "22.05.png", "a.left.jpg", "a.right.jpg", "b.image.JPG"]
    items = read(write_members(tmp_path / "a.tar", [(name, name.encode()) for name in names]))
    assert [(item.key, item.image) for item in items] == [
        (name.rpartition(".")[0], name.encode()) for name in names
    ]


@pytest.mark.parametrize("sidecars_first", [False, True])
def test_a_sidecar_belongs_to_its_own_stem_else_to_the_images_of_its_group(tmp_path, sidecars_first):
    images = [(f"d/a.{side}.jpg", b"image") for side in ("left", "right", "top", "down")]
    sidecars = [
        ("d/a.json", ask("group")),
        ("d/a.left.json", ask("left")),
        ("d/a.right.jpg.json", ask("right")),
        ("d/a.top.txt", b"top?"),
    ]
    members = sidecars + images if sidecars_first else images + sidecars
    assert questions(read(write_members(tmp_path / "a.tar", members))) == {
        "d/a.left": ["what is left?"],
        "d/a.right": ["what is right?"],
        "d/a.top": ["what is group?"],  # a .txt counts only without a .json
        "d/a.down": ["what is group?"],
    }


def test_what_is_passed_over_has_a_reason(tmp_path):
    members = [
        ("a.jpg", b"image"),
        ("a.json", ask("a")),
        ("a.JSON", ask("other")),
        ("a.x.json", ask("x")),
        ("a.cls", b"1"),
        ("._a.jpg", b""),
        (".ipynb_checkpoints/a.jpg", b""),
        ("./b.jpg", b"image"),
        ("__MACOSX/b.jpg", b""),
    ]
    items = read(write_members(tmp_path / "a.tar", members))
    assert questions(items) == {"a": ["what is a?"], "./b": []}
    assert passed_over(items) == {
        "a.JSON": Reason.SECOND_SIDECAR,
        "a.x.json": Reason.NO_IMAGE,
        "a.cls": Reason.OTHER_TYPE,
        "._a.jpg": Reason.HIDDEN,
        ".ipynb_checkpoints/a.jpg": Reason.HIDDEN,
        "__MACOSX/b.jpg": Reason.HIDDEN,
    }


def test_a_group_of_any_length_is_read_in_bounded_memory(tmp_path):
    """Images of a long group are yielded before its end: a sidecar of the group then comes too late."""
    images = [(f"frame.{number:03d}.jpg", bytes(1 << 10)) for number in range(100)]
    items = read(write_members(tmp_path / "a.tar", [*images, ("frame.json", ask("late"))]))
    assert len(questions(items)) == 100 and not any(questions(items).values())
    assert passed_over(items) == {"frame.json": Reason.FAR_SIDECAR}
    first = read(write_members(tmp_path / "b.tar", [("frame.json", ask("it")), *images]))
    assert set(map(tuple, questions(first).values())) == {("what is it?",)}


def test_pairs_of_a_long_group_stay_together(tmp_path):
    """Each image has its own sidecar, however long the group is; what was let go is not kept."""
    pairs = [
        (f"frame.{number:03d}.{suffix}", ask(f"{number}"))
        for number in range(100)
        for suffix in ("jpg", "json")
    ]
    items = read(write_members(tmp_path / "a.tar", pairs))
    assert questions(items) == {f"frame.{number:03d}": [f"what is {number}?"] for number in range(100)}
    assert passed_over(items) == {}


def test_sidecars_without_images_do_not_fill_the_memory(tmp_path):
    """Sixty sidecars of a megabyte wait for images of their own: the first are passed over."""
    large = ask("x" * (1 << 20))
    sidecars = [(f"a.{number:02d}.json", large) for number in range(60)]
    images = [(f"a.{number:02d}.jpg", b"image") for number in range(60)]
    path = write_members(tmp_path / "a.tar", [("a.json", ask("group")), *sidecars, *images])
    tracemalloc.start()
    items = read(path, lambda index: Want.ALL if index == 0 else Want.NOTHING)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20
    far = [name for name, reason in passed_over(items).items() if reason == Reason.FAR_SIDECAR]
    assert far == [name for name, _ in sidecars[: len(far)]] and 25 < len(far) < 35
    assert questions(items) == {"a.00": ["what is group?"]}


def two_archives(folder: Path) -> bytes:
    """Return what `cat a.tar b.tar` prints."""
    parts = (write_members(folder / f"{key}.tar", [(f"{key}.jpg", key.encode() * 3000)]) for key in "ab")
    return b"".join(part.read_bytes() for part in parts)


@pytest.mark.parametrize("padding", [0, 512, 10_240])
def test_archives_one_after_another_are_read_to_the_end(tmp_path, padding):
    whole = two_archives(tmp_path)
    (tmp_path / "both.tar").write_bytes(whole[:10240] + bytes(padding) + whole[10240:] + bytes(padding))
    assert [item.key for item in read(tmp_path / "both.tar")] == ["a", "b"]
    (tmp_path / "both.tar").write_bytes(whole[:10240] + b"this is no header" * 100)
    with pytest.raises(ShardError, match="bad header"):
        read(tmp_path / "both.tar")


@pytest.mark.parametrize("name", ["x.tar.gz", "X.TGZ", "x.tar.zst", "x.TAR"])
def test_compressed_tars_are_read(tmp_path, name):
    data = two_archives(tmp_path)
    compressed = {"gz": gzip.compress, "zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
    suffix = name.lower().rpartition(".")[2].replace("tgz", "gz")
    (tmp_path / name).write_bytes(compressed.get(suffix, bytes)(data))
    assert [(item.key, item.image) for item in read(tmp_path / name)] == [
        (key, key.encode() * 3000) for key in "ab"
    ]
    if suffix in compressed:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
        with pytest.raises(ShardError, match="compressed data is damaged"):
            read(tmp_path / name)


@pytest.mark.slow
def test_a_compressed_tar_does_not_expand_without_end(tmp_path):
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(bytes(200 << 20), 9))
    with pytest.raises(ShardError, match="expands to more than 64 times its size"):
        read(tmp_path / "bomb.tgz")


def test_names_that_are_not_utf8_are_kept_apart(tmp_path):
    from pipeline.sources.task import Task
    from pipeline.stages.read import sample_row

    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1") as tar:
        for name in ("caf\xe9.jpg", "caf\xe8.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    rows = [sample_row(item, 0, Task(prompts=["what?"]), 9, HERE) for item in read(tmp_path / "a.tar")]
    assert len({row["sample_key"] for row in rows}) == 2 and {row["status"] for row in rows} == {"ok"}


NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "d/", "./", ".h/", "d.e/"]),
        st.sampled_from(["a", "b", "a.x", "a.y", ".", "", "._a"]),
        st.sampled_from([".jpg", ".JPG", ".png", ".json", ".txt", ".jpg.json", ".JSON", ".bin", "", ".tar"]),
    ),
).filter(lambda name: name.rpartition("/")[2] not in ("", "."))


@pytest.mark.slow
@settings(max_examples=300)
@given(names=st.lists(NAMES, max_size=25), finished=st.sets(st.integers(0, 25)), compressed=st.booleans())
def test_no_member_is_unaccounted_for(tmp_path_factory, names, finished, compressed):
    """What is taken and what is passed over add up, and a resumed run reads the same samples."""
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    write_members(path, [(name, ask(f"{name} {number}")) for number, name in enumerate(names)])
    if compressed:
        path = path.rename(path.with_name("a.tgz"))
        path.write_bytes(gzip.compress(path.read_bytes()))
    whole = read(path)
    taken = sum(sum(item.taken) for item in whole if isinstance(item, Sample))
    assert taken + len([item for item in whole if isinstance(item, PassedOver)]) == len(names)
    asked: list[int] = []

    def wanted(index: int) -> Want:
        asked.append(index)
        return Want.NOTHING if index in finished else Want.ALL

    resumed = read(path, wanted)
    samples = [item for item in whole if isinstance(item, Sample)]
    assert asked == list(range(len(asked))) and len(samples) <= len(asked) <= len(samples) + 1
    positions = [item.position for item in samples]
    assert positions == sorted(positions)
    numbers = iter(range(len(samples)))
    for item, same in zip(whole, resumed, strict=True):
        is_unwanted = not isinstance(item, PassedOver) and next(numbers) in finished
        if isinstance(item, PassedOver) or not is_unwanted:
            left, right = item, same
            if isinstance(left, Sample) and left.taken != right.taken:
                left = right  # a sidecar of several images counts for the first that is read
                assert item.key == same.key and item.questions == same.questions
            assert left == right or str(left.fault) == str(right.fault)
        else:
            assert same is None


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.text(max_size=120).filter(lambda name: name and "\0" not in name),
            st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
            st.integers(0, 2000),
        ),
        max_size=8,
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_finds(members, kind):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for name, member_type, size in members:
            info = tarfile.TarInfo(name)
            info.type = member_type
            if info.isreg() and not name.endswith("/"):  # a folder has no bytes, and tarfile skips none
                info.size = size
            with contextlib.suppress(ValueError):  # a name that the format cannot hold
                tar.addfile(info, io.BytesIO(bytes(info.size)))
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        expected = [(member.name, member.type, member.size, member.offset_data) for member in tar]
    found = Archive(io.BytesIO(sink.getvalue()), len(sink.getvalue())).members()
    assert [(member.name, member.type, member.size, member.offset_data) for member, _ in found] == expected
