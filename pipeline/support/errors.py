"""Defines every exception that Trimline raises on purpose.

    TrimlineError
    ├── ConfigError      the user's configuration or the state of the output is wrong   exit 2
    ├── RunError         the run started and could not be finished                      exit 1
    ├── ShardError       the rest of a shard cannot be read; stored in a footer
    └── DataFault        one sample or request is unusable; becomes a row with a status
        ├── BadSample
        ├── BadImage
        └── BadQuestion

Messages are one line, name the key, file or row at fault, and carry no secrets. `described` makes a line of
any other exception.
"""

import re

_CHARACTERS = 300
# the folders of an absolute path, but not what follows `://`
_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/'\":,;()]+/)+")


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its name if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TrimlineError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TrimlineError):
    """Wrong usage, configuration or output state; raised before Ray starts."""


class RunError(TrimlineError):
    """The run could not be finished."""


class ShardError(TrimlineError):
    """The rest of a shard, or all of it, cannot be read."""


class DataFault(TrimlineError):  # noqa: N818 - bad data is no error of the program
    """One sample or request is unusable; `status` is the value of the row's status column."""

    status = "bad_sample"


class BadSample(DataFault):
    """The source's sample is incomplete or malformed."""

    status = "bad_sample"


class BadImage(DataFault):
    """An image cannot be decoded."""

    status = "bad_image"


class BadQuestion(DataFault):
    """A question is missing or does not fit the model."""

    status = "bad_question"


def described(error: BaseException) -> str:
    """Describe an exception for a row or a message: one short line, without this machine's folders.

    The type's name leads, except for our own errors, whose text is enough.
    """
    try:
        lines = str(error).split("\n")
    except Exception:  # noqa: BLE001 - an exception of a plug-in, whose text may fail as well
        lines = []
    first = next((line.strip() for line in lines if line.strip()), "")
    text = "".join(char if char.isprintable() else " " for char in _FOLDERS.sub(".../", first))
    if len(text) > _CHARACTERS:
        text = text[:_CHARACTERS] + " ..."
    if isinstance(error, TrimlineError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
