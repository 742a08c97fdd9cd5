"""Commands in sessions of their own, of which nothing is left."""

import os
import signal
import subprocess
import time
from pathlib import Path


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    """A command in a session of its own, which hears SIGINT whatever shell in the background we come from."""
    variables = {"COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes |= {"preexec_fn": _hear_sigint, "start_new_session": True}
    return subprocess.Popen(command, env=os.environ | variables | environment, cwd=folder, **pipes)


def _hear_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A command to its end; nothing of it is left."""
    return finish(start(command, folder, **environment))


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """A command that runs, to its end."""
    try:
        told, errors = process.communicate(timeout=500)
    finally:
        end_session(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, told, errors)


def members(session: int) -> list[int]:
    """The processes of a session that are not dead yet."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if own == str(session) and state != "Z":
            found.append(int(folder.name))
    return found


def end_session(leader: int) -> None:
    """Kill whatever is left of a session: Ray's daemons outlive a killed driver by some seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until and (left := members(leader)):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
