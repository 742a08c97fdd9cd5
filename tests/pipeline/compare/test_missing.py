"""Missing, doubled or reordered units and rows of an arm are named, and nothing is compared."""

from pathlib import Path

import pytest

from pipeline.support.errors import ConfigError
from tests.pipeline.compare.made_arms import change, compared


def refused(place: Path, arms: dict[str, Path]) -> str:
    with pytest.raises(ConfigError) as caught:
        compared(place / "c", arms)
    assert "\n" not in str(caught.value)
    assert not list(place.glob("c/*")), "nothing is written"
    return str(caught.value)


@pytest.mark.parametrize("broken", ["full", "trim"])
def test_a_missing_unit_is_named(arms, tmp_path, broken):
    (other,) = set(arms) - {broken}
    file = sorted((arms[broken] / "data").iterdir())[1]
    file.unlink()
    assert refused(tmp_path, arms) == f"arm {broken} lacks data/{file.name}, which arm {other} has"


def test_a_doubled_unit_is_named(arms, tmp_path):
    file = sorted((arms["trim"] / "data").iterdir())[0]
    copied_to = file.with_name(file.name.replace("-00000002", "-00000001"))
    copied_to.write_bytes(file.read_bytes())
    message = refused(tmp_path, arms)
    assert message.startswith("arm trim: the output holds two files for one range") and file.name in message


def test_arms_that_are_alike_but_not_finished_are_refused(arms, tmp_path):
    for output in arms.values():
        sorted((output / "data").iterdir())[2].unlink()
    assert "is not finished: 1 of 1 shards" in refused(tmp_path, arms)


@pytest.mark.parametrize("broken", ["full", "trim"])
def test_a_doubled_row_is_named(arms, tmp_path, broken):
    change(arms[broken], lambda rows: [*rows, rows[1]], unit=1)
    name = sorted((arms[broken] / "data").iterdir())[1].name
    message = f"arm {broken}: data/{name} holds 000000-00000003-0000 twice"
    assert refused(tmp_path, arms) == message
    change(arms["trim" if broken == "full" else "full"], lambda rows: [*rows, rows[1]], unit=1)
    # doubled in all arms
    assert "holds 000000-00000003-0000 twice" in refused(tmp_path, arms)


@pytest.mark.parametrize("broken", ["full", "trim"])
def test_a_missing_row_is_named(arms, tmp_path, broken):
    (other,) = set(arms) - {broken}
    change(arms[broken], lambda rows: rows[:-1], unit=0)
    message = f"arm {broken} lacks 000000-00000001-0001, which arm {other} has in data/"
    assert refused(tmp_path, arms).startswith(message)


def test_a_changed_key_is_named(arms, tmp_path):
    change(arms["trim"], lambda rows: [rows[0] | {"key": "000000-00000099-0000"}, *rows[1:]], unit=0)
    assert "lacks 000000-00000000-0000, which arm full has in data/" in refused(tmp_path, arms)


def test_another_order_is_refused(arms, tmp_path):
    change(arms["trim"], lambda rows: rows[::-1], unit=2)
    assert "holds its rows in another order than arm full, from 000000-" in refused(tmp_path, arms)


@pytest.mark.parametrize("column", ["question", "sample_key", "image_sha256"])
def test_another_request_under_the_same_key_is_refused(arms, tmp_path, column):
    change(arms["trim"], lambda rows: [rows[0], rows[1] | {column: "another"}, *rows[2:]], unit=0)
    message = refused(tmp_path, arms)
    assert message.startswith(f"arm trim: the {column} of 000000-00000001-0000 in data/")


def test_damage_is_named(arms, tmp_path):
    file = sorted((arms["trim"] / "data").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(tmp_path, arms).startswith(f"arm trim: data/{file.name}: ")


def test_a_comparison_needs_two_outputs_and_a_known_baseline(outputs, tmp_path):
    with pytest.raises(ConfigError, match="at least two arms"):
        compared(tmp_path, {"full": outputs["full"]})
    with pytest.raises(ConfigError, match="the baseline random is none of the arms full, trim"):
        compared(tmp_path, outputs, baseline="random")
    with pytest.raises(ConfigError, match=r"has no run\.json|nothing at"):
        compared(tmp_path, {**outputs, "trim": tmp_path})
