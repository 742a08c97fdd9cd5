"""Measures a language model on validation pictures by teacher forcing."""

import numpy as np
import torch

from pipeline.train_demo.language import Parts, Row, all_right, answer_losses, pack_rows
from pipeline.train_demo.token_arms import Features, reduce
from pipeline.train_demo.turns import Conversation
from trim import Random, Trim


@torch.no_grad()
def probe_language(parts: Parts, features: Features, talk: Conversation, pictures: int) -> dict[str, float]:
    """Measure the share of questions that greedy decoding would answer exactly, for each arm.

    `full`: all tokens, also by kind of question (`full/color`); `trim+`, `trim-`: TRIM with either sign;
    `random`: as many random patches as `trim+` keeps tokens.
    """
    right_answers: dict[str, list[float]] = {}
    for index in range(pictures):
        truth = features.corpus.truths[index]
        questions = (truth.caption_question, *truth.questions)
        turns = [talk.turn(item) for item in questions]
        whole = [Row(features.patches[index], tuple(turns))]
        kept = {
            name: [reduce(features, index, item.question, arm, 0) for item in questions]
            for name, arm in (("trim+", Trim(sign=1)), ("trim-", Trim(sign=-1)))
        }
        kept["random"] = [
            reduce(features, index, item.question, Random(num_kept=len(tokens), seed=1), 64 * index + number)
            for number, (item, tokens) in enumerate(zip(questions, kept["trim+"], strict=True))
        ]
        rows = {
            name: [Row(tokens, (turn,)) for tokens, turn in zip(reduced, turns, strict=True)]
            for name, reduced in kept.items()
        }
        for name, batch in {"full": whole, **rows}.items():
            _, right_A, turn_A = answer_losses(parts, pack_rows(talk.prefix, batch))
            for turn, right in zip(turns, all_right(right_A, turn_A, turns).tolist(), strict=True):
                kind = f"{name}/{turn.kind}" if name == "full" or turn.kind == "caption" else None
                for figure in {name if turn.kind != "caption" else None, kind} - {None}:
                    right_answers.setdefault(str(figure), []).append(float(right))
    return {name: float(np.mean(values)) for name, values in right_answers.items()}
