"""Every exception that Trimline raises on purpose, in one place.

    TrimlineError
    ├── ConfigError      the user's configuration or the state of the output is wrong   exit 2
    ├── RunError         the run started and could not be finished                      exit 1
    ├── ShardError       one shard cannot be read (any further); stored in a footer
    └── DataFault        one sample is at fault; becomes one row with a status
        ├── BadSample
        ├── BadImage
        └── BadQuestion

Messages are one line, name the key, file or row at fault, and carry no secrets.
"""


class TrimlineError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TrimlineError):
    """Wrong usage, configuration or output state; raised before Ray starts."""


class RunError(TrimlineError):
    """The run could not be finished."""


class ShardError(TrimlineError):
    """A shard, or the rest of one, cannot be read."""


class DataFault(TrimlineError):  # noqa: N818 - a fault of the data is no error of the program
    """One sample or request is at fault; `status` is the value of the row's status column."""

    status = "bad_sample"


class BadSample(DataFault):
    """A sample that is incomplete or malformed as the source holds it."""

    status = "bad_sample"


class BadImage(DataFault):
    """An image that cannot be decoded."""

    status = "bad_image"


class BadQuestion(DataFault):
    """A question that is missing or does not fit the model."""

    status = "bad_question"
