"""Measures the accuracy of the demo model on scenes that it never saw, with all tokens and with reduced ones.

The arms answer the same requests through the same preprocessing, CLIP, reducers and engine as a run does.
`random` keeps, request by request, as many tokens as TRIM.

Legend: K tokens kept.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from pipeline.benchmark.options import DemoOptions
from pipeline.demo.scene import HELD_OUT
from pipeline.demo.scenes import CAPTION_PROMPT, SceneSample, make_sample
from pipeline.demo.score import F1, caption_f1, is_right
from pipeline.engines.base import Engine, EngineConfig, Request
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Decoding, Model, fill_template
from pipeline.models.devices import torch_device
from pipeline.models.encoder import load_encoder
from pipeline.models.preprocess import preprocessor_of
from pipeline.models.prompts import load_projector
from pipeline.run.config import RunConfig
from pipeline.stages.batches import identity_of
from pipeline.stages.imaging import Imaging, decode
from pipeline.support.intervals import Interval, difference
from pipeline.support.table import Table
from trim import Full, Random, Reducer, Trim, VisualTokens

AT_ONCE = 16  # pictures
RESAMPLES = 2000
_STANDARD = ("full", "trim", "random")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class DemoArm:
    """Holds a reducer and the tokens it keeps: its own choice, `budget`, or those of the arm `follows`."""

    reducer: Reducer
    budget: int | None = None
    follows: str | None = None


@dataclass(frozen=True)
class Scored:
    """Holds an answer's score: whether it is right or, for a caption, the counts of its attributes."""

    picture: int
    kind: str
    held_out: bool
    kept: int
    right: bool = False
    attributes: F1 = field(default_factory=F1)


class DemoArmFigures(TypedDict):
    """Holds an arm's shares in [0, 1], of all questions and by kind; `kept` is the mean number of tokens."""

    kept: float
    accuracy: float
    held_out: float
    caption_f1: float
    kinds: dict[str, float]


class DemoFigures(TypedDict):
    """Holds the figures of every arm, and TRIM's accuracy minus each other arm's."""

    split: str
    seed: int
    pictures: int
    requests: int
    trim_sign: int
    arms: dict[str, DemoArmFigures]
    differences: dict[str, Interval]


def measure(config: RunConfig, options: DemoOptions) -> DemoFigures:
    """Measure full, trim and random, the arms of `config`, and each of the budgets."""
    others = {arm.name: arm.reducer for arm in config.arms if arm.name not in _STANDARD}
    figures = measure_arms(
        config.model,
        config.engine,
        arms_of(config.model, others, options.demo_budgets),
        split=options.demo_split,
        seed=0,
        pictures=options.demo_pictures,
        device=torch_device(config.options.device),
        progress=lambda done: print(f"\r{done} pictures", end="", file=sys.stderr, flush=True),
    )
    print(file=sys.stderr)
    return figures


def measure_arms(
    model: Model,
    engine: EngineConfig,
    arms: Mapping[str, DemoArm],
    *,
    split: str,
    seed: int,
    pictures: int,
    device: torch.device = _CPU,
    progress: Callable[[int], None],
) -> DemoFigures:
    """Answer all questions about the first `pictures` of a split under every arm.

    Args:
        arms: by name; `full`, `trim` and `random` must be among them.
        progress: called with the number of pictures that are done.
    """
    loaded = engine.load(model, Decoding(max_new_tokens=64), device=device.type, seed=0)
    answers: dict[str, list[Scored]] = {name: [] for name in arms}
    needs = frozenset[str]().union(*(arm.reducer.needs for arm in arms.values()))
    for first, samples, features in _encoded(model, needs, device, split, seed, pictures):
        requests = [
            (image, question) for image, sample in enumerate(samples) for question in _questions(sample)
        ]
        kept: dict[str, list[Tensor]] = {}
        for name, arm in arms.items():
            budget = None if arm.budget is None else [arm.budget] * len(requests)
            if arm.follows is not None:
                budget = [len(tokens) for tokens in kept[arm.follows]]
            kept[name] = _reduce(arm.reducer, features, [image for image, _ in requests], budget)
            answers[name] += _answer(loaded, model, samples, requests, kept[name], first)
        progress(first + len(samples))
    figures = {name: _figures(scored) for name, scored in answers.items()}
    return {
        "split": split,
        "seed": seed,
        "pictures": pictures,
        "requests": len(answers["full"]),
        "trim_sign": model.trim_sign,
        "arms": figures,
        "differences": {name: _difference(answers["trim"], answers[name]) for name in arms if name != "trim"},
    }


def arms_of(
    model: Model, others: Mapping[str, Reducer] | None = None, budgets: Sequence[int] = ()
) -> dict[str, DemoArm]:
    """Make the arms: all tokens, TRIM with the model's sign and with the other one, random, and `others`.

    Random and the `others` keep as many tokens as TRIM, request by request. Each of `budgets` adds an arm of
    so many tokens for TRIM, random and the others.
    """
    trim, chance = Trim(sign=model.trim_sign), Random(num_kept=1, seed=0)
    arms = {
        "full": DemoArm(Full()),
        "trim": DemoArm(trim),
        "random": DemoArm(chance, follows="trim"),
        "trim_other_sign": DemoArm(Trim(sign=-model.trim_sign)),
    }
    others = others or {}
    arms |= {name: DemoArm(reducer, follows="trim") for name, reducer in others.items()}
    for budget in budgets:
        reducers: dict[str, Reducer] = {"trim": trim, "random": chance, **others}
        for name, reducer in reducers.items():
            arms[f"{name}_{budget}"] = DemoArm(reducer, budget=budget)
    return arms


