"""What a tower has learned, measured on validation pictures without training anything.

Legend: B pictures, N patches, P joint width.
"""

from itertools import product

import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer

from pipeline.demo.scene import COLORS, HELD_OUT, SHAPES, SIZES, TEXTURES
from pipeline.demo.training.corpus import COVERED, Corpus
from pipeline.demo.training.tower import hidden_states, text_embeds
from trim import Trim, VisualTokens

AT_ONCE = 50


@torch.no_grad()
def probe_tower(clip: CLIPModel, tokenizer: CLIPTokenizer, corpus: Corpus, pictures: int) -> dict[str, float]:
    """Shares in [0, 1].

    `color`, `shape`, `size`, `texture`: things of which the phrase nearest to their patches' mean, among all
    phrases, is right about it. `kept+`, `recall+`, `precision+`: of the patches that TRIM with sign +1 keeps
    for a question, how many there are, how many of what it is about are among them, how many of them show
    what it is about; `kept-` and so on with sign -1. Questions about nothing in the picture count for
    `kept` only.
    """
    said = [
        (pair, size, texture)
        for pair, size, texture in product(product(COLORS, SHAPES), SIZES, TEXTURES)
        if pair not in HELD_OUT
    ]
    told = text_embeds(clip, tokenizer, [_phrase(*words) for words in said])
    found: dict[str, list[float]] = {}
    everywhere = torch.arange(corpus.pixels[0].shape[0])
    for first in range(0, pictures, AT_ONCE):
        part = range(first, min(first + AT_ONCE, pictures))
        pixels = torch.from_numpy(np.stack([corpus.pixels[index] for index in part])).to(clip.device)
        places = everywhere.expand(len(part), -1).to(clip.device)
        hidden = hidden_states(clip, pixels, places)[-2]
        metric_BNP = clip.visual_projection(clip.vision_model.post_layernorm(hidden[:, 1:])).float()
        for place, index in enumerate(part):
            coverage, things = corpus.coverage(index), corpus.truths[index].scene.things
            for number, thing in enumerate(things):
                weight_N = torch.from_numpy(coverage[number] / coverage[number].sum())
                mean_P = weight_N @ metric_BNP[place]
                pair, size, texture = said[int((told @ mean_P).argmax())]
                right = {"color": pair[0] == thing.color, "shape": pair[1] == thing.shape}
                right |= {"size": size == thing.size, "texture": texture == thing.texture}
                for name, hit in right.items():
                    found.setdefault(name, []).append(float(hit))
            asked = corpus.truths[index].asked
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


def _phrase(pair: tuple[str, str], size: str, texture: str) -> str:
    return f"a {size} {'striped ' if texture == 'striped' else ''}{' '.join(pair)}"
