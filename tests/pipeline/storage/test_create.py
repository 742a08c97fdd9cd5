"""Test that of several writers of a new file one is the first: locally, on S3 and elsewhere."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.storage.create import create_atomic, require_creates
from pipeline.storage.uris import Storage, list_names, read_bytes
from pipeline.support.errors import ConfigError
from tests.support.s3 import BUCKET

HERE = Storage()
ROOT = Path(__file__).parents[3]
CREATES = """
import sys
from pipeline.storage.create import create_atomic
from pipeline.storage.uris import Storage
fs, path = Storage().open(sys.argv[1])
input()
print(*(int(create_atomic(fs, f"{path}/{number}", sys.argv[2].encode() * 10_000)) for number in range(50)))
"""


def test_of_many_processes_each_file_has_one_writer(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATES, str(tmp_path / "new" / "folder"), str(name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in range(6)
    ]
    for writer in writers:  # all have started: now they race
        writer.stdin.write("\n")
        writer.stdin.flush()
    won = [writer.communicate(timeout=200)[0].split() for writer in writers]
    for number in range(50):
        (winner,) = (name for name, answers in enumerate(won) if answers[number] == "1")
        assert (tmp_path / "new" / "folder" / str(number)).read_text() == str(winner) * 10_000
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 50, "no temporary file is left"


@pytest.mark.parametrize("place", ["local", "s3", "memory"])
def test_a_file_that_is_there_stays_and_the_same_data_count_as_ours(tmp_path, s3, place):
    storage = s3 if place == "s3" else HERE
    folder = {"local": str(tmp_path / "out"), "s3": f"s3://{BUCKET}/create", "memory": "memory://create"}[
        place
    ]
    require_creates("slice", folder, storage)
    fs, path = storage.open(folder)
    assert list(list_names(fs, path)) == [], "nothing is left of the trial"
    assert create_atomic(fs, f"{path}/a", b"first")
    assert not create_atomic(fs, f"{path}/a", b"second")
    assert create_atomic(fs, f"{path}/a", b"first"), "as a request does that is sent again"
    assert read_bytes(fs, f"{path}/a") == b"first"


def test_of_many_threads_one_writes_to_s3(s3):
    fs, path = s3.open(f"s3://{BUCKET}/race")
    for number in range(10):
        start = threading.Barrier(8)

        def create(writer: int, number: int = number, start: threading.Barrier = start) -> bool:
            start.wait()
            return create_atomic(fs, f"{path}/{number}", b"%d" % writer * 100_000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert read_bytes(fs, f"{path}/{number}") == b"%d" % won.index(True) * 100_000


@contextmanager
def store(answers: list[object]) -> Iterator[tuple[Storage, dict[str, bytes]]]:
    """Serve objects as S3 does. Each PUT takes the next answer: a status with a code, LOST, IGNORES or None.

    LOST stores the object and closes the connection; IGNORES knows no condition. None: as S3 does.
    """
    objects: dict[str, bytes] = {}

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def reply(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.reply(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers.pop(0) if answers else None
            if isinstance(answer, tuple):
                self.refuse(*answer)
            elif self.path in objects and self.headers["If-None-Match"] == "*" and answer != "IGNORES":
                self.refuse(412, "PreconditionFailed")
            else:
                objects[self.path] = data
                if answer == "LOST":
                    self.close_connection = True
                else:
                    self.reply(200)

        def do_GET(self) -> None:
            if self.path in objects:
                self.reply(200, objects[self.path])
            else:
                self.refuse(404, "NoSuchKey")

        def do_HEAD(self) -> None:
            self.send_response(200 if self.path in objects else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_DELETE(self) -> None:
            objects.pop(self.path, None)
            self.reply(204)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        yield Storage(endpoint_url=url, region="us-east-1", key="key", secret="secret"), objects
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


CONFLICT = (409, "ConditionalRequestConflict")


@pytest.mark.parametrize(
    "answers",
    [
        ["LOST"],
        [CONFLICT, CONFLICT],
        [CONFLICT, "LOST"],
        [(501, "NotImplemented")],
        [(400, "InvalidRequest")],
    ],
    ids=str,
)
def test_a_lost_answer_and_a_conflict_do_not_lose_the_file(answers):
    with store(answers) as (storage, objects):
        fs, path = storage.open(f"s3://{BUCKET}/a")
        assert create_atomic(fs, path, b"ours")
        assert not create_atomic(fs, path, b"theirs")
        assert objects == {f"/{BUCKET}/a": b"ours"}


@pytest.mark.parametrize(
    "answers", [["IGNORES"] * 2, [(501, "NotImplemented")], [(400, "InvalidArgument")]], ids=str
)
def test_a_store_without_conditional_writes_is_refused_for_slices(answers):
    with store(answers) as (storage, objects):
        with pytest.raises(
            ConfigError, match=rf"^slice: the store of s3://{BUCKET}/out cannot create"
        ) as refusal:
            require_creates("slice", f"s3://{BUCKET}/out", storage)
        assert "\n" not in str(refusal.value)
        assert not objects


def test_a_file_system_that_only_looks_first_is_refused_for_slices():
    class Plain(MemoryFileSystem):
        protocol = "plain"

    fsspec.register_implementation("plain", Plain, clobber=True)
    with pytest.raises(ConfigError, match=r"^slice: the store of plain:.* cannot create a file only if"):
        require_creates("slice", "plain://out", HERE)
    fs, path = HERE.open("plain://out")
    assert create_atomic(fs, f"{path}/a", b"first")
    assert not create_atomic(fs, f"{path}/a", b"second")
