"""Computes the losses of stage (a): a small CLIP whose patches, not only its CLS token, match texts.

Five losses tie texts to pictures: CLIP's own InfoNCE between CLS and captions (arXiv 2103.00020); a cross
entropy between an object's mean patch and its phrase among all phrases (as in RegionCLIP, arXiv 2112.09106),
and the same for each of its patches; a softmax over each picture's patches of their raw dot product with a
text, which must fall on the patches that show what the text is about (phrase grounding, as in GLIP, arXiv
2112.03857); and a sigmoid of the same product (arXiv 2303.15343), which also teaches that a text may be about
nothing in the picture.

Two losses help shapes, which are learned last: after two layers each patch predicts which of its 7 x 7 cells
things cover, and after three the distance to the middle of its object and the object's radius. One more makes
the layer that LLaVA reads predict the object's place in the picture: no other loss asks for it there, and
without this one the tower half forgot it.

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

# The layers that predict outlines and places, so that later layers can combine them into shapes.
OUTLINED, PLACED = 2, 3


class TowerLoss(torch.nn.Module):
    """Computes the losses; holds weights that CLIP lacks: the sigmoid's offset and the prediction heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(-2.0))
        self.outline = torch.nn.Linear(width, CELLS**2)
        self.place = torch.nn.Linear(width, 3)
        self.middle = torch.nn.Linear(width, 3)

    def forward(self, clip: CLIPModel, tokenizer: CLIPTokenizer, batch: TowerBatch) -> dict[str, Tensor]:
        """Compute the losses by name, each a mean."""
        states = hidden_states(clip, batch.patches_BNF)
        norm = clip.vision_model.post_layernorm
        metric_BNP = clip.visual_projection(norm(states[-1][:, 1:])).float()
        image_BP = clip.visual_projection(norm(last_cls(clip, states[-1]))).float()
        embeds = text_embeds(clip, tokenizer, batch.captions + batch.texts).float()
        caption_BP, text_TP = embeds[: len(batch.captions)], embeds[len(batch.captions) :]
        phrase_UP = text_embeds(clip, tokenizer, PHRASES).float()
        scores_TN = torch.einsum("tnp,tp->tn", metric_BNP[batch.picture_T], text_TP)
        region, patch = _phrase_losses(metric_BNP, phrase_UP, batch)
        outlines_BNC = self.outline(states[OUTLINED][:, 1:]).float()
        patches_N3 = torch.from_numpy(-places_of(IMAGE_PX / 2, IMAGE_PX / 2, 0.0)).to(outlines_BNC)
        return {
            "global": _info_nce(image_BP, caption_BP, clip.logit_scale.exp()),
            "region": region,
            "patch": patch,
            "softmax": _on_target(scores_TN, batch.relevant_TN),
            "sigmoid": _separation(scores_TN + self.offset, batch.relevant_TN),
            "outline": functional.binary_cross_entropy_with_logits(outlines_BNC, batch.outlines_BNC),
            "place": _place_error(self.place(states[PLACED][:, 1:]).float(), batch, batch.place_ON3),
            "middle": _place_error(
                self.middle(states[-1][:, 1:]).float(), batch, batch.place_ON3 + patches_N3
            ),
        }


def _info_nce(image_BP: Tensor, text_BP: Tensor, scale: Tensor) -> Tensor:
    """Compute symmetric InfoNCE; equal captions of a batch would count as wrong, but are rare."""
    logits_BB = scale.clamp(max=100) * functional.normalize(image_BP) @ functional.normalize(text_BP).T
    target = torch.arange(len(logits_BB), device=logits_BB.device)
    return (functional.cross_entropy(logits_BB, target) + functional.cross_entropy(logits_BB.T, target)) / 2


def _phrase_losses(metric_BNP: Tensor, phrase_UP: Tensor, batch: TowerBatch) -> tuple[Tensor, Tensor]:
    """Compute cross entropies of an object's phrase among all phrases, for its mean patch and for each patch.

    Among a batch's phrases alone few pairs differ in the shape only, and shapes are not learned.
    """
    object_OP = torch.einsum("on,onp->op", batch.things_ON, metric_BNP[batch.picture_O])
    region = functional.cross_entropy(object_OP @ phrase_UP.T, batch.kind_O)
    thing_S, patch_S = batch.things_ON.nonzero(as_tuple=True)
    shown_SP = metric_BNP[batch.picture_O[thing_S], patch_S]
    loss_S = functional.cross_entropy(shown_SP @ phrase_UP.T, batch.kind_O[thing_S], reduction="none")
    return region, (loss_S * batch.things_ON[thing_S, patch_S]).sum() / len(batch.kind_O)


def _place_error(place_BN3: Tensor, batch: TowerBatch, place_ON3: Tensor) -> Tensor:
    """Compute the error of objects' patches about the middle and the radius of their object."""
    loss_ON3 = functional.smooth_l1_loss(place_BN3[batch.picture_O], place_ON3, reduction="none")
    return (loss_ON3.mean(-1) * batch.things_ON).sum() / len(batch.things_ON)


def _on_target(scores_TN: Tensor, relevant_TN: Tensor) -> Tensor:
    """Average -log of each relevant patch's share of itself and the irrelevant ones.

    Texts about nothing in the picture are left out.
    """
    about_T = (relevant_TN == HIT).any(-1)
    scores_TN, relevant_TN = scores_TN[about_T], relevant_TN[about_T]
    irrelevant_TN = (relevant_TN == BACKGROUND) | (relevant_TN == OTHER)
    others_T1 = scores_TN.masked_fill(~irrelevant_TN, -torch.inf).logsumexp(-1, keepdim=True)
    loss_TN = functional.softplus(others_T1 - scores_TN)
    hit_TN = relevant_TN == HIT
    return ((loss_TN * hit_TN).sum(-1) / hit_TN.sum(-1)).mean()


def _separation(logits_TN: Tensor, relevant_TN: Tensor) -> Tensor:
    """Compute binary cross entropy: half weight on hits, a quarter each on background and other things."""

    def mean(loss_TN: Tensor, kind: int) -> Tensor:
        of_kind_TN = relevant_TN == kind
        return (loss_TN * of_kind_TN).sum() / of_kind_TN.sum().clamp(min=1)

    no_TN, yes_TN = functional.softplus(logits_TN), functional.softplus(-logits_TN)
    return mean(yes_TN, HIT) / 2 + (mean(no_TN, BACKGROUND) + mean(no_TN, OTHER)) / 4
