"""A reducer of the user's own: one Python file and one YAML, nothing of Trimline's is edited."""

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.support.commands import trimline

MIDDLE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from trim import Reduced, VisualTokens


@dataclass(frozen=True)
class Middle:
    """Keeps the middle square of `side` x `side` patches."""

    side: int = 4
    needs: ClassVar[frozenset] = frozenset()

    def __post_init__(self):
        if self.side < 1:
            raise ValueError(f"side must be at least 1, not {self.side}")

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        grid = int(x.patches.shape[1] ** 0.5)
        first = (grid - self.side) // 2
        rows = torch.arange(first, first + self.side)
        kept = (rows[:, None] * grid + rows).flatten()
        return [Reduced(patches[kept], kept) for patches in x.patches]
'''


def test_a_reducer_of_ones_own_runs_by_its_name(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "middle.py").write_text(MIDDLE)
    (tmp_path / "conf" / "reducer").mkdir(parents=True)
    (tmp_path / "conf" / "reducer" / "middle.yaml").write_text("_target_: middle.Middle\nside: 4\n")
    (tmp_path / "in").mkdir()
    Image.effect_noise((336, 336), 80).convert("RGB").save(tmp_path / "in" / "a.png")

    def annotate(*overrides: str):
        chosen = ["--config-dir", str(tmp_path / "conf"), "reducer=middle", "model=random", "device=cpu"]
        where = [f"source.path={tmp_path}/in", f"output={tmp_path}/out", "decoding.max_new_tokens=2"]
        return trimline("annotate", *chosen, *where, *overrides, PYTHONPATH=str(tmp_path / "code"))

    refused = annotate("reducer.side=0")
    assert refused.returncode == 2
    assert "reducer: side must be at least 1, not 0" in refused.stderr
    found = annotate("reducer.side=3")
    assert found.returncode == 0, found.stderr
    (row,) = pq.read_table(tmp_path / "out" / "data").to_pylist()
    assert (row["status"], row["reducer"], row["visual_tokens_kept"]) == ("ok", "middle", 9)
    kept = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8)).reshape(24, 24)
    assert kept[10:13, 10:13].all() and kept.sum() == 9
