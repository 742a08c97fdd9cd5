"""Every reducer of conf/reducer: all together over one unit, and each alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.run.prepare import prepare
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.stages.rows import unpack_unit
from tests.support.commands import compose

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "reducer").glob("*.yaml"))
QUESTIONS = ["What is it?", "What color is the cup?"]


@pytest.fixture(scope="module")
def unit(tmp_path_factory):
    """One unit of three pictures with two questions each, decoded; its configuration; arms by name."""
    folder = tmp_path_factory.mktemp("every")
    (folder / "in").mkdir()
    for index in range(3):
        picture = Image.effect_noise((360 + 40 * index, 340), 60 + 20 * index).convert("RGB")
        picture.save(folder / "in" / f"{index}.png")
        (folder / "in" / f"{index}.json").write_text(json.dumps({"questions": QUESTIONS}))
    where = (f"source.path={folder}/in", f"output={folder}/out", "task=vqa", "model=random", "device=cpu")
    arms = {name: compose(*where, f"reducer={name}").arms[0] for name in NAMES}
    config = compose(*where, "decoding.max_new_tokens=2")
    prepared = prepare(config)
    reading = {"storage": config.storage, "task": config.task, "limits": config.limits, "finished": {}}
    (row,) = read_shard(config.source, prepared.plan.shard(0, config.storage), **reading)
    decoded = decode_unit(row, model=config.model, imaging=config.imaging)
    shared = {"geometry": prepared.geometry, "model": config.model, "device": "cpu", "threads": None}
    return decoded, config, arms, shared


@pytest.fixture(scope="module")
def together(unit):
    """The rows of all arms, and their tokens."""
    decoded, config, arms, shared = unit
    shared = {**shared, "arms": tuple(arms.values())}
    encoded = Encode(**shared)(decoded)
    answered = Generate(engine=config.engine, decoding=config.decoding, seed=0, **shared)(encoded)
    return unpack_unit(answered).tables["requests"].to_pylist(), unpack_unit(encoded).tables


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_request_is_answered_from_the_stated_number_of_tokens(unit, together, name):
    _, _, _, shared = unit
    rows, tables = together
    arm_rows = [row for row in rows if row["arm"] == NAMES.index(name)]
    assert [row["status"] for row in arm_rows] == ["ok"] * 6
    for row in arm_rows:
        tokens = tables["tokens"]["tokens"][row["visual"]].as_py()
        assert len(tokens) == row["visual_tokens_kept"] * shared["geometry"].vision_width * 4
        kept = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8)).sum()
        assert 0 <= kept <= row["visual_tokens_kept"] <= 576
        assert row["prediction"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cdpruner", "prumerge_plus", "trim", "visionzip"])
def test_a_reducer_keeps_the_same_patches_alone(unit, together, name):
    decoded, _, arms, shared = unit
    rows, tables = together
    alone = unpack_unit(Encode(arms=(arms[name],), **shared)(decoded)).tables
    arm_rows = [row for row in rows if row["arm"] == NAMES.index(name)]
    for row, single in zip(arm_rows, alone["requests"].to_pylist(), strict=True):
        assert row["kept_patches"] == single["kept_patches"]
        assert tables["tokens"]["tokens"][row["visual"]] == alone["tokens"]["tokens"][single["visual"]]
