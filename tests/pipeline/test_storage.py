"""URIs, listings, writes that are seen whole or not at all, and credentials that are not told."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.storage import (
    Storage,
    canonical,
    hide_secrets,
    list_files,
    list_names,
    name_of,
    read_bytes,
    write_atomic,
)
from pipeline.units import Finished, Unit

LOCAL = fsspec.filesystem("file")
HERE = Storage()


# --- URIs ---


def test_a_path_has_one_canonical_uri(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    expected = f"file://{tmp_path}/a/out"
    monkeypatch.chdir(tmp_path)
    names = [
        "a/out",
        "a/out/",
        "./a/out",
        "a/../a/out",
        "a//out",
        f"{tmp_path}/a/out",
        f"file://{tmp_path}/a/out/",
    ]
    assert {name: canonical(name, HERE) for name in names} == dict.fromkeys(names, expected)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert canonical("../out", HERE) == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert canonical("~/a/out", HERE) == expected
    assert canonical(expected, HERE) == expected


def test_object_storage_uris_are_canonical(tmp_path):
    storage = Storage(endpoint_url="http://127.0.0.1:1", key="abcd", secret="efgh")
    assert (
        canonical("s3://bucket/a/b/", storage) == canonical("s3://bucket/a/b", storage) == "s3://bucket/a/b"
    )
    assert canonical("s3a://bucket/a", storage) == "s3://bucket/a"
    assert canonical("s3://bucket/a b/*.tar", storage) == "s3://bucket/a b/*.tar"


def test_the_name_of_a_uri():
    assert [name_of(uri) for uri in ("s3://b/c/d.tar", "file:///c/d/", "x")] == ["d.tar", "d", "x"]


@pytest.mark.parametrize("uri", ["nope://x/y", "nope+x://y"])
def test_unknown_protocols(uri):
    with pytest.raises(ConfigError, match="nope"):
        HERE.open(uri)


# --- credentials ---


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("GET https://user:pass@host/a failed", "GET https://***host/a failed"),
        ("s3://AKIA:abc@bucket/x", "s3://***bucket/x"),
        ("http://h/a?X-Amz-Signature=abc123&x=1", "http://h/a?***&x=1"),
        ("http://h/a?b=2&X-Amz-Credential=me%2F1&X-Amz-Security-Token=t", "http://h/a?b=2&***&***"),
        ("http://h/a?sig=abc&se=2026", "http://h/a?***&se=2026"),
        ("nothing here, me@example.org", "nothing here, me@example.org"),
        ("file:///a/b@c/d.jpg", "file:///a/b@c/d.jpg"),
    ],
)
def test_urls_are_told_without_credentials(text, told):
    assert HERE.redact(text) == told


def test_configured_and_environment_secrets_are_hidden(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"CANARY-{name}")
        assert hide_secrets(f"<CANARY-{name}>", []) == "<***>"
    storage = Storage(key="CANARY-1", secret="CANARY-2", token="CANARY-3")
    assert storage.redact("CANARY-1 CANARY-2\nCANARY-3  x") == "*** *** *** x"
    assert storage.hide("CANARY-1\n x") == "***\n x"
    assert "CANARY" not in repr(storage) + str(storage)
    assert Storage(key="a", secret="b").hide("a b") == "a b", "too short to be one"


@pytest.mark.parametrize(
    "uri",
    ["https://user:CANARY@host/a.tar", "s3://user:CANARY@bucket/a", "https://h/a?x=1&X-Amz-Signature=CANARY"],
)
def test_urls_with_credentials_are_refused(uri):
    for use in (HERE.open, lambda uri: list(list_files(uri, HERE)), lambda uri: canonical(uri, HERE)):
        with pytest.raises(ConfigError, match="must not hold credentials") as refusal:
            use(uri)
        assert "CANARY" not in str(refusal.value)


def test_names_of_files_are_no_credentials(tmp_path):
    for name in ("a:b@c.jpg", "a?token=1.jpg", "x?X-Amz-Signature=y.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = [file.uri for file in list_files(str(tmp_path), HERE)]
    assert len(found) == 3
    assert all(HERE.open(uri)[0].exists(uri) for uri in found)


# --- listings ---

NAMES = st.text(st.sampled_from("ab.-_ 0Zé!/"), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.sets(NAMES, max_size=12))
def test_a_folder_is_listed_in_the_order_of_whole_paths(names):
    with tempfile.TemporaryDirectory() as folder:
        made = make_files(Path(folder), names)
        listed = [file.uri for file in list_files(folder, HERE)] if made else []
        assert listed == sorted(f"file://{path}" for path in made)


def make_files(folder: Path, names: set[str]) -> list[Path]:
    """A file for each name that is a path and does not pass through another one's file."""
    made = []
    for name in sorted(names):
        parts = [part for part in name.split("/") if part.strip(".")]
        path = folder.joinpath(*parts)
        if not parts or path.exists() or any(parent in made for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        made.append(path)
    return made


def test_the_order_does_not_depend_on_how_folders_sort(tmp_path):
    """`a-b` < `a/` < `a.b` in whole paths, while the names alone sort `a` first."""
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

    assert listed(f"{tmp_path}/*/*.tar") == ["a/1.tar", "a/10.tar", "b/2.tar"], "files alone, sorted"
    assert listed(f"file://{tmp_path}/a/?.tar") == ["a/1.tar"]
    assert listed(f"{tmp_path}/**/[0-2].tar") == ["a/1.tar", "b/2.tar"]
    assert listed(f"{tmp_path}/nothing*") == []
    (tmp_path / "a" / "[1].tar").write_bytes(b"")
    assert listed(f"{tmp_path}/a/[1].tar") == ["a/[1].tar"], "a file of that very name comes first"


def test_one_file_and_none(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"abc")
    (file,) = list_files(str(tmp_path / "a.tar"), HERE)
    assert (file.uri, file.size) == (f"file://{tmp_path}/a.tar", 3)
    assert int(file.etag, 16) == (tmp_path / "a.tar").stat().st_mtime_ns
    for name in ("none", "a.tar/under"):
        with pytest.raises(ConfigError, match=f"source.path: .*{name}"):
            list(list_files(str(tmp_path / name), HERE))


def test_a_listing_tells_size_and_time(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (before,) = list_files(str(tmp_path), HERE)
    os.utime(tmp_path / "a", ns=(0, int(before.etag, 16) + 1))
    (after,) = list_files(str(tmp_path), HERE)
    assert (after.uri, after.size) == (before.uri, before.size)
    assert after.etag != before.etag


def test_names_in_a_folder(tmp_path):
    assert list(list_names(LOCAL, str(tmp_path / "none"))) == []
    (tmp_path / "a").write_bytes(b"")
    assert list(list_names(LOCAL, str(tmp_path))) == ["a"]


# --- writing ---


def test_writing_and_reading(tmp_path):
    path = str(tmp_path / "new" / "folder" / "a")
    assert read_bytes(LOCAL, path) is None
    for data in (b"one", b""):
        write_atomic(LOCAL, path, data)
        assert read_bytes(LOCAL, path) == data
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["a"]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()  # a file cannot be renamed onto it
    with pytest.raises(OSError):
        write_atomic(LOCAL, str(tmp_path / "a"), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, pathlib, signal, sys
import fsspec
from pipeline.storage import write_atomic

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the rename":
    pathlib.Path.rename = pathlib.Path.replace = os.rename = os.replace = killed
else:
    os.fsync = killed
write_atomic(fsspec.filesystem("file"), sys.argv[1], b"x" * 100_000)
"""


@pytest.mark.parametrize("when", ["before the rename", "before the data are on disk"])
@pytest.mark.parametrize("there", [False, True])
def test_a_writer_that_is_killed_leaves_no_half_file(tmp_path, when, there):
    unit = Unit(0, 0, 64, True)
    path = tmp_path / "data" / unit.file_name
    path.parent.mkdir()
    if there:
        path.write_bytes(b"old")
    code = subprocess.run([sys.executable, "-c", KILLED, str(path), when], check=False, timeout=60).returncode
    assert code == -signal.SIGKILL
    assert (path.read_bytes() == b"old") if there else not path.exists()
    names = list(list_names(LOCAL, str(path.parent)))
    assert len(names) == 1 + there, "the temporary file is left over"
    assert Finished(names).count == there
    write_atomic(LOCAL, str(path), b"new")
    assert path.read_bytes() == b"new"
    assert Finished(list_names(LOCAL, str(path.parent))).has_shard(0)


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
    (before,) = list_files(f"{root}/a.tar", s3)
    assert before.size == 5 and before.etag
    write_atomic(fs, f"{path}/a.tar", b"A.tar")
    (after,) = list_files(f"{root}/a.tar", s3)
    assert after.etag != before.etag, "another content of the same size"
    assert read_bytes(fs, f"{path}/a.tar") == b"A.tar" and read_bytes(fs, f"{path}/none") is None
    assert sorted(list_names(fs, path)) == ["a", "a-b", "a.tar", "a0.jpg"]
    assert list(list_names(fs, f"{path}/none")) == []


def test_a_bucket_that_is_not_there(s3):
    with pytest.raises(ConfigError, match=r"source\.path: .*s3://no-such-bucket"):
        list(list_files("s3://no-such-bucket/a", s3))


def test_wrong_credentials_are_told_without_them(s3):
    wrong = Storage(endpoint_url=s3.endpoint_url, region=s3.region, key=s3.key, secret="CANARY-wrong")
    with pytest.raises(ConfigError, match=r"source\.path: ") as refusal:
        list(list_files("s3://bucket/listing", wrong))
    assert "CANARY" not in str(refusal.value) and s3.key not in str(refusal.value)
