"""Stage (a): a small CLIP whose patches, not only its CLS token, mean what texts say.

Five losses tie texts to pictures: CLIP's own InfoNCE between CLS and captions (arXiv 2103.00020); one between
an object's mean patch and its phrase among all phrases that there are (as in RegionCLIP, arXiv 2112.09106),
and the same for each of its patches; a softmax over each picture's patches of their raw dot product with a
text, which has to fall on the patches that show what the text is about (phrase grounding, as in GLIP, arXiv
2112.03857); and a sigmoid of the same product (arXiv 2303.15343), which also teaches that a text may be about
nothing in the picture. Two help shapes on, which are learned last: after two layers, each patch has to know
which of its 7 x 7 cells things cover, and after three, where the middle of its object is and how far it
reaches.

Legend: B pictures, T texts, O objects, N patches of a picture, S patches of objects, F values of a patch,
C cells of a patch, D vision width, P joint width.
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
from pipeline.demo.scene import COLORS, HELD_OUT, RADII, SHAPES, SIZES, TEXTURES, phrase_of
from pipeline.demo.tokenizers import IMAGE_PX, PATCH_PX
from pipeline.demo.training.corpus import CELLS, COVERED, GRID, Corpus
from pipeline.demo.training.start import set_start

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 128
TEXTS_A_PICTURE = 5  # besides its caption
SUFFIX = "\nAnswer the question using a single word or phrase."
SUFFIX_SHARE = 0.15
BACKGROUND, HIT, OTHER, UNSURE = 0, 1, 2, 3
# The layers after which outlines and places have to be known, so that the next ones can make shapes of them.
OUTLINED, PLACED = 2, 3
# Color, shape, size and texture of everything that is ever shown in training, and how it is called.
KINDS = [
    (color, shape, size, texture)
    for color, shape, size, texture in product(COLORS, SHAPES, SIZES, TEXTURES)
    if (color, shape) not in HELD_OUT
]
PHRASES = [f"a {phrase_of(*kind)}" for kind in KINDS]


@dataclass(frozen=True)
class TowerBatch:
    """What one step sees.

    `relevant_TN` says of each patch whether it shows what a text is about: HIT, BACKGROUND, OTHER (a thing
    that the text is not about) or UNSURE (an edge). `things_ON` has each object's patches, weighted.
    """

    patches_BNF: Tensor  # uint8
    captions: list[str]
    texts: list[str]
    picture_T: Tensor  # int64, of each text
    relevant_TN: Tensor  # int8
    kind_O: Tensor  # int64, of each object, its place in KINDS
    picture_O: Tensor  # int64, of each object
    place_ON3: Tensor  # float32, what `_places` gives
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
    set_start(clip.vision_model, torch.Generator().manual_seed(seed))
    return clip


def sample_batch(corpus: Corpus, rng: np.random.Generator, pictures: int) -> TowerBatch:
    """A batch by lot."""
    patches, relevant, captions, texts, picture = [], [], [], [], []
    kinds, picture_of, things, places, outlines = [], [], [], [], []
    for number, index in enumerate(rng.choice(len(corpus), pictures, replace=False)):
        truth, coverage = corpus.truths[index], corpus.coverage(int(index))
        patches.append(corpus.pixels[index])
        outlines.append(corpus.outlines(int(index)))
        captions.append(truth.caption)
        for thing, covered in zip(truth.scene.things, coverage, strict=True):
            kinds.append(KINDS.index((thing.color, thing.shape, thing.size, thing.texture)))
            picture_of.append(number)
            things.append(covered / covered.sum())
            places.append(_places(thing.x, thing.y, thing.radius))
        asked = [truth.describe, *truth.asked, *truth.texts]
        for choice in rng.choice(len(asked), min(TEXTS_A_PICTURE, len(asked)), replace=False):
            texts.append(_as_asked(asked[choice], rng))
            relevant.append(_relevant(coverage, asked[choice]))
            picture.append(number)
    return TowerBatch(
        torch.from_numpy(np.stack(patches)),
        captions,
        texts,
        torch.tensor(picture),
        torch.from_numpy(np.stack(relevant)),
        torch.tensor(kinds),
        torch.tensor(picture_of),
        torch.from_numpy(np.stack(places)),
        torch.from_numpy(np.stack(things)),
        torch.from_numpy(np.stack(outlines)),
    )


def _places(x: float, y: float, radius: float) -> np.ndarray:
    """How far each patch is from an object's middle, and its radius, in its largest radius: [N, 3]."""
    largest = RADII["large"][1]
    middles = (np.arange(GRID) + 0.5) * PATCH_PX
    down, right = np.meshgrid((y - middles) / largest, (x - middles) / largest, indexing="ij")
    return np.stack([right, down, np.full_like(down, radius / largest)], -1).reshape(-1, 3).astype(np.float32)


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


