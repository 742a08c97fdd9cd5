"""Measures a tower on validation pictures without training anything.

Legend: B pictures, N patches, P joint width, U phrases.
"""

import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer

from pipeline.train_demo.corpus import COVERED, Corpus
from pipeline.train_demo.tower import hidden_states, text_embeds
from pipeline.train_demo.tower_batch import KINDS, PHRASES
from trim import Trim, VisualTokens

AT_ONCE = 50
ATTRIBUTES = ("color", "shape", "size", "texture")


@torch.no_grad()
def probe_tower(clip: CLIPModel, tokenizer: CLIPTokenizer, corpus: Corpus, pictures: int) -> dict[str, float]:
    """Measure how well a tower's patches match phrases, and which patches TRIM keeps for questions.

    Returns:
        Means of shares in [0, 1]. `color`, `shape`, `size`, `texture`: of things, whether the phrase nearest
        to the mean of their patches has the right attribute. `kept+`: the share of patches that TRIM with
        sign +1 keeps for a question; `recall+`: how many of the patches that the question is about are kept;
        `precision+`: how many of the kept patches show what the question is about. `kept-` and so on: with
        sign -1. Questions about nothing in the picture count for `kept` only.
    """
    phrase_UP = text_embeds(clip, tokenizer, PHRASES)
    shares: dict[str, list[float]] = {}
    for first in range(0, pictures, AT_ONCE):
        batch = range(first, min(first + AT_ONCE, pictures))
        pixels = torch.from_numpy(np.stack([corpus.pixels[index] for index in batch])).to(clip.device)
        hidden = hidden_states(clip, pixels)[-1]
        metric_BNP = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:])).float()
        for place, index in enumerate(batch):
            coverage, things = corpus.coverage(index), corpus.truths[index].scene.things
            for number, thing in enumerate(things):
                weight_N = torch.from_numpy(coverage[number] / coverage[number].sum())
                mean_P = weight_N @ metric_BNP[place]
                kind = KINDS[int((phrase_UP @ mean_P).argmax())]
                for name, value in zip(ATTRIBUTES, kind, strict=True):
                    shares.setdefault(name, []).append(float(value == getattr(thing, name)))
            questions = corpus.truths[index].questions
            text = text_embeds(clip, tokenizer, [item.question for item in questions])
            same = metric_BNP[place].expand(len(questions), -1, -1)
            for name, sign in (("+", 1), ("-", -1)):
                reduced = Trim(sign=sign)(VisualTokens(patches=same, metric=same, text=text.float()))
                for item, result in zip(questions, reduced, strict=True):
                    kept = result.kept.numpy()
                    shares.setdefault(f"kept{name}", []).append(len(kept) / coverage.shape[1])
                    if item.about:
                        hit = coverage[list(item.about)].max(0) >= COVERED
                        shares.setdefault(f"recall{name}", []).append(float(hit[kept].sum() / hit.sum()))
                        precision = float(hit[kept].mean()) if len(kept) else 0.0
                        shares.setdefault(f"precision{name}", []).append(precision)
    return {name: float(np.mean(values)) for name, values in shares.items()}
