"""The vLLM engine in a process of its own, as on GPUs: equal answers, and no orphan."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.engines.vllm import Vllm
from pipeline.models.config import Decoding
from tests.vllm.conftest import NEW_TOKENS

PATIENCE_S = 20.0


def _answer(model, requests, connection):
    """Answer in a process whose engine has one of its own; then wait to be killed."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    config = Vllm(kv_cache_gib=0.25)
    engine = config.load(model, Decoding(max_new_tokens=NEW_TOKENS), device="cpu", seed=0)
    answers = engine.generate(requests)
    connection.send([answer.token_ids for answer in answers])
    time.sleep(600)


def children_of(parent: int) -> set[int]:
    """Collect the living processes below a process."""
    stats = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if fields[0] != "Z":
            stats[int(file.parent.name)] = int(fields[1])
    found, new = set(), {parent}
    while new:
        new = {process for process, above in stats.items() if above in new} - found
        found |= new
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_engines_process_answers_alike_and_ends_with_a_killed_actor(model, requests, expected):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    actor = context.Process(target=_answer, args=(model, requests[:12], theirs))
    actor.start()
    assert ours.poll(800)
    assert ours.recv() == [answer.token_ids for answer in expected[:12]]
    below = children_of(actor.pid)
    engines = {process for process in below if b"EngineCore" in Path(f"/proc/{process}/cmdline").read_bytes()}
    assert len(engines) == 1, "the engine has a process of its own"
    os.kill(actor.pid, signal.SIGKILL)
    actor.join()
    deadline = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{process}").exists() for process in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = {process for process in below if Path(f"/proc/{process}").exists()}
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left
