"""Test that several processes can make the same cache folder at the same time."""

import multiprocessing
import os
import time

import pytest

from pipeline.support.cache import make_once

PROCESSES, FILES = 4, 50


def _make(folder, barrier, results):
    def make(target):
        barrier.wait()  # until all processes are making the folder
        for number in range(FILES):
            (target / f"{number}.txt").write_text(str(os.getpid()))
            time.sleep(0.001)

    folder_made = make_once(folder, make)
    results.put((os.getpid(), sorted(file.name for file in folder_made.iterdir())))


def test_processes_that_make_a_folder_at_once_leave_one_complete_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    folder = tmp_path / "cache" / "made"
    processes = [context.Process(target=_make, args=(folder, barrier, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    names_by_process = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(names_by_process) == PROCESSES
    assert {len(names) for names in names_by_process.values()} == {FILES}
    (writer,) = {file.read_text() for file in folder.iterdir()}
    assert int(writer) in names_by_process
    assert [path.name for path in folder.parent.iterdir()] == ["made"], "no temporary folder is left"


def test_a_folder_that_exists_is_not_made_again(tmp_path):
    make_once(tmp_path / "made", lambda target: (target / "a").touch())
    make_once(tmp_path / "made", lambda target: pytest.fail("made again"))
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["a"]


def test_a_folder_that_fails_does_not_appear(tmp_path):
    def fail(target):
        (target / "a").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_once(tmp_path / "made", fail)
    assert list(tmp_path.iterdir()) == []
