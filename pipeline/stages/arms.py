"""Arms: the reducer settings under which each request is answered."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.kinds import Kind
from pipeline.support.errors import ConfigError
from pipeline.support.fields import require

if TYPE_CHECKING:
    from trim import Reducer


@dataclass(frozen=True)
class Arm:
    """One reducer setting.

    `folder` is where its output lies below the run's ("": the run's own). An arm with `budget_of` keeps,
    request by request, as many tokens as the arm of that name.
    """

    name: str
    reducer: "Reducer"
    settings: dict[str, Any]  # the reducer's configuration as data, for the fingerprint
    folder: str = ""
    budget_of: str | None = None

    @property
    def reads_request(self) -> bool:
        """Whether the reduction depends on the question, not on the image alone."""
        return self.budget_of is not None or bool(self.reducer.needs & {"text", "identity", "budget"})


def require_fields(arms: Sequence[Arm], kind: Kind) -> None:
    """Refuse reducers that read what the vision tower cannot give. Raises ConfigError, naming the first."""
    for arm in arms:
        lacking = sorted(arm.reducer.needs & kind.lacks)
        require(
            not lacking,
            f"reducer {type(arm.reducer).__name__} (arm {arm.name}) reads {', '.join(lacking)}, which the "
            f"vision tower of a {kind.name} model does not have",
        )


def reduction_order(arms: Sequence[Arm]) -> list[int]:
    """The arms' numbers, each after the one whose tokens it counts.

    Raises:
        ConfigError: two arms have one name, or `budget_of` names no arm, or leads back to itself.
    """
    numbers = {arm.name: number for number, arm in enumerate(arms)}
    require(len(numbers) == len(arms), f"arms: a name stands twice among {[arm.name for arm in arms]}")
    ordered: list[int] = []
    while len(ordered) < len(arms):
        left = [number for number in range(len(arms)) if number not in ordered]
        ready = [n for n in left if _source(arms[n], numbers) in (None, *ordered)]
        if not ready:
            arm = arms[left[0]]
            wrong = "leads back to it" if arm.budget_of in numbers else f"is none of {sorted(numbers)}"
            raise ConfigError(f"arms.{arm.name}.budget_of: {arm.budget_of!r} {wrong}")
        ordered += ready
    return ordered


def _source(arm: Arm, numbers: dict[str, int]) -> int | None:
    """The number of the arm whose tokens it counts; -1 if there is none of that name."""
    return None if arm.budget_of is None else numbers.get(arm.budget_of, -1)


def with_budgets(arms: Sequence[Arm], wanted: Collection[int]) -> set[int]:
    """The wanted arms and those whose tokens they count."""
    numbers = {arm.name: number for number, arm in enumerate(arms)}
    found = set(wanted)
    for number in reversed(reduction_order(arms)):
        source = _source(arms[number], numbers)
        if number in found and source is not None:
            found.add(source)
    return found
