"""What a run tells on stderr: lines for people (`log=text`), or one JSON object a line (`log=json`).

Each object has `time` (ISO 8601, UTC), `level`, `event`, `run_id` and `output`, and the event's own fields.
Whatever a library logs or warns of is an event, too. Id and output are those of the process: one run goes on
in it at a time.
"""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

FORMATS = ("text", "json")

_context: dict[str, str | None] = {"run_id": None, "output": None}


class _JsonLines(logging.Handler):
    """Records as JSON, without credentials."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._hide = hide

    def emit(self, record: logging.LogRecord) -> None:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "warning" if record.name == "py.warnings" else "log"),
            **_context,
            **getattr(record, "fields", {"logger": record.name}),
        }
        if message := record.getMessage():
            told["message"] = message.strip()
        print(json.dumps(self._hidden(told), default=str), file=sys.stderr, flush=True)

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, dict):
            return {name: self._hidden(one) for name, one in value.items()}
        return [self._hidden(one) for one in value] if isinstance(value, list | tuple) else value


def start(form: str, hide: Callable[[str], str]) -> None:
    """Tell in this form from now on, of no run yet; `hide` takes credentials out of a text."""
    for handler in _handlers():
        logging.getLogger().removeHandler(handler)
    bind(run_id=None, output=None)
    logging.captureWarnings(form == "json")
    if form == "json":
        logging.getLogger().addHandler(_JsonLines(hide))


def is_json() -> bool:
    """Whether lines are JSON."""
    return bool(_handlers())


def bind(*, run_id: str | None, output: str | None) -> None:
    """Which run the following events are of; of several arms `run_id` has theirs, with commas between."""
    _context.update(run_id=run_id, output=output)


def event(name: str, message: str = "", *, level: int = logging.INFO, **fields: Any) -> None:
    """Tell an event under `log=json`; nothing otherwise."""
    extra = {"event": name, "fields": fields, "levelname": logging.getLevelName(level), "levelno": level}
    for handler in _handlers():
        handler.handle(logging.makeLogRecord({"name": "trimline", "msg": message, **extra}))


def _handlers() -> list[_JsonLines]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _JsonLines)]
