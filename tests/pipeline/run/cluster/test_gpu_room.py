"""Test how GPUs are divided: a language model on each, CLIPs on different ones, and sums that hold."""

import math
import random
import re

import pytest

from pipeline.run.cluster.gpu_room import WHOLE, Hardware, divide
from pipeline.run.cluster.resources import ActorResources, Cluster
from pipeline.support.errors import ConfigError


def hardware(nodes, gpus, cpus=96.0):
    return Hardware((cpus,) * nodes, (float(gpus),) * nodes)


def room(where, encode=None, generate=None):
    return divide(
        where,
        ActorResources(num_cpus=0.5, **(encode or {})),
        ActorResources(num_cpus=0.6, **(generate or {})),
        0.3,
    )


def counts(divided):
    return tuple(places and (places.count, places.actors) for places in (divided.encode, divided.generate))


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 1), (1, 2), (1, 8), (4, 8), (1, 20), (64, 8), (3, 5)])
def test_every_gpu_gets_a_language_model_and_none_is_idle(nodes, gpus):
    divided = room(hardware(nodes, gpus))
    clips = math.ceil(nodes * gpus / 4)
    assert counts(divided) == ((clips, clips), (nodes * gpus, nodes * gpus))
    assert divided.idle == 0
    assert (divided.encode.share, divided.generate.share) == (0.01, 0.99)


def placed_as_ray_does(left, count, units, draw):
    """Give places out as Ray does; returns node and GPU of each, None where Ray tries the same node for ever.

    A node is chosen by the sum of what its GPUs have left, here any such node; on it the GPU with the least
    that is enough. With shares of 0.6 Ray would hang: the sum on a node of 8 GPUs seems to hold 13 actors.
    """
    found = []
    for _ in range(count):
        node = draw.choice([node for node, gpus in enumerate(left) if sum(gpus) >= units])
        fitting = [gpu for gpu, free in enumerate(left[node]) if free >= units]
        if not fitting:
            return None
        gpu = min(fitting, key=lambda gpu: left[node][gpu])
        left[node][gpu] -= units
        found.append((node, gpu))
    return found


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 8), (4, 8), (1, 20), (64, 8), (5, 16), (3, 90)])
def test_however_ray_chooses_nodes_every_place_has_its_gpu(nodes, gpus):
    divided = room(hardware(nodes, gpus, cpus=2.0 * gpus))
    for seed in range(5):
        draw, left = random.Random(seed), [[WHOLE] * gpus for _ in range(nodes)]
        models = placed_as_ray_does(left, divided.generate.count, round(divided.generate.gpus * WHOLE), draw)
        clips = placed_as_ray_does(left, divided.encode.count, round(divided.encode.gpus * WHOLE), draw)
        assert models is not None and clips is not None
        assert len({*models}) == len(models) == nodes * gpus
        assert len({*clips}) == len(clips)


SHARES = [None, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.99, 1.0]


@pytest.mark.parametrize("share", [*SHARES, 2.0])
@pytest.mark.parametrize("clip_share", [*SHARES, 0.0])
@pytest.mark.parametrize("clips", [None, 1, 3, 12])
def test_what_is_booked_fits_on_single_gpus_and_the_sums_of_a_node_do_not_mislead_ray(
    share, clip_share, clips
):
    gpus = 8
    try:
        divided = room(hardware(1, gpus), {"num_gpus": clip_share, "num_actors": clips}, {"num_gpus": share})
    except ConfigError as error:
        assert "do not fit" in str(error)
        return
    left = float(gpus)
    for places in filter(None, (divided.generate, divided.encode)):
        if places.gpus >= 1 or places is divided.generate:
            assert places.count <= left // math.ceil(places.gpus)
        left -= places.count * places.gpus
        assert left > -1e-9
        per_place = math.ceil(places.actors / places.count)
        assert per_place == max(1, int(places.gpus / places.share + 1e-9))
        # on no number of nodes' GPUs does the sum of what is left in the places seem to hold one actor more
        assert int(places.count * places.gpus / places.share + 1e-9) == places.count * per_place
    # nor does what is left of all GPUs seem to hold another place of the first kind
    if divided.generate.actors == gpus:
        assert left < divided.generate.gpus


def test_language_models_of_several_gpus_leave_none_idle():
    assert counts(room(hardware(1, 8), generate={"num_gpus": 2.0})) == ((2, 2), (3, 3))
    assert counts(room(hardware(4, 8), generate={"num_gpus": 2.0})) == ((2, 2), (15, 15))
    assert counts(room(hardware(4, 8), {"num_gpus": 0.0}, {"num_gpus": 8.0})) == (None, (4, 4))


