"""Arms: the reducer settings under which each request is answered."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trim import Reducer


@dataclass(frozen=True)
class Arm:
    """One reducer setting. `folder` is where its output lies below the run's ("": the run's own)."""

    name: str
    reducer: "Reducer"
    settings: dict[str, Any]  # the reducer's configuration as data, for the fingerprint
    folder: str = ""

    @property
    def reads_request(self) -> bool:
        """Whether the reduction depends on the question, not on the image alone."""
        return bool(self.reducer.needs & {"text", "identity", "budget"})
