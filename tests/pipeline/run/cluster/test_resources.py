"""Test that default resources fit the hardware, and that others are refused; GPUs: test_gpu_room.py."""

import pytest

from pipeline.run.cluster.booked import ActorResources, Hardware, TaskResources
from pipeline.run.cluster.resources import DECODE_MEMORY, Cluster
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
def test_every_gpu_gets_a_language_model(device):
    filled = REMOTE.on(Hardware((128.0,), (8.0,)), device)
    assert actors(filled) == (2, 8)
    assert (filled.encode.num_gpus, filled.generate.num_gpus) == (0.01, 0.99)


def test_a_cpu_run_takes_no_gpu():
    filled = REMOTE.on(Hardware((8.0, 8.0), (4.0, 4.0)), "cpu")
    assert actors(filled) == (2, 2)
    assert filled.encode.num_gpus == filled.generate.num_gpus == 0


def test_configured_values_are_kept():
    cluster = Cluster(address="auto", encode=ActorResources(num_cpus=0.5, num_gpus=0.0, num_actors=3))
    filled = cluster.on(Hardware((16.0,), (4.0,)), "auto")
    assert actors(filled) == (3, 4)
    assert filled.encode.num_gpus == 0


def test_cuda_without_a_gpu_in_the_cluster_is_refused():
    with pytest.raises(ConfigError, match="but the cluster has 0 GPUs"):
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
