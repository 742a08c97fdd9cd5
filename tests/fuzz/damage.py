"""Hypothesis strategies that damage sound bytes."""

import struct

from hypothesis import strategies as st

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
INTEGERS = st.sampled_from([">H", "<H", ">I", "<I", ">Q", "<Q"])


@st.composite
def damaged(draw: st.DrawFn, sound: st.SearchStrategy[bytes], most: int = 6) -> bytes:
    """Apply some flips, cuts, insertions, splices and extreme numbers to sound bytes."""
    data = draw(sound)
    for _ in range(draw(st.integers(1, most))):
        data = draw(st.sampled_from(KINDS))(draw, data, sound)
    return data


def _place(draw: st.DrawFn, data: bytes) -> int:
    """Draw an offset; two thirds of them lie near the start or the end, where headers and footers are."""
    size = len(data)
    distance = st.integers(0, min(size, 200))
    return draw(st.one_of(distance, distance.map(lambda at: size - at), st.integers(0, size)))


def _flip(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    at = _place(draw, data)
    return data[:at] + bytes(byte ^ draw(st.integers(1, 255)) for byte in data[at : at + 1]) + data[at + 1 :]


def _cut(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    return data[: _place(draw, data)]


def _lose(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 600)) :]


def _insert(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    at = _place(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=40)) + data[at:]


def _repeat(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    at = _place(draw, data)
    return data[:at] + data[at : at + draw(st.integers(1, 600))] * 2 + data[at:]


def _splice(draw: st.DrawFn, data: bytes, sound: st.SearchStrategy[bytes]) -> bytes:
    other = draw(sound)
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _number(draw: st.DrawFn, data: bytes, _: object) -> bytes:
    at, kind = _place(draw, data), draw(INTEGERS)
    size = struct.calcsize(kind)
    value = draw(st.sampled_from(EXTREMES)) % (1 << 8 * size)
    return data[:at] + struct.pack(kind, value)[: len(data) - at] + data[at + size :]


KINDS = [_flip, _flip, _number, _number, _cut, _lose, _insert, _repeat, _splice]
