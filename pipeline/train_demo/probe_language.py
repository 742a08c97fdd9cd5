"""What a language model has learned, measured on validation pictures by teacher forcing."""

import numpy as np
import torch

from pipeline.train_demo.language import Parts, Row, all_right, answer_losses, pack
from pipeline.train_demo.token_arms import Features, reduce
from pipeline.train_demo.turns import Conversation
from trim import Random, Trim


@torch.no_grad()
def probe_language(parts: Parts, features: Features, talk: Conversation, pictures: int) -> dict[str, float]:
    """The share of questions whose answer greedy decoding would give, to the letter, for each arm.

    `full`: all tokens, also for each kind of question (`full/color`); `trim+`, `trim-`: TRIM by either sign;
    `random`: as many patches by lot as `trim+` keeps tokens.
    """
    found: dict[str, list[float]] = {}
    for index in range(pictures):
        truth = features.corpus.truths[index]
        asked = (truth.describe, *truth.asked)
        turns = [talk.turn(item) for item in asked]
        whole = [Row(features.patches[index], tuple(turns))]
        kept = {
            name: [reduce(features, index, item.question, arm, 0) for item in asked]
            for name, arm in (("trim+", Trim(sign=1)), ("trim-", Trim(sign=-1)))
        }
        kept["random"] = [
            reduce(features, index, item.question, Random(num_kept=len(tokens), seed=1), 64 * index + number)
            for number, (item, tokens) in enumerate(zip(asked, kept["trim+"], strict=True))
        ]
        rows = {
            name: [Row(tokens, (turn,)) for tokens, turn in zip(several, turns, strict=True)]
            for name, several in kept.items()
        }
        for name, several in {"full": whole, **rows}.items():
            _, right_A, turn_A = answer_losses(parts, pack(talk.prefix, several))
            for turn, right in zip(turns, all_right(right_A, turn_A, turns).tolist(), strict=True):
                kind = f"{name}/{turn.kind}" if name == "full" or turn.kind == "caption" else None
                for figure in {name if turn.kind != "caption" else None, kind} - {None}:
                    found.setdefault(str(figure), []).append(float(right))
    return {name: float(np.mean(values)) for name, values in found.items()}
