"""Lists the parts of the check, with what each needs and how much of the time it has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckPart:
    """Names a part's function, and its share of the time; the time that a part leaves goes to the next.

    `needs`: packages without which it is left out.
    """

    function: str  # module of this room, and name
    share: float
    needs: tuple[str, ...] = ()


PARTS: dict[str, CheckPart] = {
    "same_answers": CheckPart("same_answers.measure", 40),
    "same_answers_vllm": CheckPart("same_answers.measure_vllm", 60, ("vllm",)),
    "waits": CheckPart("waits.measure", 30),
    "halved": CheckPart("halved.measure", 30),
    "weights": CheckPart("speed.make_weights", 90),
    "speed": CheckPart("speed.measure", 60),
    "speed_vllm": CheckPart("speed.measure_vllm", 80, ("vllm",)),
    "peer_vllm": CheckPart("speed.measure_peer", 90, ("vllm", "torchvision")),
}
