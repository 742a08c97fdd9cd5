"""Stage (a): a small CLIP whose patches, not only its CLS token, mean what texts say.

Four losses tie texts to pictures: CLIP's own InfoNCE between CLS and captions (arXiv 2103.00020); one between
an object's patches and its phrase among all phrases of the batch (as in RegionCLIP, arXiv 2112.09106),
without which shapes are hardly learned; a softmax over each picture's patches of their raw dot product with a
text, which has to fall on the patches that show what the text is about (phrase grounding, as in GLIP, arXiv
2112.03857); and a sigmoid of the same product (arXiv 2303.15343), which also teaches that a text may be about
nothing in the picture. A fifth helps shapes on: after two layers, each patch has to know which of its 7 x 7
cells things cover.

To be fast, most pictures show the tower but a part of their patches (arXiv 2212.00794): those around their
objects, and some others by lot. Only with the ground around them do objects look as they do in a whole
picture: without it, sizes and shapes that were learned in part-shown pictures were lost in whole ones.

Legend: B pictures, T texts, O objects, N patches shown of a picture, S patches of objects, F values of a
patch, C cells of a patch, D vision width, P joint width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from pipeline.demo.ask import Asked
from pipeline.demo.tokenizers import IMAGE_PX, PATCH_PX
from pipeline.demo.training.corpus import CELLS, COVERED, GRID, Corpus

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 128
TEXTS_A_PICTURE = 5  # besides its caption
SUFFIX = "\nAnswer the question using a single word or phrase."
SUFFIX_SHARE = 0.15
BACKGROUND, HIT, OTHER, UNSURE = 0, 1, 2, 3
OUTLINED = 2  # the layer after which outlines have to be known, so that the next ones can make shapes of them


@dataclass(frozen=True)
class TowerBatch:
    """What one step sees.

    `relevant_TN` says of each patch whether it shows what a text is about: HIT, BACKGROUND, OTHER (a thing
    that the text is not about) or UNSURE (an edge). `things_ON` has each object's patches, weighted.
    """

    patches_BNF: Tensor  # uint8
    places_BN: Tensor  # int64, where the patches stand in the picture
    captions: list[str]
    texts: list[str]
    picture_T: Tensor  # int64, of each text
    relevant_TN: Tensor  # int8
    phrases: list[str]  # of the objects
    picture_O: Tensor  # int64, of each object
    things_ON: Tensor  # float32, rows that add up to 1
    outlines_BNC: Tensor  # float32, how much of each cell of a patch is covered by things

    def to(self, device: torch.device) -> "TowerBatch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)


def make_clip(tokenizer: CLIPTokenizer, seed: int) -> CLIPModel:
    """An untrained CLIP: 1.3 M parameters of vision in six layers; LLaVA reads what the fifth gives."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=128,
    )
    text = CLIPTextConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=128,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    clip = CLIPModel(
        CLIPConfig(projection_dim=128, vision_config=vision.to_dict(), text_config=text.to_dict())
    )
    with torch.no_grad():
        clip.vision_model.embeddings.position_embedding.weight[1:] = _waves(WIDTH)
    return clip


