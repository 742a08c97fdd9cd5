"""A machine that is slower for some units makes equal arms differ, and the interval says so."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.compare.columns import Numbers
from pipeline.support.intervals import interval, quotient, resampled_sums
from pipeline.support.schema import COUNTS, SECONDS

UNITS, REQUESTS = 20, 64


def measured(seed: int) -> Numbers:
    """Two arms of equal work; what a unit takes is up to a quarter more or less, whatever the arm."""
    rng = np.random.default_rng(seed)
    numbers = Numbers(("one", "other"), "one")
    for unit in range(UNITS):
        tables = {}
        for arm in ("one", "other"):
            seconds = rng.uniform(0.9, 1.1, REQUESTS) * rng.uniform(0.75, 1.25)
            columns = {name: [1] * REQUESTS for name in COUNTS} | {name: [0.0] * REQUESTS for name in SECONDS}
            text = {name: [f"{name} {unit}"] * REQUESTS for name in ("key", "sample_key", "question")}
            answers = {"prediction": ["yes"] * REQUESTS, "status": ["ok"] * REQUESTS}
            tables[arm] = pa.table(columns | text | answers | {"generate_s": seconds})
        numbers.add(tables)
    return numbers


def holds_one(columns) -> bool:
    sums = resampled_sums(columns, resamples=500, seed=0)
    found = interval(quotient(sums["other", "both", "generate_s"], sums["other", "base", "generate_s"]))
    return found["low"] <= 1 <= found["high"]


def test_equal_arms_are_within_the_interval_over_units():
    """About 19 times of 20; were requests drawn, as if each had noise of its own, the interval would lie."""
    trials = [measured(seed) for seed in range(100)]
    assert sum(holds_one(numbers.columns_by_unit()) for numbers in trials) >= 85
    assert sum(holds_one(numbers.columns()) for numbers in trials) <= 35


def test_the_units_add_up_to_all_requests():
    numbers = measured(0)
    whole = resampled_sums(numbers.columns(), resamples=0, seed=0)
    by_unit = resampled_sums(numbers.columns_by_unit(), resamples=0, seed=0)
    assert whole.keys() == by_unit.keys()
    for name, value in whole.items():
        assert by_unit[name] == pytest.approx(value)
