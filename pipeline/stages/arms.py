"""Defines arms: the reducer settings with which each request is answered."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.kinds import JOINT_FIELDS, Kind
from pipeline.stages.clip_text import ClipText
from pipeline.support.errors import ConfigError
from pipeline.support.fields import require

if TYPE_CHECKING:
    from trim import Reducer


@dataclass(frozen=True)
class Arm:
    """Holds one reducer setting.

    `folder` is its output's folder within the run's ("": the run's folder itself). For each request, an arm
    with `budget_of` keeps as many tokens as the arm of that name. `clip_text` is the text that its reducer
    reads; None: the run's.

    Raises:
        ConfigError: there is a `clip_text`, and the reducer reads no text.
    """

    name: str
    reducer: "Reducer"
    settings: dict[str, Any]  # the reducer's configuration as JSON, for the fingerprint
    folder: str = ""
    budget_of: str | None = None
    clip_text: ClipText | None = None

    def __post_init__(self) -> None:
        if self.clip_text is not None:
            require(self.reads_text, f"clip_text: reducer {type(self.reducer).__name__} reads no text")

    @property
    def reads_text(self) -> bool:
        """Tell whether the reducer reads an embedding of the question."""
        return "text" in self.reducer.needs

    @property
    def reads_request(self) -> bool:
        """Tell whether the reduction depends on the question as well as on the image."""
        return self.budget_of is not None or bool(self.reducer.needs & {"text", "identity", "budget"})


def require_fields(arms: Sequence[Arm], kind: Kind, *, has_clip: bool) -> None:
    """Raise ConfigError for a reducer that reads fields which the model's towers do not have."""
    for arm in arms:
        who = f"reducer {type(arm.reducer).__name__} (arm {arm.name}) reads"
        lacking = ", ".join(sorted(arm.reducer.needs & kind.lacks))
        require(not lacking, f"{who} {lacking}, which the vision tower of a {kind.name} model does not have")
        joint = ", ".join(sorted(arm.reducer.needs & JOINT_FIELDS))
        require(has_clip or not joint, f"model.clip must be given: {who} {joint}")


def reduction_order(arms: Sequence[Arm]) -> list[int]:
    """Order the arms' numbers so that an arm with `budget_of` follows the arm that it names.

    Raises:
        ConfigError: two arms have one name, or `budget_of` names no arm, or leads back to itself.
    """
    numbers = {arm.name: number for number, arm in enumerate(arms)}
    require(len(numbers) == len(arms), f"arms: a name stands twice among {[arm.name for arm in arms]}")
    ordered: list[int] = []
    while len(ordered) < len(arms):
        waiting = [number for number in range(len(arms)) if number not in ordered]
        ready = [n for n in waiting if _budget_source(arms[n], numbers) in (None, *ordered)]
        if not ready:
            arm = arms[waiting[0]]
            wrong = "leads back to it" if arm.budget_of in numbers else f"is none of {sorted(numbers)}"
            raise ConfigError(f"arms.{arm.name}.budget_of: {arm.budget_of!r} {wrong}")
        ordered += ready
    return ordered


def _budget_source(arm: Arm, numbers: dict[str, int]) -> int | None:
    """Return the number of the arm that `budget_of` names; None without one, -1 if no arm has the name."""
    return None if arm.budget_of is None else numbers.get(arm.budget_of, -1)


def with_budgets(arms: Sequence[Arm], selected: Collection[int]) -> set[int]:
    """Add to the selected arms the arms that their `budget_of` names, directly or through others."""
    numbers = {arm.name: number for number, arm in enumerate(arms)}
    needed = set(selected)
    for number in reversed(reduction_order(arms)):
        source = _budget_source(arms[number], numbers)
        if number in needed and source is not None:
            needed.add(source)
    return needed