def _waves(width: int) -> Tensor:
    """Where positions start from: sines and cosines of row and column [N, D] (arXiv 2205.01580).

    From noise, a tower this small takes thousands of steps to learn which patches are neighbours.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4 - 1))
    angles = torch.arange(GRID)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    rows = axis[:, None].expand(GRID, GRID, -1)
    return torch.cat([rows, rows.transpose(0, 1)], -1).flatten(0, 1)


def sample_batch(corpus: Corpus, rng: np.random.Generator, pictures: int, shown: int | None) -> TowerBatch:
    """A batch by lot; of each picture `shown` patches, those around its objects first, or all (None)."""
    patches, places, relevant, captions, texts, picture = [], [], [], [], [], []
    phrases, picture_of, things, outlines = [], [], [], []
    for number, index in enumerate(rng.choice(len(corpus), pictures, replace=False)):
        truth, coverage = corpus.truths[index], corpus.coverage(int(index))
        at = np.arange(coverage.shape[1]) if shown is None else shown_patches(coverage, shown, rng)
        patches.append(corpus.pixels[index][at])
        places.append(at)
        outlines.append(corpus.outlines(int(index))[at])
        captions.append(truth.caption)
        for thing, covered in zip(truth.scene.things, coverage[:, at], strict=True):
            phrases.append(f"a {thing.phrase}")
            picture_of.append(number)
            things.append(covered / covered.sum())
        asked = [truth.describe, *truth.asked, *truth.texts]
        for choice in rng.choice(len(asked), min(TEXTS_A_PICTURE, len(asked)), replace=False):
            texts.append(_as_asked(asked[choice], rng))
            relevant.append(_relevant(coverage[:, at], asked[choice]))
            picture.append(number)
    return TowerBatch(
        torch.from_numpy(np.stack(patches)),
        torch.from_numpy(np.stack(places)),
        captions,
        texts,
        torch.tensor(picture),
        torch.from_numpy(np.stack(relevant)),
        phrases,
        torch.tensor(picture_of),
        torch.from_numpy(np.stack(things)),
        torch.from_numpy(np.stack(outlines)),
    )


def shown_patches(coverage: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches in order: those with things, then those beside such, then others by lot."""
    things = (coverage.max(0) > 0).reshape(GRID, GRID)
    padded = np.pad(things, 1)
    near = np.zeros_like(things)
    for down, right in product(range(3), range(3)):
        near |= padded[down : down + GRID, right : right + GRID]
    lots = rng.random(things.size) - things.ravel() - near.ravel()
    return np.sort(np.argpartition(lots, count)[:count])


def _relevant(coverage: np.ndarray, asked: Asked) -> np.ndarray:
    about = np.isin(np.arange(len(coverage)), asked.about)[:, None]
    hit, other = (coverage * about).max(0), (coverage * ~about).max(0)
    found = np.where(other >= COVERED, OTHER, np.where(np.maximum(hit, other) > 0, UNSURE, BACKGROUND))
    return np.where(hit >= COVERED, HIT, found).astype(np.int8)


def _as_asked(asked: Asked, rng: np.random.Generator) -> str:
    with_suffix = asked.answers and rng.random() < SUFFIX_SHARE
    return asked.question + SUFFIX if with_suffix else asked.question


def normalize(patches_BNF: Tensor) -> Tensor:
    """uint8 values as the image processor would give them."""
    mean, std = (torch.tensor(values).repeat_interleave(PATCH_PX**2) for values in (MEAN, STD))
    device = patches_BNF.device
    return (patches_BNF.float() / 255 - mean.to(device)) / std.to(device)


def hidden_states(clip: CLIPModel, patches_BNF: Tensor, places_BN: Tensor) -> list[Tensor]:
    """The hidden states [B, 1 + N, D] of the vision tower for the patches that are shown.

    What `CLIPVisionModel` computes, but for patches that were left out: they are missing before its first
    layer, so that nothing is spent on them.
    """
    tower = clip.vision_model
    embeddings = tower.embeddings
    filters_DF = embeddings.patch_embedding.weight.flatten(1)
    positions = embeddings.position_embedding.weight
    patches_BND = functional.linear(normalize(patches_BNF), filters_DF) + positions[1 + places_BN]
    cls_B1D = (embeddings.class_embedding + positions[0]).expand(len(patches_BND), 1, -1)
    states = [tower.pre_layrnorm(torch.cat([cls_B1D, patches_BND], 1))]
    for layer in tower.encoder.layers:
        states.append(layer(states[-1], attention_mask=None))
    return states


