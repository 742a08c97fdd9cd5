"""Trains a module in a loop that can be stopped and resumed at any step."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class Schedule:
    """Schedules learning rates: linear warm-up to the peaks, then a cosine down to a hundredth of them.

    `peak` is AdamW's. `matrix_peak` is Muon's (Jordan et al. 2024), which trains the matrices of layers:
    towers this small need half as many steps with it. The schedule starts over at step `restart`, with half
    the peaks.
    """

    steps: int
    peak: float
    matrix_peak: float = 0.02
    warmup: int = 100
    restart: int | None = None

    def at(self, step: int) -> float:
        """Compute the learning rate of a step, as a share of the peak."""
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


# The losses of a step, by name. Their random draws must depend on the step alone, so that a resumed training
# repeats them.
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
    """Train `module` to the end of the schedule, from the last saved state on.

    Steps after the last save are repeated with the same data.

    Args:
        folder: gets state.pt (weights, optimisers, step) and log.jsonl (a line for each validation).
        weights: of the losses in the sum that is minimised.
        say: prints progress.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = list(module.parameters())
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
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(parameters, 1.0)
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
            losses_text = ", ".join(f"{name} {value}" for name, value in _rounded(means).items())
            say(f"{folder.name}: step {step} of {schedule.steps}, {losses_text}, {spent:.0f} s so far")
        if time.monotonic() - saved > SAVE_EVERY_S or step == schedule.steps:
            _save(folder / "state.pt", module, optimizers, step, spent)
            saved = time.monotonic()


def _optimizers(module: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices of layers, AdamW for embeddings, heads, filters, biases and norms."""
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


class _State(TypedDict):
    module: dict[str, Tensor]
    optimizers: list[dict[str, object]]
    step: int
    seconds: float


def _resume(file: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    state: _State = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def _save(
    file: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    state: _State = {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seconds": seconds,
    }
    scratch = file.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(file)  # atomic


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
