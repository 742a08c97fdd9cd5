"""Names of exported files are unique, stay below their folder, and are read as one sample each."""

import io
import tarfile
from pathlib import PurePosixPath, PureWindowsPath

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.export.names import UniqueNames, image_suffix, safe_name, safe_suffix
from pipeline.support.census import is_hidden
from tests.support.tars import add

# Names as data may hold them, made of the pieces that file systems, tars and terminals take amiss.
PIECES = [
    "a",
    "A",
    "\u00e9",
    "e\u0301",
    ".",
    "..",
    "/",
    "\\",
    "\0",
    "\n",
    "\x1b[1m",
    "\u202e",
    "\u2028",
    "\udce9",
    " ",
]
PIECES += [
    "jpg",
    ".jpg",
    "__",
    "__MACOSX",
    "lost+found",
    "con",
    "nul",
    "C:",
    "x" * 300,
    "\u96ea" * 100,
    "~",
    "*",
    "?",
]
NAMES = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=20)


@given(st.lists(NAMES, min_size=1, max_size=12))
def test_any_names_become_different_safe_files(names):
    unique = UniqueNames()
    given_names = [unique.take(name, f"000000-{number:08d}-0000") for number, name in enumerate(names)]
    assert len({name.casefold() for name in given_names}) == len(names)
    for name in given_names:
        parts = PurePosixPath(name).parts
        assert "/".join(parts) == name and name.isprintable() and "\\" not in name
        assert not PureWindowsPath(name).drive and not set(name) & set('<>:"|?*')
        assert not {".", ".."} & set(parts) and not is_hidden(name)
        assert all(len(f"{part}.answers.json".encode()) <= 255 for part in parts)
        assert not any(part.endswith((".", " ")) or part.startswith((" ", "__")) for part in parts)
        assert "." not in parts[-1]


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_webdataset_reads_each_name_as_one_sample(names):
    unique, file = UniqueNames(), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, name in enumerate(names):
            key = unique.take(name, f"000000-{number:08d}-0000")
            add(tar, f"{key}.jpg", str(number).encode())
            add(tar, f"{key}.json", str(number).encode())
    stream = [{"url": "a.tar", "stream": io.BytesIO(file.getvalue())}]
    read = list(webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander(stream)))
    assert [(sample["jpg"], sample["json"]) for sample in read] == [
        (str(number).encode(),) * 2 for number in range(len(names))
    ]


@given(st.lists(NAMES, max_size=12))
def test_no_file_stands_where_a_folder_must(names):
    unique, files, folders = UniqueNames(), set(), set()
    for number, name in enumerate(names):
        path = PurePosixPath(unique.take(name, f"0-{number}-0") + ".jpg")
        files.add(path)
        folders |= set(path.parents)
    assert not files & folders


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("v1.0/cat.large.png", "v1.0/cat_large_png"),
        ("../../evil", "x__/x__/evil"),
        ("/abs/y", "abs/y"),
        ("..\\..\\evil", "x______evil"),
        ("C:\\evil", "C__evil"),
        ("x.jpg/y", "x_jpg/y"),
        ("a. /b . ", "a/b _"),
        ("", "_"),
        ("__meta__/a", "x__meta__/a"),
        (".git/config", "_git/config"),
        ("con", "xcon"),
        ("caf\udce9", "caf_xe9"),
    ],
)
def test_safe_names(name, safe):
    assert safe_name(name) == safe


def test_long_names_stay_apart():
    long = ["x" * 250 + end for end in "ab"] + ["d/" * 600 + end for end in "ab"]
    assert len({safe_name(name) for name in long}) == 4
    assert all(len(safe_name(name)) <= 1000 for name in long)


@given(st.text(max_size=300))
def test_suffixes_are_safe(suffix):
    safe = safe_suffix(suffix)
    assert safe and safe.isprintable() and "/" not in safe and "\\" not in safe
    assert len(safe.encode()) <= 50 and not safe.endswith((".", " "))


@pytest.mark.parametrize(
    ("format", "suffix"),
    [
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("AVIF", "avif"),
    ],
)
def test_an_images_suffix_follows_from_its_content(format, suffix):
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, format)
    assert image_suffix(sink.getvalue()) == suffix
