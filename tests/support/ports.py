"""Find ports of this host that nobody listens on."""

import os
import socket

_FIRST, _COUNT = 10_000, 10_000  # below the kernel's ephemeral ports


def free_block(count: int) -> int:
    """Find `count` consecutive free ports; returns the first.

    Two processes that search at the same time start at different ports.
    """
    start = os.getpid() * 331 % _COUNT
    for step in range(0, _COUNT, count):
        first_port = _FIRST + (start + step) % (_COUNT - count)
        if all(_is_free(port) for port in range(first_port, first_port + count)):
            return first_port
    raise OSError(f"no {count} free ports in a row from {_FIRST} on")


def _is_free(port: int) -> bool:
    """Return whether nobody listens on the port, at any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
