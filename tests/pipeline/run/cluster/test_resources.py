"""Whatever is left open fits the hardware, wherever Ray puts it; what does not fit is refused."""

from itertools import combinations_with_replacement

import pytest

from pipeline.run.cluster.resources import ActorResources, Cluster, Hardware
from pipeline.support.errors import ConfigError

REMOTE = Cluster(address="auto")


def actors(cluster):
    return cluster.encode.num_actors, cluster.generate.num_actors


@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_without_gpus_there_is_one_of_each_on_every_node(nodes):
    filled = REMOTE.on(Hardware((2.0,) * nodes), "auto")
    assert actors(filled) == (nodes, nodes)
    assert filled.encode.num_gpus == filled.generate.num_gpus == 0


def test_a_node_without_room_for_both_gets_none():
    assert actors(REMOTE.on(Hardware((1.0, 2.0, 1.0, 4.0)), "cpu")) == (2, 2)  # two have room for one of each
    assert actors(REMOTE.on(Hardware((1.0, 1.0)), "cpu")) == (1, 1)
    assert actors(REMOTE.on(Hardware((2.0,)), "cpu")) == (1, 1)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("gpus", "expected"), [(1, (1, 1)), (2, (1, 2)), (4, (1, 4)), (8, (2, 8)), (64, (16, 61))]
)
def test_every_gpu_gets_a_language_model(gpus, expected, device):
    filled = REMOTE.on(Hardware((16.0 * gpus,), gpus), device)
    assert actors(filled) == expected
    assert (filled.encode.num_gpus, filled.generate.num_gpus) == (0.1, 0.6)


def test_a_cpu_run_takes_no_gpu():
    filled = REMOTE.on(Hardware((8.0, 8.0), 8), "cpu")
    assert actors(filled) == (2, 2)
    assert filled.generate.num_gpus == 0


def test_what_is_set_stays_as_it_is():
    own = Cluster(address="auto", encode=ActorResources(num_cpus=0.5, num_gpus=0.0, num_actors=3))
    filled = own.on(Hardware((16.0,), 4), "auto")
    assert actors(filled) == (3, 4)
    assert filled.encode.num_gpus == 0


def test_five_of_encode_on_a_gpu_leave_no_room_for_one_of_generate():
    """The example in the docstring of `_generate_on_gpus`."""
    encode = ActorResources(num_cpus=0.5, num_gpus=0.1, num_actors=12)
    generate = ActorResources(num_cpus=0.6, num_gpus=0.6)
    filled = Cluster(address="auto", encode=encode, generate=generate).on(Hardware((64.0,), 8), "auto")
    assert actors(filled) == (12, 6)


def worst_room(encode, other, generate_share, gpus):
    """Brute force: where can encode's actors lie so that the fewest of the others find a GPU?"""
    rooms = []
    for places in combinations_with_replacement(range(gpus), encode):
        taken = [round(places.count(gpu) * other, 6) for gpu in range(gpus)]
        if max(taken) <= 1:
            rooms.append(sum(int((1 - load) / generate_share + 1e-9) for load in taken))
    return min(rooms)


@pytest.mark.parametrize("encode", range(1, 7))
@pytest.mark.parametrize(
    ("other", "own"), [(0.1, 0.6), (0.25, 0.75), (0.2, 0.8), (0.5, 0.5), (0.3, 0.9), (0.5, 1.0)]
)
def test_no_way_of_packing_leaves_one_without_a_place(encode, other, own):
    gpus = 4
    cluster = Cluster(
        address="auto",
        encode=ActorResources(num_cpus=0.5, num_gpus=other, num_actors=encode),
        generate=ActorResources(num_cpus=0.6, num_gpus=own),
    )
    try:
        found = actors(cluster.on(Hardware((64.0,), gpus), "auto"))[1]
    except ConfigError:
        found = 0
    assert found <= worst_room(encode, other, own, gpus)
    assert found >= worst_room(encode, other, own, gpus) - 1 or own < 0.6


def test_what_may_not_find_a_place_is_refused():
    cluster = Cluster(
        address="auto",
        encode=ActorResources(num_cpus=0.5, num_gpus=0.25, num_actors=2),
        generate=ActorResources(num_cpus=0.6, num_gpus=0.75, num_actors=2),
    )
    with pytest.raises(ConfigError, match="1 are sure to find a place beside 2 of encode"):
        cluster.on(Hardware((64.0,), 2), "auto")


def test_more_gpus_than_there_are_is_refused():
    cluster = Cluster(address="auto", generate=ActorResources(num_cpus=0.6, num_gpus=2.0, num_actors=2))
    with pytest.raises(ConfigError, match=r"the actors book 4\.1 GPUs, but the cluster has 2"):
        cluster.on(Hardware((64.0,), 2), "auto")


def test_cuda_without_a_gpu_in_the_cluster_is_refused():
    with pytest.raises(ConfigError, match="but the cluster has 0"):
        REMOTE.on(Hardware((64.0,)), "cuda")
