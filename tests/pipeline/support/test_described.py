"""Test that any exception is described in one short line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.support.errors import ConfigError, described


class Mute(Exception):  # noqa: N818
    def __str__(self):
        raise ValueError("no text either")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("CUDA error: no kernel\nCompile with ..."), "RuntimeError: CUDA error: no kernel"),
        (ValueError(""), "ValueError"),
        (ValueError("\n\n  after blank lines"), "ValueError: after blank lines"),
        (KeyError("side"), "KeyError: 'side'"),
        (
            FileNotFoundError(2, "No such file", "/home/me/models/a b.bin"),
            "FileNotFoundError: [Errno 2] No such file: '.../a b.bin'",
        ),
        (
            RuntimeError("at /tmp/x/y.py:12, and/or s3://bucket/a/b"),
            "RuntimeError: at .../y.py:12, and/or s3://bucket/a/b",
        ),
        (ConfigError("model.path: gone"), "model.path: gone"),
        (Mute(), "Mute"),
        (RuntimeError("a\tb\x1b[0m"), "RuntimeError: a b [0m"),
        (RuntimeError("x" * 1000), "RuntimeError: " + "x" * 300 + " ..."),
    ],
)
def test_the_line(error, line):
    assert described(error) == line


@given(st.text(st.characters(), max_size=500))
def test_it_is_one_short_line_that_utf_8_can_hold(text):
    line = described(RuntimeError(text))
    assert line.isprintable() and len(line) < 350
    assert line.encode()
