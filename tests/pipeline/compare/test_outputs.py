"""comparison.json and comparison.parquet of real outputs: identical arms, different arms, failing arms."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.compare.comparison import Comparison
from pipeline.compare.cost import Pricing
from pipeline.compare.table import comparison_schema
from pipeline.compare.terminal import comparison_tables, summary_text
from pipeline.models.sizes import Shape, read_shape
from pipeline.support.schema import COLUMNS, PREDICTIONS
from tests.pipeline.compare.made_arms import change, compared, copied
from tests.support.runs import rows

PRICING = Pricing(hardware="a small machine", price_per_hour=0.36)
PAIR = ("exact_agreement", "normalised_agreement", "rouge_l", "chrf")
RATIOS = ("tokens_ratio", "seconds_ratio", "cost_ratio")


def values(pair: dict, *names: str) -> list[float]:
    return [pair[name]["value"] for name in names]


def holds_one(figure: dict) -> bool:
    return figure["low"] <= 1 <= figure["high"]


# --- the same answers ---


def test_identical_arms_do_not_differ(outputs, tmp_path):
    again = copied(outputs["full"], tmp_path / "again")
    comparison = compared(tmp_path, {"full": outputs["full"], "again": again}, pricing=PRICING)
    (pair,) = comparison["pairs"].values()
    assert values(pair, *PAIR) == [1, 1, 1, 100]
    assert values(pair, *RATIOS) == pytest.approx([1, 1, 1])
    assert all(holds_one(pair[name]) for name in RATIOS)
    assert pair["worst"] == []
    first, second = comparison["arms"].values()
    assert first["cost"] == second["cost"] and first["tokens"] == second["tokens"]


def test_shared_work_is_counted_once(outputs, tmp_path):
    again = copied(outputs["full"], tmp_path / "again")
    comparison = compared(tmp_path, {"full": outputs["full"], "again": again})
    alone = compared(tmp_path / "b", {"full": outputs["full"], "trim": outputs["trim"]})
    for arm in comparison["arms"].values():
        time = arm["provisioned_seconds"]
        assert time["shared"] < time["alone"]
        assert arm["shared_requests_per_s"] > arm["requests_per_s"]["value"]
    for arm in alone["arms"].values():  # two runs, one after the other, share nothing
        time = arm["provisioned_seconds"]
        assert time["shared"] == pytest.approx(time["alone"])


# --- different answers ---


def test_trim_against_full(outputs, tmp_path):
    comparison = compared(tmp_path, outputs, pricing=PRICING)
    by_hand = {name: rows(output) for name, output in outputs.items()}
    assert comparison["requests"] == len(by_hand["full"]) == 9
    assert comparison["source"].endswith("/tars")
    kept = [row["visual_tokens_kept"] for row in by_hand["trim"]]
    arm, pair = comparison["arms"]["trim"], comparison["pairs"]["trim"]
    tokens = arm["tokens"]["visual_tokens_kept"]
    assert tokens["mean"]["value"] == pytest.approx(np.mean(kept))
    assert [tokens[name] for name in ("p5", "p50", "p95")] == pytest.approx(np.percentile(kept, [5, 50, 95]))
    assert arm["tokens"]["visual_tokens_full"] == 576
    assert sum(arm["histogram"]["counts"]) == 9
    assert arm["histogram"]["edges"] == comparison["arms"]["full"]["histogram"]["edges"]
    same = [a["prediction"] == b["prediction"] for a, b in zip(*by_hand.values(), strict=True)]
    assert pair["exact_agreement"]["value"] == pytest.approx(np.mean(same))
    assert pair["tokens_ratio"]["value"] == pytest.approx(np.sum(kept) / (9 * 576))
    assert len(pair["worst"]) == 9 - sum(same)
    assert [item["rouge_l"] for item in pair["worst"]] == sorted(item["rouge_l"] for item in pair["worst"])
    seconds = {name: figure["mean"]["value"] for name, figure in arm["seconds"].items()}
    spent = sum(row[name] for row in by_hand["trim"] for name in ("image_decode_s", "encode_s", "reduce_s"))
    spent += sum(row["generate_s"] for row in by_hand["trim"])
    assert seconds["total_s"] == pytest.approx(spent / 9, rel=1e-5)
    decoding = sum(row["generate_s"] - row["prefill_s"] for row in by_hand["trim"])
    assert seconds["decode_s"] == pytest.approx(decoding / 9, rel=1e-4)
    assert set(arm["peak_memory_bytes"]) == {"read", "decode", "encode", "generate", "write"}
    assert any("did not run interleaved" in note for note in comparison["notes"])
    assert comparison["interleaved"] is False
    points = arm["throughput"]
    assert points[-1][1] == 9 and points == sorted(points)


def test_the_files_hold_the_returned_comparison(outputs, tmp_path):
    comparison = compared(tmp_path, outputs, pricing=PRICING)
    assert json.loads((tmp_path / "comparison.json").read_text()) == comparison
    assert Comparison.from_json(comparison).to_json() == comparison
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "comparison.parquet"]
    joined = pq.read_table(tmp_path / "comparison.parquet")
    assert joined.schema.equals(comparison_schema(["full", "trim"]))
    for arm, output in outputs.items():
        arm_rows = rows(output)
        assert joined["key"].to_pylist() == [row["key"] for row in arm_rows]
        for name in ("question", "sample_key", "image_sha256"):
            assert joined[name].to_pylist() == [row[name] for row in arm_rows]
        for name in ("prediction", "status", "kept_patches", "visual_tokens_kept", "generate_s"):
            assert joined[f"{name}.{arm}"].to_pylist() == [row[name] for row in arm_rows]
            assert joined.schema.field(f"{name}.{arm}").type == PREDICTIONS.field(name).type
        assert joined[f"score.{arm}"].null_count == 9


def test_a_comparison_is_printed(outputs, tmp_path):
    comparison = compared(tmp_path, outputs, pricing=PRICING)
    text = summary_text(Comparison.from_json(comparison))
    assert text.startswith("9 requests; full: 576.0 of 576 visual tokens, ")
    assert "USD a million answers" in text and "the same answer to" in text
    arms, pairs = comparison_tables(Comparison.from_json(comparison))
    assert [row[0] for row in arms.rows] == ["full", "trim"]
    assert [row[0] for row in pairs.rows][:2] == ["trim: same answer", "trim: letter for letter"]
    bare = compared(tmp_path / "bare", outputs, resamples=0)
    assert "low" not in bare["pairs"]["trim"]["exact_agreement"]
    assert bare["arms"]["full"]["cost"] is None
    assert summary_text(Comparison.from_json(bare)) and comparison_tables(Comparison.from_json(bare))


def test_tokens_per_s_follows_its_description(outputs):
    (formula,) = [column.description for column in COLUMNS if column.name == "tokens_per_s"]
    for row in (row for output in outputs.values() for row in rows(output)):
        assert eval(formula, {}, row) == pytest.approx(row["tokens_per_s"], rel=1e-5)


# --- failures ---


def failing(unit_rows: list[dict]) -> list[dict]:
    """Replace the last row of a unit by a failed one."""
    nothing = dict.fromkeys(
        ("prediction", "finish_reason", "prompt_tokens", "generated_tokens", "prefill_s", "generate_s")
    )
    return [*unit_rows[:-1], unit_rows[-1] | nothing | {"status": "failed", "error": "its worker died"}]


def test_failures_are_counted_and_charged(outputs, tmp_path):
    lost = change(copied(outputs["full"], tmp_path / "lost"), failing)
    comparison = compared(tmp_path / "a", {"full": outputs["full"], "lost": lost}, pricing=PRICING)
    assert comparison["arms"]["lost"]["status"] == {"failed": 3, "ok": 6}
    pair, arms = comparison["pairs"]["lost"], comparison["arms"]
    assert values(pair, *PAIR) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 200 / 3])
    assert pair["worst"] == []
    assert values(pair, "tokens_ratio", "seconds_ratio") == pytest.approx(
        [1, 1]
    )  # over the requests answered by both
    # the footers' seconds are the same, so six answers pay for nine requests
    assert arms["lost"]["provisioned_seconds"] == pytest.approx(arms["full"]["provisioned_seconds"])
    assert pair["cost_ratio"]["value"] == pytest.approx(9 / 6)
    per_million = arms["lost"]["cost"]["per_million"]["value"]
    assert per_million == pytest.approx(
        arms["lost"]["provisioned_seconds"]["alone"] / 6 * PRICING.price_per_hour / 3600 * 1e6
    )
    assert any("Rows failed in lost" in note for note in comparison["notes"])

    twice = compared(tmp_path / "b", {"lost": lost, "again": copied(lost, tmp_path / "again")})
    assert values(twice["pairs"]["again"], *PAIR) == [1, 1, 1, 100]  # the same requests failed alike


def test_an_arm_in_which_all_failed(outputs, tmp_path):
    def all_failed(unit_rows: list[dict]) -> list[dict]:
        nothing = dict.fromkeys(PREDICTIONS.names[PREDICTIONS.names.index("finish_reason") : -3])
        return [row | nothing | {"prediction": None, "status": "failed", "error": "no"} for row in unit_rows]

    lost = change(copied(outputs["full"], tmp_path / "lost"), all_failed)
    comparison = compared(tmp_path / "a", {"full": outputs["full"], "lost": lost}, pricing=PRICING)
    pair = comparison["pairs"]["lost"]
    assert values(pair, *PAIR) == [0, 0, 0, 0]
    assert pair["cost_ratio"] is None and pair["tokens_ratio"] is None
    assert comparison["arms"]["lost"]["cost"]["per_million"] is None
    assert "9 of 9 failed" in summary_text(Comparison.from_json(comparison)) and comparison_tables(
        Comparison.from_json(comparison)
    )


# --- computed bytes ---


def test_bytes_are_computed_from_the_checkpoint(random_checkpoint, outputs, tmp_path):
    shape = read_shape(str(random_checkpoint / "llava"))
    config = json.loads((random_checkpoint / "llava" / "config.json").read_text())
    language = config["text_config"]
    head = language["hidden_size"] // language["num_attention_heads"]
    assert shape == Shape(
        language["num_hidden_layers"],
        language["num_key_value_heads"],
        language.get("head_dim") or head,
        config["vision_config"]["hidden_size"],
        config["vision_config"]["image_size"],
    )
    comparison = compared(tmp_path / "a", outputs, geometry_of=lambda manifest: shape)
    arm_rows = rows(outputs["trim"])
    tokens = np.mean(
        [row["visual_tokens_kept"] + row["prompt_tokens"] + row["generated_tokens"] for row in arm_rows]
    )
    each = shape.layers * 2 * shape.kv_heads * shape.head_dim * 4
    assert comparison["arms"]["trim"]["kv_cache_bytes"]["mean"] == pytest.approx(tokens * each)
    kept = np.mean([row["visual_tokens_kept"] for row in arm_rows])
    assert comparison["arms"]["trim"]["moved_bytes"]["mean"] == pytest.approx(kept * shape.vision_width * 4)
    without = compared(tmp_path / "b", outputs)  # run.json of these outputs names no model
    assert without["arms"]["trim"]["kv_cache_bytes"] is None
    assert any("no computed bytes" in note for note in without["notes"])
