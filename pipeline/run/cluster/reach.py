"""Waits for a running Ray cluster to answer, before Ray connects to it.

Ray alone tries for a quarter of an hour, and Ctrl-C does not reach it. So a process of its own asks the
cluster (`ray health-check`, as Kubernetes' probes do), which can be ended at any time.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.support import log
from pipeline.support.errors import ConfigError, RunError

_SAY_AFTER_S = 4.0  # a cluster that is there answers sooner, so nothing is said
_TRY_EVERY_S = 0.5
_NO_RAY = "what listens there does not answer as Ray does"
_HEALTH_CHECK = (sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check")


def wait_for_cluster(address: str, connect_s: float) -> None:
    """Wait until the cluster at an address answers; says on stderr what it waits for.

    Args:
        address: as in `ray.init`: `auto`, or HOST:PORT. Other forms are left to Ray.
        connect_s: seconds to wait.

    Raises:
        ConfigError: this is no address.
        RunError: no cluster answered, or there is no address of one.
    """
    place, origin = _find(address)
    if place is None:
        return
    waited = f"cluster.connect_s={connect_s:g} s"
    notice = f"waiting up to {waited} for a Ray cluster at {place} (cluster.address={address}{origin})"
    began, said, reason = time.monotonic(), False, ""
    while time.monotonic() < began + connect_s:
        for outcome in _tries(place, began + connect_s):
            if outcome is None:
                return
            reason = outcome
            if not said and (reason or time.monotonic() > began + _SAY_AFTER_S):
                log.tell("waiting", notice)
                said = True
            time.sleep(_TRY_EVERY_S)
    raise RunError(
        f"cluster.address={address}: no Ray cluster answers at {place}{origin}; waited {waited}: "
        f"{reason or _NO_RAY}"
    )


def _tries(place: str, until: float) -> Iterator[str | None]:
    """Ask a cluster once; yields "" while it waits, and last None if it answered, else the reason.

    Raises:
        RunError: the cluster answers, and refuses this process.
    """
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SAY_AFTER_S).close()
    except OSError as error:
        yield (error.strerror or str(error)).lower()
        return
    with tempfile.TemporaryFile() as said, _asking(place, said) as process:
        while process.poll() is None and time.monotonic() < until:
            yield ""
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode == 0:
        yield None
    elif "AuthenticationError" in text:
        raise RunError(
            f"the Ray cluster at {place} refuses this process: set its RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    else:
        yield _NO_RAY


def _find(address: str) -> tuple[str | None, str]:
    """Return the HOST:PORT that Ray would connect to, and where `auto` has it from.

    It is None for an address of another form.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        return None, ""
    try:
        place = canonicalize_bootstrap_address(address)
    except ValueError as error:
        raise ConfigError(f"cluster.address={address}: {error}") from None
    except OSError as error:  # ConnectionError is one
        raise RunError(f"cluster.address={address}: {error}") from None
    if place is None or not place.rpartition(":")[2].isdigit():
        return None, ""
    if address != "auto":
        return place, ""
    named = os.environ.get("RAY_ADDRESS")
    return place, ", from RAY_ADDRESS" if named else ", the last one started on this machine"


@contextmanager
def _asking(place: str, said: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Ask a cluster in a process, which is killed at the end of the block; its status is 0 if all is well.

    Args:
        said: receives what the process prints.
    """
    process = subprocess.Popen(
        [*_HEALTH_CHECK, "--address", place],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,  # a terminal's Ctrl-C is this process's alone
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
