"""Stage (b): trains the projector and a small Llama on answers, given the patches of a frozen tower.

All turns about one picture are one row. Each turn attends to the text before the picture, the picture and
itself, at the positions that it would have alone. So a picture is read once for a dozen answers.

Legend: B rows, K visual tokens, L tokens of a row, D vision width, H language width, A answer tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlamaTokenizer, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from pipeline.models.demo.tokenizers import IMAGE_PX, PATCH_PX, special_ids
from pipeline.train_demo.turns import Turn

CAPTION_WEIGHT = 4.0  # a caption has about twenty tokens, an answer two
IGNORED = -1


@dataclass(frozen=True)
class Row:
    """Holds a picture's visual tokens (all or reduced), and the questions about it with their answers."""

    tokens_KD: Tensor
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class PackedRows:
    """Holds rows laid out as `[prefix | visual | turn | turn ...]`, padded on the right."""

    token_ids_BL: Tensor  # 0 where a visual token or padding stands
    visual_BL: Tensor  # bool
    position_BL: Tensor
    mask_B1LL: Tensor  # bool, True where a token (row) sees another (column)
    target_BL: Tensor  # the next token where that is part of an answer, else IGNORED
    turn_BL: Tensor  # number of the turn in the batch, -1 outside
    tokens_VD: Tensor  # the visual tokens of all rows, one after the other


def llava_config(tokenizer: LlamaTokenizer, vision: CLIPVisionConfig) -> LlavaConfig:
    """Configure a LLaVA with a Llama of about 1.5 M parameters over a tower."""
    ids, image_token = special_ids(tokenizer), tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token, int)
    text = LlamaConfig(
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        max_position_embeddings=4096,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        **ids,
    )
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_token,
        image_seq_length=(IMAGE_PX // PATCH_PX) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


class Parts(nn.Module):
    """Holds the trained parts: LLaVA without its tower."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.projector: nn.Module = LlavaMultiModalProjector(config)
        # the library's classes type their submodules as Tensor | Module
        self.language: Any = LlamaForCausalLM(config.text_config)  # type: ignore[arg-type]


def make_parts(config: LlavaConfig, seed: int) -> Parts:
    """Make untrained parts; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return Parts(config)


def pack_rows(prefix: Sequence[int], rows: Sequence[Row]) -> PackedRows:
    """Lay out a batch, see `PackedRows`; `prefix` are the tokens before the picture."""
    lengths = [len(prefix) + len(row.tokens_KD) + sum(len(t.token_ids) for t in row.turns) for row in rows]
    batch, length = len(rows), max(lengths)
    token_ids = torch.zeros(batch, length, dtype=torch.long)
    position, visual = torch.zeros_like(token_ids), torch.zeros(batch, length, dtype=torch.bool)
    target, turn_of = torch.full_like(token_ids, IGNORED), torch.full_like(token_ids, -1)
    shared = torch.zeros(batch, dtype=torch.long)
    number = 0
    for place, row in enumerate(rows):
        before = len(prefix) + len(row.tokens_KD)
        shared[place] = before
        token_ids[place, : len(prefix)] = torch.tensor(prefix)
        visual[place, len(prefix) : before] = True
        position[place, :before] = torch.arange(before)
        at = before
        for turn in row.turns:
            ids = torch.tensor(turn.token_ids)
            stop = at + len(ids)
            token_ids[place, at:stop] = ids
            position[place, at:stop] = torch.arange(before, before + len(ids))
            turn_of[place, at:stop] = number
            target[place, stop - turn.answer_length - 1 : stop - 1] = ids[-turn.answer_length :]
            at, number = stop, number + 1
    order = torch.arange(length)
    causal_LL = order[:, None] >= order
    in_shared_B1L = (order < shared[:, None])[:, None]
    same_turn_BLL = turn_of[:, :, None] == turn_of[:, None]
    mask_BLL = causal_LL & (in_shared_B1L | same_turn_BLL)
    tokens_VD = torch.cat([row.tokens_KD for row in rows])
    return PackedRows(token_ids, visual, position, mask_BLL[:, None], target, turn_of, tokens_VD)


def answer_losses(parts: Parts, batch: PackedRows) -> tuple[Tensor, Tensor, Tensor]:
    """Compute each answer token's loss, whether greedy decoding gives it, and its turn's number: [A] each."""
    language = parts.language
    device = language.device
    embeds_BLH = language.get_input_embeddings()(batch.token_ids_BL.to(device))
    projected_VH = parts.projector(batch.tokens_VD.to(device, torch.float32))
    embeds_BLH = embeds_BLH.masked_scatter(
        batch.visual_BL.to(device)[..., None], projected_VH.to(embeds_BLH.dtype)
    )
    hidden_BLH = language.model(
        inputs_embeds=embeds_BLH,
        attention_mask=torch.where(batch.mask_B1LL.to(device), 0.0, torch.finfo(embeds_BLH.dtype).min),
        position_ids=batch.position_BL.to(device),
        use_cache=False,
    ).last_hidden_state
    answers_BL = (batch.target_BL != IGNORED).to(device)
    logits_AV = language.lm_head(hidden_BLH[answers_BL]).float()
    target_A = batch.target_BL.to(device)[answers_BL]
    loss_A = functional.cross_entropy(logits_AV, target_A, reduction="none")
    return loss_A, logits_AV.argmax(-1) == target_A, batch.turn_BL.to(device)[answers_BL]


def mean_loss(loss_A: Tensor, turn_A: Tensor, turns: Sequence[Turn]) -> Tensor:
    """Average the mean losses of the turns; captions weigh more."""
    weight = torch.tensor([CAPTION_WEIGHT if turn.kind == "caption" else 1.0 for turn in turns])
    count = torch.tensor([turn.answer_length for turn in turns])
    share = (weight / weight.sum() / count).to(loss_A.device)
    return (loss_A * share[turn_A]).sum()


def all_right(right_A: Tensor, turn_A: Tensor, turns: Sequence[Turn]) -> Tensor:
    """Tell for each turn whether greedy decoding would give its whole answer: bool [turns]."""
    wrong = torch.zeros(len(turns), device=right_A.device).index_add_(0, turn_A, (~right_A).float())
    return wrong == 0
