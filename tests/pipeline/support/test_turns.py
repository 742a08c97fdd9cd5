"""Test that processes of one machine take turns, and that a killed one gives its turn back."""

import multiprocessing
import os
import signal
import time

import pytest

from pipeline.support.cache import cached
from pipeline.support.turns import turn

PROCESSES = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _make(log, barrier):
    barrier.wait()
    with turn("weights"):
        cached("weights", lambda target: _write(target, log))


def _write(target, log):
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.2)
    (target / "weights").write_text("the same")


def test_of_eight_processes_one_makes_the_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(PROCESSES), tmp_path / "log"
    processes = [context.Process(target=_make, args=(log, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert len(log.read_text().split()) == 1


def _hold(ready):
    with turn("weights"):
        ready.set()
        time.sleep(600)


def test_a_killed_process_gives_its_turn_back():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(ready,))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    with turn("weights"):
        process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_an_error_gives_the_turn_back():
    with pytest.raises(ValueError, match="no"), turn("weights"):
        raise ValueError("no")
    with turn("weights"), turn("others"):
        pass
