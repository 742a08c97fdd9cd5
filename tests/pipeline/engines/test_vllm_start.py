"""Test that the cause is told of what vLLM's processes raise when they start; without vLLM."""

import subprocess
import sys

import pytest

from pipeline.engines.vllm_start import explained, last_raised
from pipeline.support.errors import ConfigError

NO_ROOM = "To serve at least one request with the models's max seq len (4096), (2.0 GiB KV cache is needed"
ONE_GPU = f"""\
(EngineCore pid=7) Process EngineCore:
(EngineCore pid=7) Traceback (most recent call last):
(EngineCore pid=7)   File "/opt/vllm/v1/engine/core.py", line 1514, in run_engine_core
(EngineCore pid=7)     raise e
(EngineCore pid=7) ValueError: {NO_ROOM}
"""
FOUR_GPUS = """\
(Worker_TP0 pid=8) ERROR 11-29 08:10:10 [multiproc_executor.py:953] WorkerProc failed to start.
(Worker_TP0 pid=8) ERROR 11-29 08:10:10 [executor.py:953] torch.OutOfMemoryError: CUDA out of memory.
(Worker_TP1 pid=9) BrokenPipeError: [Errno 32] Broken pipe
(EngineCore pid=7) ERROR 11-29 08:10:11 [core.py:1510] EngineCore failed to start.
(EngineCore pid=7) Exception: WorkerProc initialization failed. See stack trace for root cause.
"""
TOLD = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def test_the_cause_is_found_in_what_the_processes_write():
    assert last_raised(ONE_GPU.splitlines()) == ("ValueError", NO_ROOM)
    assert last_raised(FOUR_GPUS.splitlines()) == ("OutOfMemoryError", "CUDA out of memory.")
    assert last_raised(["Loading weights: 100%", ""]) is None


def start(text):
    """Fail as vLLM does."""
    subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write({text!r})"], check=True)
    raise RuntimeError(TOLD)


def test_a_refused_configuration_ends_the_run(capfd):
    """Although a process, as multiprocessing has one, keeps stderr open."""
    with pytest.raises(ConfigError, match=r"engine=vllm: .*To serve at least"), explained(own_process=True):
        subprocess.Popen(["sleep", "5"])
        start(ONE_GPU)
    assert capfd.readouterr().err == ONE_GPU, "stderr is passed on"
    refused = ValueError("1 validation error for ModelConfig\n  Value error, no such dtype")
    with pytest.raises(ConfigError, match="no such dtype"), explained(own_process=False):
        raise refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FOUR_GPUS, "OutOfMemoryError: CUDA"),
        ("ValueError: Free memory on device cuda:0 (9.0/80.0 GiB) on startup is less\n", "Free memory"),
        ("", "Engine core initialization"),
    ],
)
def test_anything_else_does_not(text, told):
    with pytest.raises(RuntimeError, match=told), explained(own_process=True):
        start(text)
