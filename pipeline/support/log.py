"""Logs a run to stderr: as lines for people (`log=text`), or as one JSON object a line (`log=json`).

Each object has `time` (ISO 8601, UTC), `level`, `event`, `run_id` and `output`, and the event's own fields.
Libraries' log records and warnings are events, too. `run_id` and `output` are the process's: it has one run
at a time.
"""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from pipeline.support.plain_text import printable

FORMATS = ("text", "json")

_context: dict[str, str | None] = {"run_id": None, "output": None}


class _JsonLines(logging.Handler):
    """Writes log records as JSON, without credentials."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._hide = hide

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "warning" if record.name == "py.warnings" else "log"),
            **_context,
            **getattr(record, "fields", {"logger": record.name}),
        }
        if message := record.getMessage():
            fields["message"] = message.strip()
        print(json.dumps(self._hide_all(fields), default=str), file=sys.stderr, flush=True)

    def _hide_all(self, value: object) -> object:
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, dict):
            return {name: self._hide_all(item) for name, item in value.items()}
        return [self._hide_all(item) for item in value] if isinstance(value, list | tuple) else value


def start(form: str, hide: Callable[[str], str]) -> None:
    """Log in this form from now on, without a run yet; `hide` removes credentials from a text."""
    for handler in _handlers():
        logging.getLogger().removeHandler(handler)
    bind(run_id=None, output=None)
    logging.captureWarnings(form == "json")
    if form == "json":
        logging.getLogger().addHandler(_JsonLines(hide))


def is_json() -> bool:
    """Tell whether the log is JSON."""
    return bool(_handlers())


def bind(*, run_id: str | None, output: str | None) -> None:
    """Set the run of the following events; of several arms, `run_id` has their ids with commas between."""
    _context.update(run_id=run_id, output=output)


def event(name: str, message: str = "", *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event under `log=json`; do nothing otherwise."""
    extra = {"event": name, "fields": fields, "levelname": logging.getLevelName(level), "levelno": level}
    for handler in _handlers():
        handler.handle(logging.makeLogRecord({"name": "trimline", "msg": message, **extra}))


def tell(name: str, message: str) -> None:
    """Say on stderr, in one line, what a user should know now; under `log=json` as an event."""
    if is_json():
        event(name, message)
    else:
        print(printable(message), file=sys.stderr, flush=True)


def _handlers() -> list[_JsonLines]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _JsonLines)]
