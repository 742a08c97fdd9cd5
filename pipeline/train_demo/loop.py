"""A training loop that can be stopped at any step and goes on where it stood, on whatever device there is."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Schedule:
    """Learning rates: linear warm-up to their peaks, then a cosine down to a hundredth.

    `peak` is AdamW's; `matrix_peak` is Muon's (Jordan et al. 2024), which moves the matrices of layers:
    towers as small as these need half as many steps with it. From step `restart` on the same again, from half
    the peaks.
    """

    steps: int
    peak: float
    matrix_peak: float = 0.02
    warmup: int = 100
    restart: int | None = None

    def at(self, step: int) -> float:
        """The share of the peak."""
        if self.restart is None:
            return self._of_round(step, self.steps)
        if step < self.restart:
            return self._of_round(step, self.restart)
        return self._of_round(step - self.restart, self.steps - self.restart) / 2

    def _of_round(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2


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
) -> None:
    """Train `module` to the end of the schedule; state and figures are kept in `folder`.

    `folder/state.pt` holds weights, optimiser and step; `folder/log.jsonl` a line for each validation.
    A step that was made after the last save is made again, with the same data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    moving = list(module.parameters())
    optimizers = _optimizers(module, schedule)
    step, seconds = _resume(folder / "state.pt", module, optimizers)
    begin = saved = time.monotonic()
    means: dict[str, float] = {}
    while step < schedule.steps:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * schedule.at(step)
        losses = step_losses(step)
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        if not total.isfinite():
            raise RuntimeError(f"{folder.name}: the loss of step {step} is not finite")
        total.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        module.zero_grad(set_to_none=True)
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
            _save(folder / "state.pt", module, optimizers, step, spent)
            saved = time.monotonic()


def _optimizers(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers, AdamW for embeddings, heads, filters, biases and norms."""
    named = list(module.named_parameters())
    matrices = [parameter for name, parameter in named if ".layers." in name and parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in named if id(parameter) not in chosen]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.02, "initial_lr": schedule.peak},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "initial_lr": schedule.peak},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98))]
    if matrices:
        matrix_group = {"params": matrices, "initial_lr": schedule.matrix_peak}
        optimizers.append(torch.optim.Muon([matrix_group], weight_decay=0.02))
    return optimizers


def _resume(file: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def _save(
    file: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    state: dict[str, Any] = {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seconds": seconds,
    }
    scratch = file.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(file)  # whole or not at all


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
