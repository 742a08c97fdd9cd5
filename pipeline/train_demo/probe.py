"""What a tower has learned, measured on validation pictures without training anything.

Legend: B pictures, N patches, P joint width.
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
    """Shares in [0, 1].

    `color`, `shape`, `size`, `texture`: things of which the phrase nearest to their patches' mean, among all
    phrases, is right about it. `kept+`, `recall+`, `precision+`: of the patches that TRIM with sign +1 keeps
    for a question, how many there are, how many of what it is about are among them, how many of them show
    what it is about; `kept-` and so on with sign -1. Questions about nothing in the picture count for
    `kept` only.
    """
    told = text_embeds(clip, tokenizer, PHRASES)
    found: dict[str, list[float]] = {}
    for first in range(0, pictures, AT_ONCE):
        part = range(first, min(first + AT_ONCE, pictures))
        pixels = torch.from_numpy(np.stack([corpus.pixels[index] for index in part])).to(clip.device)
        hidden = hidden_states(clip, pixels)[-1]
        metric_BNP = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:])).float()
        for place, index in enumerate(part):
            coverage, things = corpus.coverage(index), corpus.truths[index].scene.things
            for number, thing in enumerate(things):
                weight_N = torch.from_numpy(coverage[number] / coverage[number].sum())
                mean_P = weight_N @ metric_BNP[place]
                kind = KINDS[int((told @ mean_P).argmax())]
                for name, value in zip(ATTRIBUTES, kind, strict=True):
                    found.setdefault(name, []).append(float(value == getattr(thing, name)))
            asked = corpus.truths[index].asked
            text = text_embeds(clip, tokenizer, [item.question for item in asked])
            same = metric_BNP[place].expand(len(asked), -1, -1)
            for name, sign in (("+", 1), ("-", -1)):
                reduced = Trim(sign=sign)(VisualTokens(patches=same, metric=same, text=text.float()))
                for item, result in zip(asked, reduced, strict=True):
                    kept = result.kept.numpy()
                    found.setdefault(f"kept{name}", []).append(len(kept) / coverage.shape[1])
                    if item.about:
                        hit = coverage[list(item.about)].max(0) >= COVERED
                        found.setdefault(f"recall{name}", []).append(float(hit[kept].sum() / hit.sum()))
                        precision = float(hit[kept].mean()) if len(kept) else 0.0
                        found.setdefault(f"precision{name}", []).append(precision)
    return {name: float(np.mean(values)) for name, values in found.items()}
