"""How stage (a) learns: a small CLIP whose patches, not only its CLS token, mean what texts say.

Five losses tie texts to pictures: CLIP's own InfoNCE between CLS and captions (arXiv 2103.00020); one between
an object's mean patch and its phrase among all phrases that there are (as in RegionCLIP, arXiv 2112.09106),
and the same for each of its patches; a softmax over each picture's patches of their raw dot product with a
text, which has to fall on the patches that show what the text is about (phrase grounding, as in GLIP, arXiv
2112.03857); and a sigmoid of the same product (arXiv 2303.15343), which also teaches that a text may be about
nothing in the picture. Two help shapes on, which are learned last: after two layers, each patch has to know
which of its 7 x 7 cells things cover, and after three, how far the middle of its object is and how far it
reaches. Where in the picture that is has to be known in the layer that LLaVA reads: nothing else asks for it
there, and it was half forgotten.

Legend: B pictures, T texts, O objects, N patches of a picture, S patches of objects, F values of a patch,
C cells of a patch, D vision width, P joint width.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from pipeline.models.demo.tokenizers import IMAGE_PX
from pipeline.train_demo.corpus import CELLS
from pipeline.train_demo.tower import hidden_states, last_cls, text_embeds
from pipeline.train_demo.tower_batch import BACKGROUND, HIT, OTHER, PHRASES, TowerBatch, places_of

# The layers after which outlines and places have to be known, so that the next ones can make shapes of them.
OUTLINED, PLACED = 2, 3


class TowerLoss(torch.nn.Module):
    """The losses; holds what CLIP lacks: the sigmoid's offset, and what tells outlines and places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-2.0))
        self.outline = torch.nn.Linear(width, CELLS**2)
        self.place = torch.nn.Linear(width, 3)
        self.middle = torch.nn.Linear(width, 3)

    def forward(self, clip: CLIPModel, tokenizer: CLIPTokenizer, batch: TowerBatch) -> dict[str, Tensor]:
        """`global`, `region`, `patch`, `softmax`, `sigmoid`, `outline`, `place`, `middle`: each a mean."""
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
        patches_N3 = torch.from_numpy(-places_of(IMAGE_PX / 2, IMAGE_PX / 2, 0.0)).to(outlines_BNC)
        return {
            "global": _info_nce(image_BP, caption_BP, clip.logit_scale.exp()),
            "region": region,
            "patch": patch,
            "softmax": _on_target(scores_TN, batch.relevant_TN),
            "sigmoid": _told_apart(scores_TN + self.offset, batch.relevant_TN),
            "outline": functional.binary_cross_entropy_with_logits(outlines_BNC, batch.outlines_BNC),
            "place": _misplaced(self.place(states[PLACED][:, 1:]).float(), batch, batch.place_ON3),
            "middle": _misplaced(self.middle(states[-1][:, 1:]).float(), batch, batch.place_ON3 + patches_N3),
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


def _misplaced(place_BN3: Tensor, batch: TowerBatch, place_ON3: Tensor) -> Tensor:
    """How far off objects' patches are about the place of the middle and about the reach of their object."""
    loss_ON3 = functional.smooth_l1_loss(place_BN3[batch.picture_O], place_ON3, reduction="none")
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
