"""Prints errors on stderr without credentials: expected ones as one line, others with their traceback."""

import logging
import os
import re
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from jobs.common.credentials import credentials_in, credentials_of
from pipeline.support import log
from pipeline.support.plain_text import printable, traceback_text

_HYDRA_HINTS = re.compile(r" Config search path: .*| To append to your config use \S+")


class ErrorLines:
    """Prints a command's errors; under `log=json` as JSON lines."""

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self._command = command
        self._credentials = credentials_in(arguments)
        log.start("json" if "log=json" in arguments else "text", self._hide)

    def use(self, config: DictConfig) -> None:
        """Hide the credentials of a composed configuration, too, and follow its `log`."""
        self._credentials += credentials_of(config)
        if config.get("log") == "json" and not log.is_json():
            log.start("json", self._hide)

    def fail(self, error: Exception, status: int) -> int:
        """Print an expected error in one line; returns `status`."""
        if os.environ.get("TRIMLINE_FULL_ERROR"):
            self.crash(error)
        text = _HYDRA_HINTS.sub("", " ".join(str(error).replace("full_key:", "at").split()))
        text = text.replace("Could not override", "there is no key")
        if log.is_json():
            log.event("error", text, level=logging.ERROR, exit_status=status)
        else:
            print(printable(self._hide(f"trimline {self._command}: {text}")), file=sys.stderr)
        return status

    def crash(self, error: Exception) -> int:
        """Print an unexpected error with its traceback; returns 1."""
        text = traceback_text(error)
        if log.is_json():
            log.event("crash", text, level=logging.CRITICAL, exit_status=1)
        else:
            print(self._hide(text), file=sys.stderr)
        return 1

    def _hide(self, text: str) -> str:
        from pipeline.storage.secrets import hide_secrets

        return hide_secrets(text, self._credentials)
