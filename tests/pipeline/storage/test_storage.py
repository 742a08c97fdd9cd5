"""Test URIs, atomic writes, and that credentials stay out of messages."""

import json
import signal
import subprocess
import sys
from urllib.parse import quote

import fsspec
import pytest

from pipeline.output.units import Finished, Unit
from pipeline.storage.listing import list_files
from pipeline.storage.uris import (
    Storage,
    canonical,
    hide_secrets,
    list_names,
    name_of,
    put_atomic,
    read_bytes,
    write_atomic,
)
from pipeline.support.errors import ConfigError

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
    ("text", "redacted"),
    [
        ("GET https://user:pass@host/a failed", "GET https://***host/a failed"),
        ("s3://AKIA:abc@bucket/x", "s3://***bucket/x"),
        ("http://h/a?X-Amz-Signature=abc123&x=1", "http://h/a?***&x=1"),
        ("http://h/a?b=2&X-Amz-Credential=me%2F1&X-Amz-Security-Token=t", "http://h/a?b=2&***&***"),
        ("http://h/a?sig=abc&se=2026", "http://h/a?***&se=2026"),
        ("https://u:pa@ss@host/x", "https://***host/x"),
        ("https://b.storage.googleapis.com/x?X-Goog-Credential=a%2Fb&X-Goog-Signature=c", 2),
        ("https://a.blob.core.windows.net/c/x?sv=1&sig=a%3D", "https://a.blob.core.windows.net/c/x?sv=1&***"),
        ("https://h/x?access_token=a&AWSAccessKeyId=b&api_key=c&Policy=d&Key-Pair-Id=e", 5),
        ("s3://bucket/x?secret=a", "s3://bucket/x?***"),
        ("ftp://u:p@h/x https://token@h/y", "ftp://***h/x https://***h/y"),
        ("abfs://box@account.dfs.core.windows.net/x", "abfs://box@account.dfs.core.windows.net/x"),
        ("github://o:r@main/x", "github://o:r@main/x"),
        ("s3://bucket/file-?.tar", "s3://bucket/file-?.tar"),
        ("https://h/x.parquet?download=true&page=2", "https://h/x.parquet?download=true&page=2"),
        ("nothing here, me@example.org", "nothing here, me@example.org"),
        ("file:///a/b@c/d.jpg", "file:///a/b@c/d.jpg"),
    ],
)
def test_credentials_are_redacted_from_urls(text, redacted):
    hidden = HERE.redact(text)
    assert hidden.count("***") == redacted if isinstance(redacted, int) else hidden == redacted


def test_configured_and_environment_secrets_are_hidden(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"CANARY-{name}")
        assert hide_secrets(f"<CANARY-{name}>", []) == "<***>"
    storage = Storage(key="CANARY-1", secret="CANARY-2", token="CANARY-3")
    assert storage.redact("CANARY-1 CANARY-2\nCANARY-3  x") == "*** *** *** x"
    assert storage.hide("CANARY-1\n x") == "***\n x"
    assert "CANARY" not in repr(storage) + str(storage)
    assert Storage(key="a", secret="b").hide("a b") == "a b", "too short to be a secret"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/data/test/images", "/data/test/images"),
        (
            "test/images and latest, test.jsonl, my-test, test_1",
            "test/images and latest, test.jsonl, my-test, test_1",
        ),
        ("the key test is wrong: 'test', key=test.", "the key *** is wrong: '***', key=***."),
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=test/2026",
            "Authorization: AWS4-HMAC-SHA256 Credential=***/2026",
        ),
    ],
)
def test_a_short_secret_is_hidden_where_it_is_no_part_of_a_name(text, hidden):
    store = Storage(key="test", secret="test")
    assert store.hide(text) == hidden
    assert store.hide_in_data('{"question": "Is this a test ?"}') == '{"question": "Is this a test ?"}'


@pytest.mark.parametrize(
    "secret", ["100000000", "fingerprint", '": {"max_pixels": ', "s\ncounted\\\\", "minioadmin"]
)
def test_a_secret_that_looks_like_json_leaves_json(secret):
    data = {
        "fingerprint": "0f",
        "counted": {"max_pixels": 100000000},
        "path": "/data/minioadmin/x",
        "said": secret,
    }
    shown = Storage(key="k", secret=secret).as_json(data)
    assert json.loads(shown) == data | {"said": "***" if secret.isalnum() else json.loads(shown)["said"]}


