"""Test the advice on larger units for a driver that is busy, and that these units are not refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.output.units import MAX_UNIT_BYTES, UnitLimits
from pipeline.run.driver_load import advice
from pipeline.run.machine_checks import largest_unit, require_unit_fits
from pipeline.support.errors import ConfigError

LARGEST = UnitLimits(unit_samples=783, unit_requests=783, unit_bytes=MAX_UNIT_BYTES // 2)


def test_a_busy_driver_is_told_which_units_cost_it_less():
    told = advice(1800, 60.0, 37.2, UnitLimits(), LARGEST)
    assert told.startswith("30 units a second keep the driver busy for 62% of the time")
    assert told.endswith("unit_samples=192 unit_requests=384 unit_bytes=201326592")
    told = advice(2400, 60.0, 60.0, replace(UnitLimits(), unit_samples=783), LARGEST)
    assert told.endswith("unit_requests=512 unit_bytes=268435456"), "what is at its largest is not named"


def test_no_advice_without_need_or_without_a_remedy():
    assert advice(1400, 60.0, 29.0, UnitLimits(), LARGEST) is None
    assert advice(2400, 60.0, 60.0, LARGEST, LARGEST) is None


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_largest_units_are_taken_and_larger_ones_refused(dtype, arms):
    geometry = SimpleNamespace(image_size=336, num_patches=576, vision_width=1024)
    config = SimpleNamespace(
        limits=UnitLimits(),
        model=SimpleNamespace(encode_dtype=dtype),
        arms=[SimpleNamespace(reads_request=True)] * arms,
    )
    largest = largest_unit(config, geometry)
    assert (largest.unit_requests == 783) == (dtype == "bfloat16" and arms == 1)
    config.limits = largest
    require_unit_fits(config, geometry)
    config.limits = replace(largest, unit_requests=largest.unit_requests + 1)
    with pytest.raises(ConfigError, match="visual tokens could take"):
        require_unit_fits(config, geometry)
