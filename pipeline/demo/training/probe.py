"""What a tower has learned, measured on validation pictures without training anything.

Legend: B pictures, N patches, P joint width.
"""

from itertools import product

import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer

from pipeline.demo.ask import with_article
from pipeline.demo.scene import COLORS, HELD_OUT, SHAPES, SIZES, TEXTURES
from pipeline.demo.training.arms import Features, reduce
from pipeline.demo.training.corpus import COVERED, Corpus
from pipeline.demo.training.language import Parts, Row, all_right, answer_losses, pack
from pipeline.demo.training.tower import hidden_states, text_embeds
from pipeline.demo.training.turns import Conversation
from trim import Random, Trim, VisualTokens

AT_ONCE = 50


@torch.no_grad()
def probe_tower(clip: CLIPModel, tokenizer: CLIPTokenizer, corpus: Corpus, pictures: int) -> dict[str, float]:
    """Shares in [0, 1].

    `object`, `size`, `texture`: things whose patches' mean says the right one of all (colour, shape) pairs,
    sizes, textures, compared with texts. `kept+`, `recall+`, `precision+`: of the patches that TRIM with
    sign +1 keeps for a question, how many there are, how many of those that it is about are among them, and
    how many of them show what it is about; `kept-` and so on with sign -1. Questions about nothing in the
    picture count for `kept` only.
    """
    pairs = [pair for pair in product(COLORS, SHAPES) if pair not in HELD_OUT]
    choices = {
        "object": [f"Is there {with_article(f'{color} {shape}')}?" for color, shape in pairs],
        "size": [f"{size} objects" for size in SIZES],
        "texture": [f"{texture} objects" for texture in TEXTURES],
    }
    told = {name: text_embeds(clip, tokenizer, texts) for name, texts in choices.items()}
    found: dict[str, list[float]] = {}
    everywhere = torch.arange(corpus.pixels[0].shape[0])
    for first in range(0, pictures, AT_ONCE):
        part = range(first, min(first + AT_ONCE, pictures))
        pixels = torch.from_numpy(np.stack([corpus.pixels[index] for index in part])).to(clip.device)
        places = everywhere.expand(len(part), -1).to(clip.device)
        hidden, _ = hidden_states(clip, pixels, places)
        metric_BNP = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:])).float()
        for place, index in enumerate(part):
            coverage, things = corpus.coverage(index), corpus.truths[index].scene.things
            for number, thing in enumerate(things):
                shown = torch.from_numpy(coverage[number] >= COVERED)
                mean_P = metric_BNP[place][shown].mean(0)
                right = {
                    "object": pairs.index(thing.pair),
                    "size": SIZES.index(thing.size),
                    "texture": TEXTURES.index(thing.texture),
                }
                for name, answer in right.items():
                    hit = int((told[name] @ mean_P).argmax()) == answer
                    found.setdefault(name, []).append(float(hit))
            asked = [item for item in corpus.truths[index].asked]
            text = text_embeds(clip, tokenizer, [item.question for item in asked])
            same = metric_BNP[place].expand(len(asked), -1, -1)
            for name, sign in (("+", 1), ("-", -1)):
                reduced = Trim(sign=sign)(VisualTokens(patches=same, metric=same, text=text.float()))
                for item, result in zip(asked, reduced, strict=True):
                    kept = result.kept.numpy()
                    found.setdefault(f"kept{name}", []).append(len(kept) / len(everywhere))
                    if item.about:
                        hit = coverage[list(item.about)].max(0) >= COVERED
                        found.setdefault(f"recall{name}", []).append(float(hit[kept].sum() / hit.sum()))
                        precision = float(hit[kept].mean()) if len(kept) else 0.0
                        found.setdefault(f"precision{name}", []).append(precision)
    return {name: float(np.mean(values)) for name, values in found.items()}


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
