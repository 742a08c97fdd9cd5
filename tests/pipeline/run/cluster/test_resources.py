"""Test that default resources fit the hardware for any placement by Ray, and that others are refused."""

from itertools import combinations_with_replacement

import pytest

from pipeline.run.cluster.resources import (
    DECODE_MEMORY,
    ActorResources,
    Cluster,
    Hardware,
    TaskResources,
)
from pipeline.support.errors import ConfigError

REMOTE = Cluster(address="auto")


def actors(cluster):
    return cluster.encode.num_actors, cluster.generate.num_actors


@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_without_gpus_every_node_gets_one_actor_of_each_stage(nodes):
    filled = REMOTE.on(Hardware((2.0,) * nodes), "auto")
    assert actors(filled) == (nodes, nodes)
    assert filled.encode.num_gpus == filled.generate.num_gpus == 0


def test_a_node_too_small_for_both_stages_gets_no_actor():
    # two of the nodes have room for both stages
    assert actors(REMOTE.on(Hardware((1.0, 2.0, 1.0, 4.0)), "cpu")) == (2, 2)
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


def test_configured_values_are_kept():
    cluster = Cluster(address="auto", encode=ActorResources(num_cpus=0.5, num_gpus=0.0, num_actors=3))
    filled = cluster.on(Hardware((16.0,), 4), "auto")
    assert actors(filled) == (3, 4)
    assert filled.encode.num_gpus == 0


def test_five_encode_actors_on_a_gpu_leave_no_room_for_generate():
    """The example in the docstring of `_generate_on_gpus`."""
    encode = ActorResources(num_cpus=0.5, num_gpus=0.1, num_actors=12)
    generate = ActorResources(num_cpus=0.6, num_gpus=0.6)
    filled = Cluster(address="auto", encode=encode, generate=generate).on(Hardware((64.0,), 8), "auto")
    assert actors(filled) == (12, 6)


def worst_room(encode, encode_share, generate_share, gpus):
    """Place encode's actors by brute force so that the fewest generate actors find a GPU."""
    rooms = []
    for places in combinations_with_replacement(range(gpus), encode):
        loads = [round(places.count(gpu) * encode_share, 6) for gpu in range(gpus)]
        if max(loads) <= 1:
            rooms.append(sum(int((1 - load) / generate_share + 1e-9) for load in loads))
    return min(rooms)


@pytest.mark.parametrize("encode", range(1, 7))
@pytest.mark.parametrize(
    ("encode_share", "generate_share"),
    [(0.1, 0.6), (0.25, 0.75), (0.2, 0.8), (0.5, 0.5), (0.3, 0.9), (0.5, 1.0)],
)
def test_every_actor_finds_a_place_in_any_packing(encode, encode_share, generate_share):
    gpus = 4
    cluster = Cluster(
        address="auto",
        encode=ActorResources(num_cpus=0.5, num_gpus=encode_share, num_actors=encode),
        generate=ActorResources(num_cpus=0.6, num_gpus=generate_share),
    )
    try:
        actors_placed = actors(cluster.on(Hardware((64.0,), gpus), "auto"))[1]
    except ConfigError:
        actors_placed = 0
    assert actors_placed <= worst_room(encode, encode_share, generate_share, gpus)
    assert actors_placed >= worst_room(encode, encode_share, generate_share, gpus) - 1 or generate_share < 0.6


def test_actors_that_may_find_no_place_are_refused():
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


def test_decoding_books_what_one_image_may_take_or_all_that_the_largest_node_has():
    def booked(cluster, memory):
        return cluster.on(Hardware((8.0,), memory=memory), "cpu").decode.memory

    assert booked(REMOTE, None) == booked(REMOTE, 8 << 30) == DECODE_MEMORY == 1 << 30
    assert booked(REMOTE, 700_000_000) == 700_000_000
    assert REMOTE.on(Hardware((8.0,)), "cpu").read.memory is None
    more = Cluster(address="auto", decode=TaskResources(num_cpus=0.3, memory=2 << 30))
    assert booked(more, 4 << 30) == 2 << 30
    with pytest.raises(
        ConfigError, match=r"^cluster\.decode\.memory=2147483648: no node has more than 1073741824"
    ):
        booked(more, 1 << 30)


@pytest.mark.parametrize(
    "environment",
    [
        {"pip": {"packages": ["x"], "pip_install_options": ["--index-url=https://me:CANARY@host/simple"]}},
        {"pip": ["x @ git+https://CANARY@host/x.git"]},
        {"py_modules": ["https://host/x.zip?X-Amz-Signature=CANARY"]},
    ],
)
def test_credentials_that_ray_would_log_are_refused(environment):
    with pytest.raises(ConfigError, match="must not hold credentials") as raised:
        Cluster(runtime_env=environment)
    assert "CANARY" not in str(raised.value)
    Cluster(runtime_env={"pip": ["x"], "env_vars": {"PIP_INDEX_URL": "https://me:x@host/simple"}})