def test_clips_take_no_more_gpus_of_their_own_than_they_need_and_the_way_out_is_named():
    divided = room(hardware(1, 8), generate={"num_gpus": 4.0})
    assert counts(divided) == ((1, 1), (1, 1))
    way_out = r"cluster\.encode\.num_gpus=0 lets it compute on the CPU"
    assert divided.idle == 3
    assert re.fullmatch(
        f"an actor of generate takes 4 GPUs of one node, and CLIP .*{way_out}", divided.reason
    )
    with pytest.raises(ConfigError, match=f"1 actors of generate, 8 GPUs each, do not fit .*{way_out}"):
        room(hardware(1, 8), generate={"num_gpus": 8.0})
    assert counts(room(hardware(1, 8), {"num_gpus": 0.0}, {"num_gpus": 4.0})) == (None, (2, 2))
    with pytest.raises(ConfigError) as raised:  # where CLIPs sit beside, that is no way out
        room(hardware(1, 8), generate={"num_actors": 9})
    assert "encode.num_gpus" not in str(raised.value)


def test_configured_numbers_are_kept_or_refused_with_the_number_that_fits():
    assert counts(room(hardware(1, 8), {"num_actors": 8}, {"num_actors": 3})) == ((8, 8), (3, 3))
    assert counts(room(hardware(1, 8), {"num_actors": 16})) == ((8, 16), (8, 8))
    assert counts(room(hardware(1, 8), generate={"num_gpus": 0.5})) == ((2, 2), (8, 16))
    with pytest.raises(ConfigError, match=r"9 actors of generate, a GPU each, do not fit .*: 8 fit"):
        room(hardware(1, 8), generate={"num_actors": 9})
    with pytest.raises(ConfigError, match="9 actors of encode do not fit on 2 GPUs, at most 4 on each"):
        room(hardware(1, 2), {"num_gpus": 0.25, "num_actors": 9})
    with pytest.raises(ConfigError, match=r"cluster\.encode\.num_gpus=2: CLIP runs on one GPU"):
        room(hardware(1, 8), {"num_gpus": 2.0})
    with pytest.raises(ConfigError, match=r"cluster\.generate\.num_gpus=1\.5: .* a whole number"):
        room(hardware(1, 8), generate={"num_gpus": 1.5})
    with pytest.raises(ConfigError, match=r"an actor of generate books .*=2, but the cluster has 1 GPUs"):
        room(hardware(1, 1), generate={"num_gpus": 2.0})


def test_few_cpus_are_said_to_be_the_reason_of_idle_gpus():
    divided = room(hardware(1, 8, cpus=4.0))
    assert counts(divided) == ((2, 2), (4, 4))
    assert (divided.idle, divided.reason) == (4, "the CPUs are enough for 4 actors of generate")
    assert counts(room(Hardware((1.2, 64.0), (4.0, 0.0)))) == ((1, 1), (1, 1))


def test_actors_that_may_become_more_start_small_and_leave_every_gpu_room_for_a_language_model():
    divided = room(hardware(2, 8), generate={"max_actors": 64})
    assert divided.generate.is_elastic and divided.generate.actors == 1 and divided.generate.count == 16
    assert divided.encode.count == 4
    both = room(hardware(2, 8), {"max_actors": 4}, {"max_actors": 64})
    assert both.encode.share * 10 + both.generate.share <= 1 + 1e-9  # ten CLIPs may lie on one GPU


def test_each_stage_computes_on_what_it_books():
    cluster = Cluster(address="auto", encode=ActorResources(num_cpus=0.5, num_gpus=0.0))
    filled = cluster.on(hardware(1, 8), "auto")
    assert [filled.device_of(stage, "auto") for stage in ("encode", "generate")] == ["cpu", "cuda"]
    assert filled.generate.num_actors == 8
    on_cpus = Cluster(address="auto").on(hardware(1, 0), "auto")
    assert [on_cpus.device_of(stage, "auto") for stage in ("encode", "generate")] == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match=r"device=cuda, but cluster\.encode\.num_gpus=0 books no GPU"):
        cluster.on(hardware(1, 8), "cuda")
    booked = Cluster(address="auto", generate=ActorResources(num_cpus=0.6, num_gpus=1.0))
    with pytest.raises(ConfigError, match=r"device=cpu uses no GPU, but cluster\.generate\.num_gpus=1"):
        booked.on(hardware(1, 8), "cpu")