def table(figures: DemoFigures) -> Table:
    """Show a row for each arm, with accuracies in percent."""
    kinds = list(figures["arms"]["full"]["kinds"])
    rows = [
        (
            name,
            arm["kept"],
            *(100 * share for share in (arm["accuracy"], arm["held_out"], arm["caption_f1"])),
            *(100 * arm["kinds"][kind] for kind in kinds),
        )
        for name, arm in figures["arms"].items()
    ]
    worse = figures["differences"]["random"]
    return Table(
        f"demo model: {figures['requests']} requests about {figures['pictures']} pictures "
        f"of the {figures['split']} split, percent right",
        ("arm", "tokens kept", "questions", "held-out pairs", "captions (F1)", *kinds),
        rows,
        (
            f"trim - random, the same number of tokens: {100 * worse['value']:+.1f} points, 95 % interval "
            f"{100 * worse['low']:+.1f} to {100 * worse['high']:+.1f} (over pictures)",
            f"trim has the model's own sign, {figures['trim_sign']:+d}",
        ),
    )


def _questions(sample: SceneSample) -> list[tuple[str, str, tuple[str, ...]]]:
    """List kind, text and answers of a sample's questions, the caption first."""
    questions = [(item.kind, item.question, item.answers) for item in sample.questions]
    return [("caption", CAPTION_PROMPT, (sample.caption,)), *questions]


def _encoded(
    model: Model, needs: frozenset[str], device: torch.device, split: str, seed: int, pictures: int
) -> Iterator[tuple[int, list[SceneSample], VisualTokens]]:
    """Encode batches of samples: the fields in `needs` of each picture, text and identity of each request."""
    llava, clip = folders(model)
    preprocess = preprocessor_of(model)
    geometry = check_fit(llava, clip)
    encoder = load_encoder(model, geometry, needs=needs | {"text"}, device=device, dtype=torch.float32)
    projector = load_projector(llava, torch.float32).to(device) if "embeddings" in needs else None
    for first in range(0, pictures, AT_ONCE):
        stop = min(first + AT_ONCE, pictures)
        samples = [make_sample(split, seed, index) for index in range(first, stop)]
        squares = [preprocess(decode(sample.jpeg(), Imaging())[0]) for sample in samples]
        with torch.inference_mode():
            fields = encoder.encode_images(torch.from_numpy(np.stack(squares)), needs)
            if projector is not None:
                fields["embeddings"] = projector(fields["patches"])
        texts = [text for sample in samples for _, text, _ in _questions(sample)]
        names = [identity_of(sample.key, text) for sample in samples for _, text, _ in _questions(sample)]
        text_BP, identity_B = encoder.encode_texts(texts), torch.tensor(names, device=device)
        yield first, samples, VisualTokens(**fields, text=text_BP, identity=identity_B)


@torch.inference_mode()
def _reduce(
    reducer: Reducer, features: VisualTokens, images: list[int], budget: list[int] | None
) -> list[Tensor]:
    """Reduce the tokens of each request's picture; returns [K, D] of each."""
    device = features.patches.device
    rows = torch.tensor(images, device=device)
    image_fields = {
        name: value[rows]
        for name, value in vars(features).items()
        if value is not None and name not in ("text", "identity")
    }
    budget_R = None if budget is None else torch.tensor(budget, device=device)
    tokens = replace(features, **image_fields, budget=budget_R)
    return [item.tokens for item in reducer(tokens)]


def _answer(
    engine: Engine,
    model: Model,
    samples: list[SceneSample],
    requests: list[tuple[int, tuple[str, str, tuple[str, ...]]]],
    tokens: list[Tensor],
    first: int,
) -> list[Scored]:
    """Answer the requests about some samples and score the answers; `first` numbers the first picture."""
    prompts = [
        Request(fill_template(model.template, text), kept)
        for (_, (_, text, _)), kept in zip(requests, tokens, strict=True)
    ]
    answers = engine.generate(prompts)
    scored = []
    for (image, (kind, _, right)), kept, answer in zip(requests, tokens, answers, strict=True):
        held_out = any(thing.pair in HELD_OUT for thing in samples[image].scene.things)
        line = Scored(first + image, kind, held_out, len(kept))
        if kind == "caption":
            scored.append(replace(line, attributes=caption_f1(answer.text, right[0])))
        else:
            scored.append(replace(line, right=is_right(answer.text, right)))
    return scored


def _figures(scored: list[Scored]) -> DemoArmFigures:
    questions = [item for item in scored if item.kind != "caption"]
    kinds = list(dict.fromkeys(item.kind for item in questions))
    captions = sum((item.attributes for item in scored if item.kind == "caption"), F1())
    return {
        "kept": _mean([item.kept for item in scored]),
        "accuracy": _mean([item.right for item in questions]),
        "held_out": _mean([item.right for item in questions if item.held_out]),
        "caption_f1": captions.value,
        "kinds": {kind: _mean([item.right for item in questions if item.kind == kind]) for kind in kinds},
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _difference(trim: list[Scored], other: list[Scored]) -> Interval:
    """Compute TRIM's accuracy minus another arm's, with its 95 % interval: paired, resampled by pictures."""
    pairs = [(a, b) for a, b in zip(trim, other, strict=True) if a.kind != "caption"]
    ours, theirs = np.array([(a.right, b.right) for a, b in pairs], float).T
    return difference(ours, theirs, np.array([a.picture for a, _ in pairs]), resamples=RESAMPLES)
