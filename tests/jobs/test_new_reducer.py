"""A user adds a reducer with one Python file and one YAML, without editing Trimline."""

import numpy as np
import pyarrow.parquet as pq

from tests.support.rich import own_reducer


def test_a_users_reducer_runs_by_its_name(rich):
    rows = pq.read_table(rich.output / "data").to_pylist()
    assert len(rows) == rich.summary["rows"] > 5
    for row in rows:
        assert (row["status"], row["reducer"], row["visual_tokens_kept"]) == ("ok", "middle", 9)
        kept = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8)).reshape(24, 24)
        assert kept[10:13, 10:13].all() and kept.sum() == 9


def test_its_errors_are_reported_like_those_of_built_in_reducers(annotate, folder, monkeypatch):
    code, conf = own_reducer(folder)
    monkeypatch.syspath_prepend(code)
    line = annotate.refused("--config-dir", str(conf), "reducer=middle", "model=random", "reducer.side=0")
    assert "reducer: side must be at least 1, not 0" in line
