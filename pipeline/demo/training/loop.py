"""A training loop that can be stopped at any step and goes on where it stood, on whatever device there is."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Schedule:
    """AdamW's learning rate: linear warm-up, then a cosine down to a hundredth."""

    steps: int
    peak: float
    warmup: int = 100

    def at(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


# The losses of a step, by name; their weighted sum is what is minimised. Whatever is drawn by lot must be
# a function of the step alone.
Step = Callable[[int], dict[str, Tensor]]
Validate = Callable[[], dict[str, float]]


def train(
    folder: Path,
    module: nn.Module,
    schedule: Schedule,
    step_losses: Step,
    *,
    weights: dict[str, float],
    validate: Validate,
    validate_every: int,
    say: Callable[[str], None] = print,
    frozen: Iterable[nn.Parameter] = (),
) -> None:
    """Train `module` to the end of the schedule; state and figures are kept in `folder`.

    `folder/state.pt` holds weights, optimiser and step; `folder/log.jsonl` a line for each validation.
    A step that was made after the last save is made again, with the same data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = {id(parameter) for parameter in frozen}
    moving = [parameter for parameter in module.parameters() if id(parameter) not in held]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in moving if p.ndim > 1], "weight_decay": 0.02},
            {"params": [p for p in moving if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    step, seconds = _resume(folder / "state.pt", module, optimizer)
    begin = saved = time.monotonic()
    means: dict[str, float] = {}
    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        losses = step_losses(step)
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        if not total.isfinite():
            raise RuntimeError(f"{folder.name}: the loss of step {step} is not finite")
        total.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        for name, value in losses.items():
            means[name] = 0.95 * means.get(name, float(value.detach())) + 0.05 * float(value.detach())
        spent = seconds + time.monotonic() - begin
        if step % validate_every == 0 or step == schedule.steps:
            figures = {"step": step, "seconds": round(spent), **_rounded(means), **_rounded(validate())}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(figures) + "\n")
            say(f"{folder.name}: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
        elif step % 20 == 0:
            told = ", ".join(f"{name} {value}" for name, value in _rounded(means).items())
            say(f"{folder.name}: step {step} of {schedule.steps}, {told}, {spent:.0f} s so far")
        if time.monotonic() - saved > SAVE_EVERY_S or step == schedule.steps:
            _save(folder / "state.pt", module, optimizer, step, spent)
            saved = time.monotonic()


def _resume(file: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _save(file: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state: dict[str, Any] = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    scratch = file.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(file)  # whole or not at all


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
