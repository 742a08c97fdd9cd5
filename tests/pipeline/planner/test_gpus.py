"""The planner counts a profile's GPUs, and lets CLIPs share the time of those of language models."""

import numpy as np
import pytest

from pipeline.planner.contention import without_contention
from pipeline.planner.gpus import gpus_of
from pipeline.planner.simulate import Simulated, Station, Worker, simulate
from pipeline.run.cluster.resources import ActorResources, Cluster
from tests.support.footers import footer_of


def footers(gpu_stages=("encode", "generate"), encode_s=0.25):
    """Make the footers of four units that took CLIP 0.5 s each."""
    stages = {
        stage: {"start": 10.0, "end": 10.5}
        | ({"peak_gpu_memory_bytes": 1 << 30} if stage in gpu_stages else {})
        for stage in ("read", "decode", "encode", "generate", "write")
    }
    totals = {"encode_s": encode_s, "reduce_s": 0.05}
    return [footer_of(first=number, stop=number + 1, stages=stages, totals=totals) for number in range(4)]


def cluster(encode: tuple, generate: tuple) -> Cluster:
    """Configure actors: their number, and the GPUs that each books (None: left open)."""
    stages = {"encode": encode, "generate": generate}
    actors = {
        stage: ActorResources(num_cpus=0.5, num_actors=count, num_gpus=gpus)
        for stage, (count, gpus) in stages.items()
    }
    return Cluster(address="elsewhere", **actors)


@pytest.mark.parametrize(
    ("encode", "generate", "gpus"),
    [
        ((2, None), (8, None), 8),
        ((8, None), (32, None), 32),
        ((1, None), (1, None), 1),
        ((2, 0.1), (8, 0.6), 8),
        ((2, 0.2), (8, 0.4), 4),  # two language models and a CLIP on a GPU
        ((1, 0.5), (4, 0.5), 4),  # one and a CLIP: there is no room for two beside it
        ((1, 1), (7, 1), 8),
        ((2, None), (2, 4), 10),  # four GPUs a language model, and CLIPs beside none
        ((4, 0), (8, None), 8),
        ((2, None), (8, 0), 2),
        ((4, 0.5), (8, 0), 2),
    ],
)
def test_gpus_are_counted_whole(encode, generate, gpus):
    assert gpus_of(footers(), cluster(encode, generate), 1).count == gpus


def test_what_stages_want():
    assert gpus_of(footers(()), cluster((2, None), (8, None)), 4).count == 0, "torch used none"
    gpus = gpus_of(footers(), cluster((2, None), (8, None)), 4)
    assert gpus.demand == {"generate": 1 / 4, "encode": pytest.approx(0.6)}
    assert gpus_of(footers(encode_s=9.0), cluster((2, None), (8, None)), 1).demand["encode"] == 1.0
    assert gpus_of(footers(), cluster((2, None), (2, 4)), 1).demand["generate"] == 4


def node(models: int, clips: int, gpus: int, **more) -> Worker:
    """Make a worker whose CLIPs and language models each want a GPU while they work."""
    stations = (
        Station("decode", (0.0,) * 4, demand=1.0),
        Station("encode", (0.0,) * clips, room=4, gpu_demand=1.0),
        Station("generate", (0.0,) * models, gpu_demand=1.0),
    )
    return Worker(stations, gpus=gpus, **more)


def run(worker: Worker, units: int, *seconds: float) -> Simulated:
    alone = np.tile(np.array(seconds), (units, 1))
    return simulate(worker, alone, np.zeros(alone.shape))


def test_clips_take_time_from_the_language_models_beside_them():
    """On 8 GPUs a unit takes 1 s of CLIP and 8 s of a language model: 8 / 9 units a second."""
    simulated = run(node(8, 2, 8), 600, 0.1, 1.0, 8.0)
    assert simulated.units_per_s == pytest.approx(8 / 9, rel=0.02)
    assert simulated.busy["gpus"] == pytest.approx(1, abs=0.02)
    apart = run(node(8, 2, 10), 600, 0.1, 1.0, 8.0)
    assert apart.units_per_s == pytest.approx(1, rel=0.02), "with GPUs of their own"
    assert "gpus" not in run(node(8, 2, 0), 10, 0.1, 1.0, 8.0).busy


def test_work_of_the_cpu_does_not_wait_for_gpus():
    simulated = run(node(1, 1, 1), 40, 1.0, 5.0, 5.0)
    decoding = simulated.ended[:, 0] - simulated.begun[:, 0]
    assert decoding == pytest.approx(np.full(40, 1.0))
    assert simulated.units_per_s == pytest.approx(1 / 10, rel=0.05)


def test_contention_for_gpus_is_removed_from_measured_times():
    rng = np.random.default_rng(3)
    alone = rng.uniform(0.5, 1.5, (80, 3)) * [0.5, 1.0, 4.0]
    worker = node(4, 2, 4, cores=3.0, loading=((0.0, 6.0),))
    simulated = simulate(worker, alone, rng.uniform(0.0, 0.2, alone.shape))
    measured = simulated.ended - simulated.begun
    assert measured[:, 2].mean() > 1.1 * alone[:, 2].mean(), "the simulation has no contention"
    again, _ = without_contention(
        simulated.begun, simulated.ended, alone * [1.0, 0.0, 0.0], 3.0, worker.loading, 4, [0.0, 1.0, 1.0]
    )
    np.testing.assert_allclose(again, alone, rtol=0.02)
