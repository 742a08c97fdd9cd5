"""Counts what happened to the devices of a run, to tell it at the end."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.run.guard.location import Location

LOST, DIED, RETIRED, NOT_LOADED = "lost", "died", "retired", "not loaded"
_TEXTS = {
    LOST: "a process could use {where} no more, and was started again",
    DIED: "a process died on {where}, and was started again",
    RETIRED: "{where} was given up, and its units went to another",
    NOT_LOADED: "the model could not be loaded on {where}, and was tried again",
}


@dataclass(frozen=True)
class Incident:
    """Records events of one kind at one location.

    Attributes:
        event: one of the constants of this module.
        reason: of the first one.
    """

    event: str
    stage: str
    location: Location
    reason: str
    times: int = 1

    @property
    def line(self) -> str:
        """Describe the incident for people, in one line."""
        times = f" ({self.times} times)" if self.times > 1 else ""
        return f"stage {self.stage}: {_TEXTS[self.event].format(where=self.location)}{times}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the incident as summary.json has it."""
        fields = asdict(self)
        del fields["location"]
        return {**fields, "node": self.location.host, "gpus": list(self.location.gpus)}


class Incidents:
    """Collects incidents, those of one kind at one location as one."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, Location], Incident] = {}

    def add(self, event: str, stage: str, location: Location, reason: str) -> None:
        """Count one event."""
        key = event, stage, location
        before = self._seen.get(key)
        self._seen[key] = (
            replace(before, times=before.times + 1) if before else Incident(event, stage, location, reason)
        )

    def __iter__(self) -> Iterator[Incident]:
        return iter(self._seen.values())
