"""Figures derived from the times at which units visited the stages."""

import numpy as np
import pytest

from pipeline.output.footers import Footer
from pipeline.planner.timeline import STAGES, timeline_of
from tests.support.footers import footer_of, with_visit

BEGAN = 1000.0


def footer(number: int, spans: list[tuple[float, float]], pids: list[int], cpu: float = 1.0) -> Footer:
    """Make the footer of a unit of two samples; `spans` count from the job's start."""
    visits = {
        stage: {
            **{"node": "here", "pid": pid, "start": BEGAN + first, "end": BEGAN + last},
            **{"cpu_s": cpu, "startup_s": 3.0 if stage == "generate" else 0.0},
        }
        for stage, (first, last), pid in zip(STAGES, spans, pids, strict=True)
    }
    end_time = BEGAN + spans[-1][1]
    return footer_of(
        attempt=str(BEGAN), first=2 * number, stop=2 * number + 2, stages=visits, end_time=end_time
    )


def chain(count: int, generate_s: float = 2.0) -> list[Footer]:
    """Make units that queue before `generate`, which starts each 0.25 s after the one before."""
    footers = []
    for number in range(count):
        at = 10 + number * (generate_s + 0.25)
        early = [(number, number + 0.5), (number + 0.5, number + 0.75), (number + 0.75, number + 1)]
        spans = [*early, (at, at + generate_s), (at + generate_s + 0.1, at + generate_s + 0.2)]
        footers.append(footer(number, spans, [1, 1, 2, 3, 1]))
    return footers


def test_seconds_count_from_the_start_in_the_order_of_the_ends():
    timeline = timeline_of(chain(4)[::-1])
    assert timeline.start_VS[:, 3].tolist() == [10, 12.25, 14.5, 16.75]
    # `read` starts its clock after the first of the two samples
    assert (timeline.end_VS - timeline.start_VS)[:, 0].tolist() == [1.0] * 4
    assert timeline.loading() == [(7.0, 10.0)]


def test_a_handover_starts_when_unit_and_server_are_ready():
    timeline = timeline_of(chain(8))
    assert timeline.handovers(3, 1) == pytest.approx(np.full(7, 0.25))
    assert timeline.handovers(4, 1) == pytest.approx(np.full(7, 0.1))


def test_waiting_for_backpressure_is_no_handover():
    """`encode` waits for `generate` from its fourth unit on."""
    units = []
    for number in range(8):
        at = 10 + 3 * number
        encoded = 5 + number if number < 4 else at - 12
        spans = [(number / 4, number / 4 + 0.1), (number / 4 + 0.1, number / 4 + 0.2)]
        spans += [(encoded, encoded + 0.5), (at, at + 3), (at + 3, at + 3.5)]
        units.append(footer(number, spans, [1, 1, 2, 3, 1]))
    timeline = timeline_of(units)
    assert timeline.handovers(2, 1).max() <= 0.5


def test_first_visits_and_concurrency_are_counted_per_process():
    units = chain(4)
    units[2] = with_visit(units[2], "write", pid=9)
    timeline = timeline_of(units)
    assert np.argwhere(timeline.first[:, 4]).ravel().tolist() == [0, 2]
    assert timeline.at_once(3) == 1
    units[1] = with_visit(units[1], "generate", start=units[1].stages["generate"].start - 1)
    assert timeline_of(units).at_once(3) == 2


def test_units_that_a_process_has_together_share_its_cpu_seconds():
    at_once = {"start": BEGAN + 10, "end": BEGAN + 20, "cpu_s": 8.0}
    units = [with_visit(unit, "generate", **at_once) for unit in chain(4)]
    timeline = timeline_of(units)
    assert timeline.cpu_VS[:, 3].sum() == pytest.approx(8.0)
    assert timeline.cpu_VS[:, 2].tolist() == [1.0] * 4
