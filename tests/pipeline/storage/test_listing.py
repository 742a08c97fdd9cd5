"""Test listings: complete, in order, and with few files in memory."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage.external_sort import in_order
from pipeline.storage.listing import File, ListingRules, list_entries, list_files
from pipeline.storage.pages import s3_pages
from pipeline.storage.uris import Storage, list_names, read_bytes, write_atomic
from pipeline.support.census import PassedOver, Reason
from pipeline.support.errors import ConfigError

HERE = Storage()


def test_file_names_that_look_like_credentials(tmp_path):
    for name in ("a:b@c.jpg", "a?token=1.jpg", "x?X-Amz-Signature=y.jpg"):
        (tmp_path / name).write_bytes(b"")
    uris = [file.uri for file in list_files(str(tmp_path), HERE)]
    assert len(uris) == 3
    assert all(HERE.open(uri)[0].exists(uri) for uri in uris)


NAMES = st.text(st.sampled_from("ab.-_ 0Zé!/"), min_size=1, max_size=6)


@settings(max_examples=60)
@given(st.sets(NAMES, max_size=12))
def test_a_folder_is_listed_in_the_order_of_whole_paths(names):
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), names)
        entries = list(list_entries(folder, HERE)) if paths else []
        names = [
            entry.uri.removeprefix(f"file://{folder}/") if isinstance(entry, File) else entry.name
            for entry in entries
        ]
        assert names == sorted(str(path.relative_to(folder)) for path in paths)
        for name, entry in zip(names, entries, strict=True):
            hidden = any(part.startswith(".") for part in name.split("/"))
            assert entry == PassedOver(name, Reason.HIDDEN) if hidden else isinstance(entry, File)


def make_files(folder: Path, names: set[str]) -> list[Path]:
    """Write a file for each name that is a path and lies in no other name's file."""
    paths = []
    for name in sorted(names):
        parts = [part for part in name.split("/") if part.strip(".")]
        path = folder.joinpath(*parts)
        if not parts or path.exists() or any(parent in paths for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        paths.append(path)
    return paths


def test_the_order_is_that_of_whole_paths_not_of_folder_names(tmp_path):
    """`a-b` < `a.b` < `a/` in whole paths, while the names alone sort `a` first."""
    for name in ("a/z.jpg", "a-b/y.jpg", "a.jpg", "a0.jpg", "a/b/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed = [file.uri.removeprefix(f"file://{tmp_path}/") for file in list_files(str(tmp_path), HERE)]
    assert listed == ["a-b/y.jpg", "a.jpg", "a/b/x.jpg", "a/z.jpg", "a0.jpg"]


def test_globs(tmp_path):
    for name in ("b/2.tar", "a/1.tar", "a/10.tar", "a/c.jpg", "a/x.tar/inner"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def listed(pattern: str) -> list[str]:
        return [file.uri.removeprefix(f"file://{tmp_path}/") for file in list_files(pattern, HERE)]

    assert listed(f"{tmp_path}/*/*.tar") == ["a/1.tar", "a/10.tar", "b/2.tar"], "only files, sorted"
    assert listed(f"file://{tmp_path}/a/?.tar") == ["a/1.tar"]
    assert listed(f"{tmp_path}/**/[0-2].tar") == ["a/1.tar", "b/2.tar"]
    assert listed(f"{tmp_path}/nothing*") == []
    (tmp_path / "a" / "[1].tar").write_bytes(b"")
    assert listed(f"{tmp_path}/a/[1].tar") == ["a/[1].tar"], (
        "a file of exactly this name wins over the pattern"
    )


def test_a_single_file_and_a_missing_one(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"abc")
    (file,) = list_files(str(tmp_path / "a.tar"), HERE)
    assert (file.uri, file.size) == (f"file://{tmp_path}/a.tar", 3)
    assert int(file.etag, 16) == (tmp_path / "a.tar").stat().st_mtime_ns
    for name in ("none", "a.tar/under"):
        with pytest.raises(ConfigError, match=f"source.path: .*{name}"):
            list(list_files(str(tmp_path / name), HERE))


def test_a_listing_has_size_and_modification_time(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (old_file,) = list_files(str(tmp_path), HERE)
    os.utime(tmp_path / "a", ns=(0, int(old_file.etag, 16) + 1))
    (new_file,) = list_files(str(tmp_path), HERE)
    assert (new_file.uri, new_file.size) == (old_file.uri, old_file.size)
    assert new_file.etag != old_file.etag


# --- object storage ---


def test_a_bucket_is_listed_like_a_folder(s3):
    root = "s3://bucket/listing"
    fs, path = s3.open(root)
    names = ["a-b/y.tar", "a.tar", "a/b/x.tar", "a/z.tar", "a0.jpg"]
    for name in names:
        write_atomic(fs, f"{path}/{name}", name.encode())

    def listed(uri: str) -> list[str]:
        return [file.uri.removeprefix(f"{root}/") for file in list_files(uri, s3)]

    assert listed(root) == listed(f"{root}/") == sorted(names)
    assert listed(f"{root}/*.tar") == ["a.tar"]
    assert listed(f"{root}/*/*.tar") == ["a-b/y.tar", "a/z.tar"]
    assert listed(f"{root}/a/z.tar") == ["a/z.tar"]
    for missing in (f"{root}/none", f"{root}/none.tar"):
        with pytest.raises(ConfigError, match=f"source.path: nothing at {missing}"):
            listed(missing)
    (old_file,) = list_files(f"{root}/a.tar", s3)
    assert old_file.size == 5 and old_file.etag
    write_atomic(fs, f"{path}/a.tar", b"A.tar")
    (new_file,) = list_files(f"{root}/a.tar", s3)
    assert new_file.etag != old_file.etag, "another content of the same size"
    assert read_bytes(fs, f"{path}/a.tar") == b"A.tar" and read_bytes(fs, f"{path}/none") is None
    assert sorted(list_names(fs, path)) == ["a", "a-b", "a.tar", "a0.jpg"]
    assert list(list_names(fs, f"{path}/none")) == []


@pytest.fixture(scope="module")
def odd_bucket(s3):
    """Write files whose names sort in unusual ways or look like patterns."""
    fs, path = s3.open("s3://bucket/odd")
    names = ["a b.jpg", "a-b/y.tar", "a.tar", "a/b/x.tar", "a/z.tar", "a/z", "a0.jpg", "a::b.jpg"]
    names += ["b[1].jpg", "b1.jpg", "c [x]/1.tar", "é/1.tar", "\uff61.tar", "\U0001f600.tar", "s/1/2/3/4.jpg"]
    for name in names:
        write_atomic(fs, f"{path}/{name}", name.encode())
    return names


def test_a_bucket_is_sorted(s3, odd_bucket):
    files = list(list_files("s3://bucket/odd", s3))
    assert [file.uri for file in files] == sorted(f"s3://bucket/odd/{name}" for name in odd_bucket)
    assert [file.size for file in files] == [len(name.encode()) for name in sorted(odd_bucket)]
    assert [file.uri.encode() for file in files] == sorted(file.uri.encode() for file in files)
    for file in files:
        assert list(list_files(file.uri, s3)) == [file], "the same as when it is listed alone"
    lines = [(file.uri, file.size, file.etag) for file in files]
    for run in (1, 2, 3, 7, 100):
        assert list(in_order(reversed(lines), run_lines=run)) == lines, "with few lines in memory"


GLOBS = [
    "*",
    "**",
    "*.jpg",
    "*/*.tar",
    "**/*.tar",
    "a*",
    "a/*",
    "a/**",
    "?0.jpg",
    "b[1].jpg",
    "[ab]*/*",
    "none*",
    "s/*/2/**",
]


@pytest.mark.parametrize("pattern", GLOBS)
def test_globs_in_a_bucket_match_those_of_fsspec(s3, odd_bucket, pattern):
    fs, path = s3.open(f"s3://bucket/odd/{pattern}")
    expected = [f"s3://{name}" for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"]
    if pattern == "b[1].jpg":
        expected = ["s3://bucket/odd/b[1].jpg"]  # a file of exactly this name wins over the pattern
    assert [file.uri for file in list_files(f"s3://bucket/odd/{pattern}", s3)] == sorted(expected)


def test_a_folder_whose_name_looks_like_a_pattern(s3, odd_bucket):
    assert [file.uri for file in list_files("s3://bucket/odd/c [x]", s3)] == ["s3://bucket/odd/c [x]/1.tar"]


def test_a_listing_of_several_pages(s3, odd_bucket):
    fs, path = s3.open("s3://bucket/odd")
    pages = list(s3_pages(fs, f"{path}/", MaxKeys=4))
    assert [len(page["Contents"]) for page in pages] == [4, 4, 4, 3]
    assert {item["Key"] for page in pages for item in page["Contents"]} == {
        f"odd/{name}" for name in odd_bucket
    }


def test_a_missing_bucket_is_refused(s3):
    with pytest.raises(ConfigError, match=r"source\.path: .*s3://no-such-bucket"):
        list(list_files("s3://no-such-bucket/a", s3))


def test_the_error_of_wrong_credentials_does_not_show_them(s3):
    storage = Storage(endpoint_url=s3.endpoint_url, region=s3.region, key=s3.key, secret="CANARY-wrong")
    with pytest.raises(ConfigError, match=r"source\.path: ") as refusal:
        list(list_files("s3://bucket/listing", storage))
    assert "CANARY" not in str(refusal.value) and s3.key not in str(refusal.value)


HIDDEN = [
    *(
        ".ipynb_checkpoints/a-checkpoint.jpg",
        ".Trash-1000/files/a.jpg",
        "._a.jpg",
        "__MACOSX/a.jpg",
        "Thumbs.db",
    ),
    *(
        "@eaDir/a.jpg",
        "x/_temporary/0/a.jpg",
        "#recycle/a.jpg",
        "Desktop.ini",
        "x/lost+found/a.jpg",
        ".DS_Store",
    ),
]
OF_TABLES = ["_SUCCESS", "_metadata", "_delta_log/0.checkpoint.parquet", "x/_part-0.parquet"]


def test_leftovers_are_passed_over_and_counted(tmp_path):
    taken = ["a.jpg", "_b=1/c.parquet", "x/thumbs.jpg", "eaDir/a.jpg"]
    for name in (*HIDDEN, *OF_TABLES, *taken):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for rules, hidden in ((ListingRules(), HIDDEN), (ListingRules(of_tables=True), HIDDEN + OF_TABLES)):
        entries = list(list_entries(str(tmp_path), HERE, rules))
        passed_over = [entry for entry in entries if isinstance(entry, PassedOver)]
        assert sorted(entry.name for entry in passed_over) == sorted(hidden)
        assert {entry.reason for entry in passed_over} == {Reason.HIDDEN}
        assert len(entries) == len(HIDDEN + OF_TABLES + taken)
