"""Run commands in their own process sessions and kill everything they leave behind."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

# Overrides of the environment without what this process has told Ray; Ray takes no empty niceness.
WITHOUT_RAY = {name: "" for name in os.environ if name.startswith("RAY_") and name != "RAY_worker_niceness"}

_LISTEN = "0A"


def start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen:
    """Start a command in its own session; it receives SIGINT even from a background shell."""
    variables = {"COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes |= {"preexec_fn": _hear_sigint, "start_new_session": True}
    return subprocess.Popen(command, env=os.environ | variables | environment, cwd=folder, **pipes)


def _hear_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command to its end and kill its leftover processes."""
    return finish(start(command, folder, **environment))


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for a running command and kill its leftover processes."""
    try:
        output, errors = process.communicate(timeout=500)
    finally:
        end_session(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def members(session: int) -> list[int]:
    """List the process ids of a session, without zombies."""
    pids = []
    for folder in Path("/proc").iterdir():
        try:
            state, _, _, own_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if own_session == str(session) and state != "Z":
            pids.append(int(folder.name))
    return pids


def listening(process: int) -> set[tuple[str, int]]:
    """List the addresses, as /proc/net writes them, and ports on which a process accepts TCP connections."""
    links = []
    with suppress(OSError):  # it has ended
        for entry in os.scandir(f"/proc/{process}/fd"):
            with suppress(OSError):  # it has been closed
                links.append(os.readlink(entry.path))  # noqa: PTH115
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for family in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]
    ]
    places = [row[1].split(":") for row in rows if row[3] == _LISTEN and row[9] in own]
    return {(address, int(port, 16)) for address, port in places}


def end_session(leader: int) -> None:
    """Kill all processes of a session: Ray's daemons outlive a killed driver by some seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until and (pids := members(leader)):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
