"""Writes a checkpoint's tensors one after the other, in shards, with one shard in memory at most."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 1 << 30


class ShardWriter:
    """Writes tensors in the order in which they are added; the checkpoint is complete after `close`.

    Args:
        folder: exists, without weights.
        shard_bytes: a shard is written once it holds that many.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._held: dict[str, Tensor] = {}
        self._held_bytes = self._total = self._number = 0
        self._index: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor, which must share its memory with no other."""
        self._held[name] = tensor.contiguous()
        self._held_bytes += tensor.nbytes
        if self._held_bytes >= self._shard_bytes:
            self._flush()

    def close(self) -> None:
        """Write the last shard and the index."""
        self._flush()
        index = {"metadata": {"total_size": self._total}, "weight_map": self._index}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))

    def _flush(self) -> None:
        if not self._held:
            return
        self._number += 1
        file = self._folder / f"model-{self._number:05d}.safetensors"
        save_file(self._held, file, metadata={"format": "pt"})
        file.chmod(0o644)
        self._index |= dict.fromkeys(self._held, file.name)
        self._total += self._held_bytes
        self._held, self._held_bytes = {}, 0
