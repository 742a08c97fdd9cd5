"""The figures of a comparison against closed forms, known values and rules."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.agreement import NOTHING, SAME, ArmAnswer, Worst, agreement, chrf, rouge_l_f1
from pipeline.compare.comparison import McNemar
from pipeline.compare.cost import Pricing, cost_of, seconds_per_success
from pipeline.compare.machine_time import MachineTime, shared_seconds
from pipeline.compare.scores import mcnemar, sign_test
from pipeline.models.sizes import Shape, read_shape, shape_of_config
from pipeline.output.footers import Footer
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import interval, quotient, resampled_sums
from tests.support.footers import footer_of

CONF = Path(__file__).parents[3] / "conf" / "pricing"


# --- bootstrap ---


def test_the_interval_of_a_mean_is_the_closed_form():
    values = np.random.default_rng(1).exponential(2.0, 30_000).astype(np.float32)  # in several blocks
    ones = np.ones(len(values), np.float32)
    sums = resampled_sums({"x": (values,), "n": (ones,)}, resamples=2000, seed=3)
    assert (sums["n"] == len(values)).all(), "every resample has as many requests as there are"
    estimate = interval(quotient(sums["x"], sums["n"]))
    error = float(values.std()) / math.sqrt(len(values))
    assert estimate["value"] == pytest.approx(values.mean(dtype=np.float64))
    assert (sums["x"][1:] / len(values)).std() == pytest.approx(error, rel=0.06)
    assert estimate["low"] == pytest.approx(estimate["value"] - 1.96 * error, abs=0.15 * error)
    assert estimate["high"] == pytest.approx(estimate["value"] + 1.96 * error, abs=0.15 * error)


def test_draws_are_the_same_for_all_columns_and_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=50)
    draw = {"resamples": 40, "seed": 5}
    sums = resampled_sums({"x": (values,), "2x": (2 * values,), "xx": (values, values)}, **draw)
    assert np.allclose(sums["2x"], 2 * sums["x"])
    again = resampled_sums({"x": (values,)}, **draw)
    assert np.allclose(again["x"], sums["x"], rtol=1e-12)
    assert sums["xx"][0] == pytest.approx((values**2).sum())


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(7), 0
    for seed in range(200):
        first = rng.gamma(2.0, 1.0, 200)
        second = first * rng.uniform(0.5, 1.5, 200)  # the true ratio of sums is 1
        sums = resampled_sums({"a": (first,), "b": (second,)}, resamples=300, seed=seed)
        ratio = interval(sums["b"] / sums["a"])
        hits += ratio["low"] <= 1 <= ratio["high"]
    assert 0.90 <= hits / 200 <= 0.99


def test_an_undefined_figure_has_no_interval():
    assert interval(quotient(np.array([1.0, 1.0]), np.array([0.0, 1.0]))) is None
    assert interval(np.array([2.0])) == {"value": 2.0}
    empty = resampled_sums({"x": (np.zeros(0),)}, resamples=3, seed=0)
    assert empty["x"].tolist() == [0, 0, 0, 0]


# --- McNemar ---


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 10, 2 / 1024), (10, 10, 1.0), (2, 8, 112 / 1024)],
)
def test_the_sign_test_of_known_splits(b, c, p):
    assert sign_test(b, c) == pytest.approx(p)


@settings(max_examples=60)
@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_the_sum_of_its_binomial(b, c):
    n = b + c
    exact = min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)
    assert sign_test(b, c) == pytest.approx(exact, rel=1e-9)


def test_the_sign_test_of_many():
    assert sign_test(50_000, 51_000) == pytest.approx(
        math.erfc(999 / math.sqrt(101_000) / math.sqrt(2)), rel=0.02
    )


def test_mcnemar_counts_requests_right_in_one_arm_only():
    nan = math.nan
    result = mcnemar(np.array([1, 1, 0, 0, 1, nan]), np.array([1, 0, 1, 0, 0, 1]))
    assert result == McNemar(b=2, c=1, p=1.0)
    assert mcnemar(np.array([0.3, 1]), np.array([1, 1])) is None
    assert mcnemar(np.array([nan]), np.array([nan])) is None


# --- answers ---


def test_agreement():
    answer = ArmAnswer("The bus is red.", "ok")
    assert agreement(answer, answer) == SAME
    near = agreement(answer, ArmAnswer("bus is red", "ok"))
    assert (near.exact, near.normalised) == (0, 1)
    assert near.rouge_l == pytest.approx(2 * 0.75 / 1.75) and 50 < near.chrf < 100
    assert agreement(answer, ArmAnswer(None, "failed")) == NOTHING
    assert agreement(ArmAnswer(None, "failed"), ArmAnswer(None, "failed")) == SAME
    assert agreement(ArmAnswer(None, "bad_image"), ArmAnswer(None, "failed")) == NOTHING
    assert agreement(ArmAnswer("", "ok"), ArmAnswer("", "ok")) == SAME
    assert agreement(ArmAnswer("", "ok"), ArmAnswer("red", "ok")) == NOTHING


@pytest.mark.slow
@settings(max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_texts_are_scored_within_bounds(first, second):
    scores = agreement(ArmAnswer(first, "ok"), ArmAnswer(second, "ok"))
    assert 0 <= scores.rouge_l <= 1 and 0 <= scores.chrf <= 100 + 1e-9
    assert scores.exact <= scores.normalised
    assert rouge_l_f1(first, first) == 1 and chrf(first, first) == 100


def test_the_worst_disagreements_are_listed_in_order():
    worst = Worst(most=2)
    base = ArmAnswer("a red bus on a road", "ok")
    for key, text in enumerate(["a red bus on a road", "a red bus", "two dogs", "a bus", "kittens"]):
        worst.add((str(key), "s", "q"), base, ArmAnswer(text, "ok"), agreement(base, ArmAnswer(text, "ok")))
    worst.add(("5", "s", "q"), base, ArmAnswer(None, "failed"), NOTHING)
    answers = worst.answers()
    assert {answer.key for answer in answers} == {"2", "4"}
    assert [answer.rouge_l for answer in answers] == [0, 0]
    assert answers[0].baseline == base.prediction


# --- machine time ---


def footer(
    attempt: str, begin: float, *, generate_s: float, common: float = 1.0, wait: float = 0.0, **more
) -> Footer:
    """Make the footer of a unit with a second each of read, decode and encode, then `generate_s`."""
    ends = {"read": begin + 1, "decode": begin + 2, "encode": begin + 3}
    stages = {
        stage: {
            "start": end - 1,
            "end": end,
            "startup_s": 0.0,
            "peak_memory_bytes": 10,
            "node": "n",
            "pid": 1,
        }
        for stage, end in ends.items()
    }
    generating = {
        "start": begin + 3 + wait,
        "end": begin + 3 + wait + generate_s,
        "startup_s": more.pop("startup", 0),
    }
    stages["generate"] = stages["encode"] | generating
    totals = {
        "image_decode_s": common,
        "encode_s": common,
        "reduce_s": 0.0,
        "generate_s": generate_s,
        "prefill_s": 0,
    }
    end = stages["generate"]["end"] + 1
    totals |= {"status": {"ok": 4}} | more
    return footer_of(attempt=attempt, start=begin, end_time=end, stages=stages, totals=totals)


def test_a_pass_that_several_arms_share_is_counted_once():
    full, trim = footer("1", 0.0, generate_s=6.0), footer("1", 0.0, generate_s=2.0, encode_s=3.0)
    seconds = shared_seconds({"full": full, "trim": trim})
    assert seconds == pytest.approx({"full": 6 + 0.5 + 3 / 4, "trim": 2 + 0.5 + 9 / 4})
    separate = shared_seconds({"full": full, "trim": footer("2", 0.0, generate_s=2.0, encode_s=3.0)})
    assert separate == pytest.approx({"full": 8, "trim": 6})


def test_shared_seconds_add_up_to_the_job_and_alone_uses_its_rate():
    job = MachineTime()
    for begin in (0.0, 10.0):
        job.add({"full": footer("1", begin, generate_s=6.0), "trim": footer("1", begin, generate_s=2.0)})
    full, trim = job.provisioned("full"), job.provisioned("trim")
    assert full.shared + trim.shared == pytest.approx(20)  # from 0 to 10 + 3 + 6 + 1
    assert full.alone == pytest.approx(20 * 16 / 20) and trim.alone == pytest.approx(20 * 8 / 20)
    assert (full.busy, trim.busy) == (16, 8)
    assert job.interleaved


def test_the_worked_example():
    """The table in the docstring of pipeline/compare/machine_time.py."""
    job = MachineTime()
    arms = {
        arm: footer("1", 0.0, generate_s=seconds, wait=5.0) for arm, seconds in (("full", 6.0), ("trim", 2.0))
    }
    assert shared_seconds(arms) == {"full": 7, "trim": 3}
    job.add(arms)
    full, trim = job.provisioned("full"), job.provisioned("trim")
    assert (full.busy, trim.busy) == (8, 4)
    assert (full.alone, trim.alone) == pytest.approx((12, 6))
    assert (full.shared, trim.shared) == pytest.approx((10.5, 4.5))


def test_loading_models_is_start_up_and_not_work():
    job = MachineTime()
    job.add({"full": footer("1", 0.0, generate_s=6.0, wait=5.0, startup=7.0)})
    # the second unit waits for longer than the loading
    job.add({"full": footer("2", 100.0, generate_s=6.0, wait=5.0, startup=2.0)})
    time = job.provisioned("full")
    assert time.startup == 9
    assert time.shared == pytest.approx(time.alone) == pytest.approx(10 + 13)
    assert job.throughput("full") == [[10, 4], [23, 8]], "the time between the attempts does not count"


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.floats(0, 10))
def test_shared_seconds_never_exceed_those_alone_and_add_up(generate_seconds, common):
    job = MachineTime()
    footers = {
        str(arm): footer("1", 0.0, generate_s=seconds, common=common)
        for arm, seconds in enumerate(generate_seconds)
    }
    job.add(footers)
    times = [job.provisioned(arm) for arm in footers]
    assert sum(time.shared for time in times) == pytest.approx(3 + max(generate_seconds) + 1)
    assert all(time.shared <= time.alone * (1 + 1e-9) for time in times)


def test_an_idle_job_is_charged_to_all_arms():
    job = MachineTime()
    job.add({arm: footer("1", 0.0, generate_s=0.0, common=0.0) for arm in "ab"})
    time = job.provisioned("a")
    assert (time.alone, time.shared) == (4, 2)
    assert seconds_per_success(time, np.array([0.0]), np.array([2.0])) == [2.0]


def test_the_cost_of_a_million():
    job = MachineTime()
    job.add({"full": footer("1", 0.0, generate_s=6.0, startup=4.0)})
    time, ok = job.provisioned("full"), np.array([4.0, 4.0, 2.0])
    each = seconds_per_success(time, np.array([8.0, 8.0, 8.0]), ok)
    assert each == pytest.approx([2.5, 2.5, 5])
    cost = cost_of(time, each, 4, Pricing(hardware="h", price_per_hour=3.6))
    assert cost.per_million["value"] == cost.shared_per_million == pytest.approx(2500)
    assert cost.startup_cost == pytest.approx(0.004)


def test_prices():
    for fields in (
        {"price_per_hour": 0},
        {"price_per_hour": -1},
        {"price_per_hour": math.nan},
        {"hardware": ""},
    ):
        with pytest.raises(ConfigError, match=r"pricing\."):
            Pricing(**{"hardware": "h", "price_per_hour": 1.0, **fields})
    for path in CONF.glob("*.yaml"):
        tree = yaml.safe_load(path.read_text())
        assert tree["_target_"] == "pipeline.compare.cost.Pricing"
        assert set(tree) == {"_target_", "hardware", "price_per_hour", "currency"}


# --- shapes ---


def test_the_sizes_of_published_models():
    llava_7b = shape_of_config(
        {"text_config": {"model_type": "llama"}, "vision_config": {"hidden_size": 1024}}
    )
    assert llava_7b == Shape(32, 32, 128, 1024, 224)
    assert llava_7b.kv_bytes("float16") == 524_288  # half a MiB a token
    assert llava_7b.token_bytes("bfloat16") == 2048
    grouped = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}
    assert shape_of_config({"text_config": grouped}).kv_bytes("float32") == 2 * 2 * 2 * 8 * 4
    assert shape_of_config({"text_config": grouped | {"head_dim": 16}}).head_dim == 16


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        read_shape(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match="is not a JSON object"):
        read_shape(str(tmp_path))
