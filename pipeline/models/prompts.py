"""Makes input embeddings of a language model from prompts and visual tokens.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), D vision width, H language width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from pipeline.models.checkpoints.files import weight_files
from pipeline.models.checkpoints.fit import IMAGE_TOKEN
from pipeline.models.checkpoints.generation import end_tokens
from pipeline.models.checkpoints.layouts import projector_name
from pipeline.models.checkpoints.loading import fill, load_config
from pipeline.models.checkpoints.parts import Part, make_part
from pipeline.support.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TABLE = "embed_tokens.weight"


class TokenizerError(ValueError):
    """Says in one line that a text cannot be tokenised."""


class Prompts:
    """Holds a LLaVA's tokenizer, projector and table of text embeddings.

    Raises ConfigError if weights of the projector are missing, or the tokenizer is not the model's.

    Attributes:
        folder: the checkpoint.
        tokenizer: the checkpoint's.
        max_positions: the most tokens of a request, visual and generated ones included.
        eos_token_ids: any of these ends an answer.
    """

    def __init__(
        self, folder: Path, table: nn.Module, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        config = load_config(folder)
        self.folder = folder
        self.device = torch.device(device)
        self.dtype = dtype
        self.table = table.to(self.device, dtype)
        self.projector = load_projector(folder, dtype).to(self.device)
        self.tokenizer = load_tokenizer(folder)
        self.max_positions: int = config.text_config.max_position_embeddings
        self.image_token_id: int = config.image_token_id
        self.eos_token_ids, _ = end_tokens(folder, config.text_config.eos_token_id)
        known = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == self.image_token_id
        if self.image_token_id >= 0 and not known:
            raise ConfigError(f"{folder}: {IMAGE_TOKEN} is not token {self.image_token_id} of the tokenizer")

    @torch.inference_mode()
    def project(self, tokens_KD: Tensor) -> Tensor:
        """Project visual tokens of any dtype and device: [K, H] in the model's dtype, on its device."""
        projected_KH: Tensor = self.projector(tokens_KD.to(self.device, self.dtype))
        return projected_KH

    def tokenize(self, prompt: str) -> list[int]:
        """See `prompt_ids`."""
        return prompt_ids(self.tokenizer, self.image_token_id, prompt)

    def head(self, prompts: Sequence[list[int]]) -> list[int]:
        """Return the tokens before the image if all prompts have the same, else none."""
        heads = [ids[: ids.index(self.image_token_id)] for ids in prompts]
        return heads[0] if all(head == heads[0] for head in heads) else []

    @torch.inference_mode()
    def embed_ids(self, token_ids: list[int], tokens_KD: Tensor) -> Tensor:
        """Embed a tokenised prompt with exactly one image token: [L, H].

        The projected visual tokens replace the image token: L = K + text tokens.
        """
        at = token_ids.index(self.image_token_id)
        text_ids = torch.tensor(token_ids[:at] + token_ids[at + 1 :], device=self.device)
        text_LH = self.table(text_ids)
        return torch.cat([text_LH[:at], self.project(tokens_KD), text_LH[at:]])


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load a checkpoint's tokenizer, without code of its own; ConfigError if it cannot be read."""
    with _raising(ConfigError, f"{folder}: the tokenizer cannot be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", image_token_id: int, prompt: str) -> list[int]:
    """Tokenise a prompt as the checkpoint's processor does, with one image token instead of one a patch.

    A model in the original layout has a negative number instead of an image token: the text before and after
    `<image>` is tokenised separately, as by tokenizer_image_token in llava/mm_utils.py.

    Raises:
        TokenizerError: the tokenizer gives up on this text.
    """

    def ids_of(text: str) -> list[int]:
        with _raising(TokenizerError, "the tokenizer gives up on the prompt"):
            ids: list[int] = tokenizer(text)["input_ids"]
        return ids

    if image_token_id >= 0:
        return ids_of(prompt)
    before, _, after = prompt.partition(IMAGE_TOKEN)
    num_bos = len(ids_of(""))  # a prompt begins with BOS only once
    return [*ids_of(before), image_token_id, *ids_of(after)[num_bos:]]


@contextmanager
def _raising(kind: type[Exception], what: str) -> Iterator[None]:
    """Turn the tokenizer's errors into one of our own; its Rust code panics with one that is no Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {first_line(error)[:200]}") from None


def projector_part(folder: Path) -> Part:
    """Describe the projector of a LLaVA."""
    config = load_config(folder)
    return make_part("projector", folder, lambda: LlavaMultiModalProjector(config), projector_name)


def load_projector(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load the projector of visual tokens [..., D] to embeddings [..., H]; reads nothing else."""
    return fill(projector_part(folder), dtype)


def load_table(folder: Path) -> nn.Embedding:
    """Load the text embeddings of a LLaVA's language model in their stored dtype; nothing else is read.

    Raises ConfigError if the checkpoint has none, or several.
    """
    tables = []
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith(_TABLE)]  # noqa: SIM118 - not a dict
            tables += [tensors.get_tensor(name) for name in names]
    if len(tables) != 1:
        raise ConfigError(f"{folder} holds {len(tables)} tables of text embeddings ({_TABLE}), not one")
    count, width = tables[0].shape
    return nn.Embedding(count, width, _weight=tables[0]).eval().requires_grad_(False)
