"""TRIM: keep the patches that CLIP's own metric ties to the question, and the mean of the rest.

Shapes: B images, N patches, D vision width, P joint CLIP width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trim.host import all_finite, read
from trim.select import (
    budget_of,
    check_sign,
    check_size,
    fixed_count,
    iqr_outliers,
    keep_patches,
    mean_of_rest,
    ordered_dot,
    patches_of,
    require_field,
    top_mask,
)
from trim.types import Reduced, VisualTokens


@dataclass(frozen=True)
class Trim:
    """Token Reduction using the CLIP Metric (Song et al., "Less is More", arXiv 2409.10994, method section).

    For each image s = softmax(sign (metric . text)) over its N patches. The c patches with
    s > Q3 + iqr_factor (Q3 - Q1) stay, in spatial order, and the plain mean of the other N - c follows
    them: K = c + 1. No outlier (c = 0) leaves the mean alone; c = N leaves nothing to average, so K = N.

    How many patches stay, the first that applies:

    - `budget[i] = b`, where the batch brings one, is the number of TOKENS of image i, the mean included:
      K = min(b, N) always. b >= N keeps every patch; else b - 1 patches and the mean (b = 1: the mean
      alone). With aggregate=False it keeps min(b, N) patches.
    - `num_kept`: that many PATCHES (at most N), plus the mean of the rest.
    - `keep_ratio`: int(N keep_ratio) PATCHES, plus the mean of the rest.
    - neither: the IQR rule above.

    Args:
        keep_ratio: 0 < keep_ratio <= 1; excludes num_kept.
        num_kept: at least 1; excludes keep_ratio.
        sign: -1 keeps the patches that score lowest, as the published code does; +1 keeps the highest. See
            below.
        normalize: True compares by cosine, False by the raw dot product, as the published code does.
        iqr_factor: at least 0 and finite.
        aggregate: False leaves the mean out.

    Deviations from the published code:

    1. Quartiles are taken image by image; the published code pools them over the batch, which makes an
       image's tokens depend on its neighbours.
    2. c = 0 is an answer (the mean alone); the published code crashes.
    3. c = N is an answer (all patches, and no mean, as there is nothing to average); the published code
       crashes.
    4. aggregate=False with c = 0 keeps the single best patch, because the language model needs a token.
    5. Patches are ranked by sign (metric . text), which orders them as s does but still tells them apart
       where the softmax underflows. Among equal ones the lower index is kept; topk leaves that open.
    6. c patches stay, where the published int(N (c / N)) loses one to rounding: at N = 729, say, for 17 of
       the 182 counts below N / 4; at 256, 576 and 1024 for none.

    The sign. The published code negates the dot products (clip_encoder.py), because penultimate patches of
    CLIP score lower on what the text names. CDPruner's code does the same. LiteLVLM (arXiv 2605.13178) found
    it independently: of LLaVA-1.5's patches the lowest score 66.1 on RefCOCO-val, random ones 65.0, the
    highest 52.7. That paper says that TRIM keeps the highest, which its released code does not. Whether
    SigLIP wants -1 as well is open.

    The text. The published evaluation (repository FreedomIntelligence/TRIM, llava/eval/) gives CLIP

    - the whole question with its suffix, in model_vqa_loader.py and model_vqa_science.py: `question`;
    - hint, question and options without the suffix in model_vqa_mmbench.py: `bare`;
    - the first 77 tokens of it: `cut`.

    These are values of `clip_text.text` and `clip_text.long`; `question` and `cut` are the defaults. In
    training (llava/train/train.py) CLIP read the whole conversation with its answers, cut at 77 tokens.

    Scores are computed in float32 and the mean is accumulated in float32, whatever the dtype of the patches.

    Raises:
        ValueError: on construction, naming the parameter; on call, naming the field that is missing or
            has the wrong shape, the image whose scores are NaN or infinite, or the image whose budget is
            below 1.
    """

    keep_ratio: float | None = None
    num_kept: int | None = None
    sign: int = -1
    normalize: bool = False
    iqr_factor: float = 1.5
    aggregate: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"metric", "text"})

    def __post_init__(self) -> None:
        check_size(self.keep_ratio, self.num_kept)
        check_sign(self.sign)
        if not (math.isfinite(self.iqr_factor) and self.iqr_factor >= 0):
            raise ValueError(f"iqr_factor must be finite and at least 0, not {self.iqr_factor!r}")

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Return one `Reduced` per image: tokens [K, D] in the dtype of the patches, kept [c] int64."""
        patches_BND = patches_of(x)
        batch, patches, _ = patches_BND.shape
        metric_BNP = require_field(x, "metric", batch, patches)
        text_BP = require_field(x, "text", batch, metric_BNP.shape[-1])
        logits_BN = self.sign * text_scores(metric_BNP, text_BP, self.normalize)
        count_B = self.counts(logits_BN, budget_of(x))
        kept_BN = top_mask(logits_BN, count_B)
        mean_BD = mean_of_rest(patches_BND, kept_BN) if self.aggregate else None
        (count,) = read(x, {"metric and text": all_finite(logits_BN)}, count_B)
        return keep_patches(patches_BND, kept_BN, count, mean_BD)

    def counts(self, logits_BN: Tensor, budget_B: Tensor | None) -> Tensor:
        """Count the patches of each image to keep, [B] int64, without the mean."""
        batch, patches = logits_BN.shape
        fixed = fixed_count(self.keep_ratio, self.num_kept, patches)
        if budget_B is not None:
            # One token of a budget that is too small for all patches goes to the mean.
            count_B = budget_B - (budget_B < patches).long() if self.aggregate else budget_B
        elif fixed is not None:
            count_B = torch.full((batch,), fixed, device=logits_BN.device)
        else:
            # softmax goes row by row, so it needs no ordered sum of our own.
            count_B = iqr_outliers(logits_BN.softmax(-1), self.iqr_factor).sum(-1)
        return count_B if self.aggregate else count_B.clamp(min=1)


def text_scores(metric_BNP: Tensor, text_BP: Tensor, normalize: bool) -> Tensor:
    """Score how well each patch fits its image's text.

    Args:
        metric_BNP: [B, N, P] patches in the joint space of CLIP.
        text_BP: [B, P] the text in the same space.
        normalize: True gives the cosine (0 for a vector of length 0), False the dot product.

    Returns:
        [B, N] float32; NaN or infinite where the fields are.
    """
    metric_BNP, text_BP = metric_BNP.float(), text_BP.float()
    scores_BN = ordered_dot(metric_BNP, text_BP[:, None])
    if normalize:
        metric_norm_BN = ordered_dot(metric_BNP, metric_BNP).sqrt()
        text_norm_B1 = ordered_dot(text_BP, text_BP).sqrt()[:, None]
        scores_BN = scores_BN / (metric_norm_BN * text_norm_B1).clamp(min=1e-12)
    return scores_BN