def hidden_states(clip: CLIPModel, patches_BNF: Tensor) -> list[Tensor]:
    """The hidden states [B, 1 + N, D] that `CLIPVisionModel` gives, but for the last one.

    For pictures that were cut up already; `last_cls` goes on from here.
    """
    tower = clip.vision_model
    embeddings = tower.embeddings
    patches_BND = functional.linear(normalize(patches_BNF), embeddings.patch_embedding.weight.flatten(1))
    cls_B1D = embeddings.class_embedding.expand(len(patches_BND), 1, -1)
    seen_BND = torch.cat([cls_B1D, patches_BND], 1) + embeddings.position_embedding.weight
    states = [tower.pre_layrnorm(seen_BND)]
    for layer in tower.encoder.layers[:-1]:
        states.append(layer(states[-1], attention_mask=None))
    return states


def last_cls(clip: CLIPModel, before_last: Tensor) -> Tensor:
    """CLS [B, D] of the last hidden state; nothing else of the last layer is used, or computed."""
    layer = clip.vision_model.encoder.layers[-1]
    attention = layer.self_attn
    seen = layer.layer_norm1(before_last)
    query, key, value = (
        project(tokens).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project, tokens in (
            (attention.q_proj, seen[:, :1]),
            (attention.k_proj, seen),
            (attention.v_proj, seen),
        )
    )
    found = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    cls_B1D = before_last[:, :1] + attention.out_proj(found)
    return (cls_B1D + layer.mlp(layer.layer_norm2(cls_B1D)))[:, 0]


def text_embeds(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """CLIP's text_embeds [T, P], each text encoded once however often it stands there."""
    unique = list(dict.fromkeys(texts))
    tokens = tokenizer(unique, padding=True, truncation=True, max_length=77, return_tensors="pt")
    tokens = tokens.to(clip.device)
    pooled = clip.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    place = {text: number for number, text in enumerate(unique)}
    return pooled[[place[text] for text in texts]]


class TowerLoss(torch.nn.Module):
    """The losses; holds what CLIP lacks: the sigmoid's offset, and what tells outlines and places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-2.0))
        self.outline = torch.nn.Linear(width, CELLS**2)
        self.place = torch.nn.Linear(width, 3)

    def forward(self, clip: CLIPModel, tokenizer: CLIPTokenizer, batch: TowerBatch) -> dict[str, Tensor]:
        """`global`, `region`, `patch`, `softmax`, `sigmoid`, `outline` and `place`, each a mean."""
        states = hidden_states(clip, batch.patches_BNF)
        norm = clip.vision_model.post_layernorm
        metric_BNP = clip.visual_projection(norm(states[-1][:, 1:])).float()
        image_BP = clip.visual_projection(norm(last_cls(clip, states[-1]))).float()
        told = text_embeds(clip, tokenizer, batch.captions + batch.texts).float()
        caption_BP, text_TP = told.split([len(batch.captions), len(batch.texts)])
        phrase_UP = text_embeds(clip, tokenizer, PHRASES).float()
        scores_TN = torch.einsum("tnp,tp->tn", metric_BNP[batch.picture_T], text_TP)
        region, patch = _told_by_phrase(metric_BNP, phrase_UP, batch)
        outlines_BNC = self.outline(states[OUTLINED][:, 1:]).float()
        return {
            "global": _info_nce(image_BP, caption_BP, clip.logit_scale.exp()),
            "region": region,
            "patch": patch,
            "softmax": _on_target(scores_TN, batch.relevant_TN),
            "sigmoid": _told_apart(scores_TN + self.offset, batch.relevant_TN),
            "outline": functional.binary_cross_entropy_with_logits(outlines_BNC, batch.outlines_BNC),
            "place": _misplaced(self.place(states[PLACED][:, 1:]).float(), batch),
        }


def _info_nce(image_BP: Tensor, text_BP: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; equal captions of a batch would count as wrong, but are rare."""
    logits_BB = scale.clamp(max=100) * functional.normalize(image_BP) @ functional.normalize(text_BP).T
    target = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, target) + functional.cross_entropy(logits_BB.T, target)) / 2


def _told_by_phrase(metric_BNP: Tensor, phrase_UP: Tensor, batch: TowerBatch) -> tuple[Tensor, Tensor]:
    """Which of all phrases is nearest to an object's mean patch, and to each of its patches: cross entropies.

    Among a batch's phrases alone few differ in nothing but the shape, and it goes unlearned.
    """
    object_OP = torch.einsum("on,onp->op", batch.things_ON, metric_BNP[batch.picture_O])
    region = functional.cross_entropy(object_OP @ phrase_UP.T, batch.kind_O)
    thing_S, patch_S = batch.things_ON.nonzero(as_tuple=True)
    shown_SP = metric_BNP[batch.picture_O[thing_S], patch_S]
    loss_S = functional.cross_entropy(shown_SP @ phrase_UP.T, batch.kind_O[thing_S], reduction="none")
    return region, (loss_S * batch.things_ON[thing_S, patch_S]).sum() / len(batch.kind_O)


def _misplaced(place_BN3: Tensor, batch: TowerBatch) -> Tensor:
    """How far off objects' patches are about the place of the middle and about the reach of their object."""
    loss_ON3 = functional.smooth_l1_loss(place_BN3[batch.picture_O], batch.place_ON3, reduction="none")
    return (loss_ON3.mean(-1) * batch.things_ON).sum() / len(batch.things_ON)


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