def text_embeds(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """CLIP's text_embeds [T, P], each text encoded once however often it stands there."""
    unique = list(dict.fromkeys(texts))
    tokens = tokenizer(unique, padding=True, truncation=True, max_length=77, return_tensors="pt")
    tokens = tokens.to(clip.device)
    pooled = clip.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    place = {text: number for number, text in enumerate(unique)}
    return pooled[[place[text] for text in texts]]


class TowerLoss(torch.nn.Module):
    """The losses; holds what is not part of CLIP: the sigmoid's offset, and what tells outlines."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-2.0))
        self.outline = torch.nn.Linear(width, CELLS**2)

    def forward(self, clip: CLIPModel, tokenizer: CLIPTokenizer, batch: TowerBatch) -> dict[str, Tensor]:
        """`global`, `region`, `patch`, `softmax`, `sigmoid` and `outline`, each a mean."""
        states = hidden_states(clip, batch.patches_BNF, batch.places_BN)
        before_last, last = states[-2:]
        outlines_BNC = self.outline(states[OUTLINED][:, 1:]).float()
        norm = clip.vision_model.post_layernorm
        metric_BNP = clip.visual_projection(norm(before_last[:, 1:]))
        image_BP = clip.visual_projection(norm(last[:, 0]))
        told = text_embeds(clip, tokenizer, batch.captions + batch.texts + batch.phrases)
        caption_BP, text_TP, phrase_OP = told.split(
            [len(batch.captions), len(batch.texts), len(batch.phrases)]
        )
        scores_TN = torch.einsum("tnp,tp->tn", metric_BNP[batch.picture_T], text_TP).float()
        region, patch = _told_by_phrase(metric_BNP.float(), phrase_OP.float(), batch)
        return {
            "global": _info_nce(image_BP.float(), caption_BP.float(), clip.logit_scale.exp()),
            "region": region,
            "patch": patch,
            "softmax": _on_target(scores_TN, batch.relevant_TN),
            "sigmoid": _told_apart(scores_TN + self.offset, batch.relevant_TN),
            "outline": functional.binary_cross_entropy_with_logits(outlines_BNC, batch.outlines_BNC),
        }


def _info_nce(image_BP: Tensor, text_BP: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; equal captions of a batch would count as wrong, but are rare."""
    logits_BB = scale.clamp(max=100) * functional.normalize(image_BP) @ functional.normalize(text_BP).T
    target = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, target) + functional.cross_entropy(logits_BB.T, target)) / 2


def _told_by_phrase(metric_BNP: Tensor, phrase_OP: Tensor, batch: TowerBatch) -> tuple[Tensor, Tensor]:
    """Which of the batch's phrases is nearest to an object's mean patch, and to each of its patches.

    The mean is content with an object's separate edges and corners, by which circles are taken for squares
    and triangles for stars; so each patch has to tell the phrase by itself, too. Two mean cross entropies.
    """
    first = {phrase: number for number, phrase in reversed(list(enumerate(batch.phrases)))}
    different = sorted(first.values())
    right = [different.index(first[phrase]) for phrase in batch.phrases]
    target_O = torch.tensor(right, device=phrase_OP.device)
    phrase_UP = phrase_OP[different]
    object_OP = torch.einsum("on,onp->op", batch.things_ON, metric_BNP[batch.picture_O])
    region = functional.cross_entropy(object_OP @ phrase_UP.T, target_O)
    thing_S, place_S = batch.things_ON.nonzero(as_tuple=True)
    shown_SP = metric_BNP[batch.picture_O[thing_S], place_S]
    patch_S = functional.cross_entropy(shown_SP @ phrase_UP.T, target_O[thing_S], reduction="none")
    return region, (patch_S * batch.things_ON[thing_S, place_S]).sum() / len(right)


def _on_target(scores_TN: Tensor, relevant_TN: Tensor) -> Tensor:
    """-log of each relevant patch's share among itself and the irrelevant ones, of texts that have any."""
    about_T = (relevant_TN == HIT).any(-1)
    scores_TN, relevant_TN = scores_TN[about_T], relevant_TN[about_T]
    irrelevant_TN = (relevant_TN == BACKGROUND) | (relevant_TN == OTHER)
    others_T1 = scores_TN.masked_fill(~irrelevant_TN, -torch.inf).logsumexp(-1, keepdim=True)
    loss_TN = functional.softplus(others_T1 - scores_TN)
    hit_TN = relevant_TN == HIT
    return ((loss_TN * hit_TN).sum(-1) / hit_TN.sum(-1)).mean()


def _told_apart(logits_TN: Tensor, relevant_TN: Tensor) -> Tensor:
    """Binary cross entropy: half of it hits, a quarter each the background and things that are not meant."""

    def mean(loss_TN: Tensor, kind: int) -> Tensor:
        of_kind_TN = relevant_TN == kind
        return (loss_TN * of_kind_TN).sum() / of_kind_TN.sum().clamp(min=1)

    no_TN, yes_TN = functional.softplus(logits_TN), functional.softplus(-logits_TN)
    return mean(yes_TN, HIT) / 2 + (mean(no_TN, BACKGROUND) + mean(no_TN, OTHER)) / 4


def tower_corpus_texts(corpus: Corpus) -> Iterator[str]:
    """Every text of a corpus: what tokenizers are trained on."""
    for truth in corpus.truths:
        yield truth.caption
        for asked in (truth.describe, *truth.asked, *truth.texts):
            yield " ".join([asked.question, *asked.answers])