@pytest.mark.parametrize("form", ["{}", "a{}b", "/x/{}/y", "Credential={}/2026"])
def test_a_long_secret_is_hidden_in_any_form(form):
    secret = 'CANARY/sec+ret="quoted"'
    store = Storage(key="0123456789abcdef", secret=secret)
    for written in (secret, quote(secret, safe=""), json.dumps(secret)):
        assert "CANARY" not in store.hide(form.format(written)) + store.hide_in_data(form.format(written))


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "https://user:CANARY@host/a.tar",
            "s3://user:CANARY@bucket/a",
            "https://h/a?x=1&X-Amz-Signature=CANARY",
        ),
        *(
            "https://CANARY@h/x",
            "http://u:pa@CANARY@h/x",
            "ftp://u:CANARY@h/x",
            "gs://b/x?access_token=CANARY",
        ),
        *("https://b.storage.googleapis.com/x?X-Goog-Signature=CANARY", "s3://b/x?secret=CANARY"),
        *("https://a.blob.core.windows.net/c/x?sv=1&sig=CANARY", "https://h/x?api_key=CANARY&.parquet"),
    ],
)
def test_urls_with_credentials_are_refused(uri):
    for use in (HERE.open, lambda uri: list(list_files(uri, HERE)), lambda uri: canonical(uri, HERE)):
        with pytest.raises(ConfigError, match="must not hold credentials") as refusal:
            use(uri)
        assert "CANARY" not in str(refusal.value)


# --- names ---


def test_names_in_a_folder(tmp_path):
    assert list(list_names(LOCAL, str(tmp_path / "none"))) == []
    (tmp_path / "a").write_bytes(b"")
    assert list(list_names(LOCAL, str(tmp_path))) == ["a"]


# --- writing ---


def test_written_data_is_read_back(tmp_path):
    path = str(tmp_path / "new" / "folder" / "a")
    assert read_bytes(LOCAL, path) is None
    for data in (b"one", b""):
        write_atomic(LOCAL, path, data)
        assert read_bytes(LOCAL, path) == data
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["a"]


def test_a_failed_write_leaves_no_file(tmp_path):
    (tmp_path / "a").mkdir()  # a file cannot be renamed onto a folder
    with pytest.raises(OSError):
        write_atomic(LOCAL, str(tmp_path / "a"), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, pathlib, signal, sys
import fsspec
from pipeline.storage.uris import write_atomic

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the rename":
    pathlib.Path.rename = pathlib.Path.replace = os.rename = os.replace = killed
else:
    os.fsync = killed
write_atomic(fsspec.filesystem("file"), sys.argv[1], b"x" * 100_000)
"""


@pytest.mark.parametrize("when", ["before the rename", "before the data are on disk"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_killed_writer_leaves_no_partial_file(tmp_path, when, exists):
    unit = Unit(0, 0, 64, True)
    path = tmp_path / "data" / unit.file_name
    path.parent.mkdir()
    if exists:
        path.write_bytes(b"old")
    code = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), when], check=False, timeout=200
    ).returncode
    assert code == -signal.SIGKILL
    assert (path.read_bytes() == b"old") if exists else not path.exists()
    names = list(list_names(LOCAL, str(path.parent)))
    assert len(names) == 1 + exists, "the temporary file stays"
    assert Finished(names).count == exists
    write_atomic(LOCAL, str(path), b"new")
    assert path.read_bytes() == b"new"
    assert Finished(list_names(LOCAL, str(path.parent))).has_shard(0)


# --- object storage ---


def test_a_local_file_is_copied_to_the_store(s3, tmp_path):
    (tmp_path / "from").write_bytes(b"content")
    for storage, target in ((HERE, f"{tmp_path}/new/folder/to"), (s3, "s3://bucket/put/to")):
        fs, path = storage.open(target)
        put_atomic(fs, path, str(tmp_path / "from"))
        assert read_bytes(fs, path) == b"content"
        assert list(list_names(fs, path.rpartition("/")[0])) == ["to"]
