"""How right the demo model is on scenes it never saw, under all tokens and under reduced ones.

The arms answer the same requests through the same preprocessing, CLIP, reducers and engine as a run.
`random` gets, request by request, as many tokens as TRIM keeps.

Legend: K tokens kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.demo.scene import HELD_OUT
from pipeline.demo.scenes import CAPTION_PROMPT, SceneSample, make_sample
from pipeline.demo.score import F1, caption_f1, is_right
from pipeline.engines.base import Engine, EngineConfig, Request
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Decoding, Model, fill_template
from pipeline.models.encoder import load_encoder
from pipeline.models.preprocess import preprocessor_of
from pipeline.models.prompts import load_projector
from pipeline.stages.imaging import Imaging, decode
from pipeline.stages.reduce import identity_of
from pipeline.support.intervals import difference
from pipeline.support.table import Table
from trim import Full, Random, Reducer, Trim, VisualTokens

AT_ONCE = 16
RESAMPLES = 2000


@dataclass(frozen=True)
class DemoArm:
    """A reducer and how many tokens it keeps: its own number, `budget`, or what the arm it `follows` does."""

    reducer: Reducer
    budget: int | None = None
    follows: str | None = None


@dataclass(frozen=True)
class Scored:
    """One answer: whether it is right, or (of a caption) its attributes."""

    picture: int
    kind: str
    held_out: bool
    kept: int
    right: bool = False
    told: F1 = field(default_factory=F1)


def measure(
    model: Model,
    engine: EngineConfig,
    arms: Mapping[str, DemoArm],
    *,
    split: str,
    seed: int,
    pictures: int,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Figures of every arm (`full`, `trim` and `random` among them) over the first `pictures` of a split."""
    loaded = engine.load(model, Decoding(max_new_tokens=64), device="cpu", seed=0)
    answers: dict[str, list[Scored]] = {name: [] for name in arms}
    needs = frozenset[str]().union(*(arm.reducer.needs for arm in arms.values()))
    for first, samples, features in _encoded(model, needs, split, seed, pictures):
        asked = [(place, question) for place, sample in enumerate(samples) for question in _questions(sample)]
        kept: dict[str, list[Tensor]] = {}
        for name, arm in arms.items():
            budget = None if arm.budget is None else [arm.budget] * len(asked)
            if arm.follows is not None:
                budget = [len(tokens) for tokens in kept[arm.follows]]
            kept[name] = _reduce(arm.reducer, features, [place for place, _ in asked], budget)
            answers[name] += _answer(loaded, model, samples, asked, kept[name], first)
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
    """All tokens, TRIM with the model's own sign and with the other, chance at as many tokens as TRIM keeps.

    `others` are shown at TRIM's number, request by request; they, TRIM and chance at each of `budgets`, too.
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
        every: dict[str, Reducer] = {"trim": trim, "random": chance, **others}
        for name, reducer in every.items():
            arms[f"{name}_{budget}"] = DemoArm(reducer, budget=budget)
    return arms


def table(figures: dict[str, Any]) -> Table:
    """A row for each arm: accuracies in percent."""
    kinds = list(figures["arms"]["full"]["kinds"])
    rows = [
        (
            name,
            arm["kept"],
            *(100 * arm[key] for key in ("accuracy", "held_out", "caption_f1")),
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
    """Kind, text and answers, the caption first."""
    told = [(item.kind, item.question, item.answers) for item in sample.asked]
    return [("caption", CAPTION_PROMPT, (sample.caption,)), *told]


def _encoded(
    model: Model, needs: frozenset[str], split: str, seed: int, pictures: int
) -> Iterator[tuple[int, list[SceneSample], VisualTokens]]:
    """Batches of samples: what is needed of their images per picture, text and identity per request."""
    llava, clip = folders(model)
    preprocess = preprocessor_of(model)
    encoder = load_encoder(model, check_fit(llava, clip), needs=needs | {"text"}, dtype=torch.float32)
    projector = load_projector(llava, torch.float32) if "embeddings" in needs else None
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
        text_BP, identity_B = encoder.encode_texts(texts), torch.tensor(names)
        yield first, samples, VisualTokens(**fields, text=text_BP, identity=identity_B)


@torch.inference_mode()
def _reduce(
    reducer: Reducer, features: VisualTokens, places: list[int], budget: list[int] | None
) -> list[Tensor]:
    """The tokens [K, D] of each request."""
    rows = torch.tensor(places)
    of_images = {
        name: value[rows]
        for name, value in vars(features).items()
        if value is not None and name not in ("text", "identity")
    }
    given = replace(features, **of_images, budget=None if budget is None else torch.tensor(budget))
    return [item.tokens for item in reducer(given)]


def _answer(
    engine: Engine,
    model: Model,
    samples: list[SceneSample],
    asked: list[tuple[int, tuple[str, str, tuple[str, ...]]]],
    tokens: list[Tensor],
    first: int,
) -> list[Scored]:
    requests = [
        Request(fill_template(model.template, text), kept)
        for (_, (_, text, _)), kept in zip(asked, tokens, strict=True)
    ]
    scored = []
    for (place, (kind, _, right)), kept, answer in zip(asked, tokens, engine.generate(requests), strict=True):
        held_out = any(thing.pair in HELD_OUT for thing in samples[place].scene.things)
        line = Scored(first + place, kind, held_out, len(kept))
        if kind == "caption":
            scored.append(replace(line, told=caption_f1(answer.text, right[0])))
        else:
            scored.append(replace(line, right=is_right(answer.text, right)))
    return scored


def _figures(scored: list[Scored]) -> dict[str, Any]:
    questions = [item for item in scored if item.kind != "caption"]
    kinds = list(dict.fromkeys(item.kind for item in questions))
    captions = sum((item.told for item in scored if item.kind == "caption"), F1())
    return {
        "kept": _mean([item.kept for item in scored]),
        "accuracy": _mean([item.right for item in questions]),
        "held_out": _mean([item.right for item in questions if item.held_out]),
        "caption_f1": captions.value,
        "kinds": {kind: _mean([item.right for item in questions if item.kind == kind]) for kind in kinds},
    }


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _difference(one: list[Scored], other: list[Scored]) -> dict[str, float]:
    """How much more often `one` is right, with its 95 % interval: paired, drawn by pictures."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.kind != "caption"]
    ours, theirs = np.array([(a.right, b.right) for a, b in pairs], float).T
    return difference(ours, theirs, np.array([a.picture for a, _ in pairs]), resamples=RESAMPLES)
