"""Test several arms in one run: outputs equal those of separate runs, and no unit is made twice."""

import dataclasses

import pytest

from pipeline.demo.scenes import write_shards
from pipeline.models.config import Decoding
from pipeline.output.units import Unit
from pipeline.run.in_process import run_in_process
from pipeline.run.prepare import prepare, prepare_all
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.arms import Arm, reduction_order, with_budgets
from pipeline.stages.rows import UnitRow
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.support.runs import lasting, make_config, read_units, rows, unit_names
from trim import Full, Random, Trim

TRIM = Arm("trim", Trim(), {"name": "trim"}, "trim")
FULL = Arm("full", Full(), {"name": "full"}, "full")
CHANCE = Arm("chance", Random(num_kept=1), {"name": "random"}, "chance", budget_of="trim")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Write five pictures with their questions in two shards."""
    folder = tmp_path_factory.mktemp("scenes")
    writing = {"samples": 5, "samples_per_shard": 3, "split": "val", "seed": 0, "storage": Storage()}
    assert len(list(write_shards(str(folder), **writing))) == 2
    return WebDataset(path=str(folder))


@pytest.fixture(scope="module")
def compared(tmp_path_factory, random_checkpoint, scenes):
    output = tmp_path_factory.mktemp("compared")
    config = make_config(random_checkpoint, scenes, output, unit_samples=2)
    config = dataclasses.replace(config, arms=(CHANCE, FULL, TRIM))
    run_in_process(config)
    return config, output


@pytest.mark.slow
def test_each_arm_equals_a_run_of_that_arm_alone(compared, tmp_path, random_checkpoint, scenes):
    _, output = compared
    for arm in (FULL, TRIM):
        alone = make_config(random_checkpoint, scenes, tmp_path / arm.name, unit_samples=2)
        run_in_process(dataclasses.replace(alone, arms=(dataclasses.replace(arm, folder=""),)))
        assert unit_names(output / arm.name) == unit_names(tmp_path / arm.name)
        assert lasting(rows(output / arm.name)) == lasting(rows(tmp_path / arm.name))


@pytest.mark.slow
def test_sampled_answers_do_not_depend_on_the_arms_beside_them(tmp_path, random_checkpoint, scenes):
    sampled = Decoding(temperature=3.0, top_p=0.95, max_new_tokens=6)

    def answers(name, *arms):
        config = make_config(random_checkpoint, scenes, tmp_path / name, unit_samples=2)
        run_in_process(dataclasses.replace(config, decoding=sampled, arms=arms))
        return [
            [(row["question_id"], row["prediction"]) for row in rows(tmp_path / name / arm.folder)]
            for arm in arms
        ]

    again = dataclasses.replace(FULL, name="again", folder="again")
    full, trim, same = answers("three", FULL, TRIM, again)
    assert full == same and full != trim and len({answer for _, answer in full}) > len(full) // 2
    assert answers("one", dataclasses.replace(FULL, folder="")) == [full]
    assert answers("two", TRIM, CHANCE)[0] == trim


def test_a_budget_copies_the_other_arms_token_count_per_request(compared):
    _, output = compared
    trim, chance = rows(output / "trim"), rows(output / "chance")
    assert [row["visual_tokens_kept"] for row in chance] == [row["visual_tokens_kept"] for row in trim]
    kept_patches = [
        (of_trim["kept_patches"], of_chance["kept_patches"])
        for of_trim, of_chance in zip(trim, chance, strict=True)
    ]
    assert any(of_trim != of_chance for of_trim, of_chance in kept_patches if of_trim is not None)


def test_a_rerun_makes_only_the_missing_file_of_one_arm(compared):
    config, output = compared
    name = unit_names(output / "chance")[1]
    units_before = {arm: read_units(output / arm) for arm in ("full", "trim", "chance")}
    deleted = output / "chance" / "data" / name
    deleted.unlink()
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    run_in_process(config)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    table, _ = read_units(output / "chance")[name]
    old_table, _ = units_before["chance"][name]
    assert lasting(table.to_pylist()) == lasting(old_table.to_pylist())
    assert not prepare(config).pending


def test_arms_of_one_folder_must_share_one_listing(compared, tmp_path):
    config, output = compared
    (tmp_path / "trim").mkdir()
    (output / "trim" / "plan").rename(tmp_path / "plan")
    try:
        assert not prepare(config).pending, "a missing plan is copied from another arm"
        assert (output / "trim" / "plan").is_dir()
        options = dataclasses.replace(config.options, limit=1, output=str(tmp_path / "other"))
        elsewhere = dataclasses.replace(config, options=options)
        with pytest.raises(ConfigError, match="started on different listings"):
            prepare_all([elsewhere, config])
    finally:
        for part in (tmp_path / "plan").iterdir():
            part.rename(output / "trim" / "plan" / part.name)


def test_arms_take_turns():
    numbers = [UnitRow(Unit(0, 8 * unit, 8 * unit + 8, False), {}).arms(3) for unit in range(4)]
    assert numbers == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]
    lacking = UnitRow(Unit(0, 0, 8, True), {}, {"arms": [2, 4]})
    assert lacking.arms(5) == [2, 4]


def test_an_arm_with_a_budget_comes_after_the_arm_it_copies():
    assert reduction_order((CHANCE, FULL, TRIM)) == [1, 2, 0]
    assert with_budgets((CHANCE, FULL, TRIM), [0]) == {0, 2}
    assert with_budgets((CHANCE, FULL, TRIM), [1]) == {1}


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ((FULL, FULL), "a name stands twice"),
        ((CHANCE, FULL), "arms.chance.budget_of: 'trim' is none of"),
        ((dataclasses.replace(TRIM, budget_of="chance"), CHANCE), "leads back to it"),
        ((dataclasses.replace(TRIM, budget_of="trim"),), "leads back to it"),
    ],
)
def test_budgets_without_a_valid_source_arm_are_refused(arms, message):
    with pytest.raises(ConfigError, match=message):
        reduction_order(arms)
