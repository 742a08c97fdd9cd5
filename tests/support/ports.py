"""Find ports of this host that nobody listens on."""

import os
import socket

_FIRST, _COUNT = 10_000, 10_000  # below those that the kernel gives away by itself


def free_block(count: int) -> int:
    """Find `count` ports in a row, the first of them; two processes that ask at once look far apart."""
    start = os.getpid() * 331 % _COUNT
    for step in range(0, _COUNT, count):
        first = _FIRST + (start + step) % (_COUNT - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise OSError(f"no {count} free ports in a row from {_FIRST} on")


def _is_free(port: int) -> bool:
    """Whether nobody listens on it, at any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
