"""Test where the actor that replaces another may go."""

from pipeline.run.guard.substitute import has_room


def test_crumbs_of_many_gpus_are_no_room_for_a_language_model():
    crumbs = [{"CPU": 20.0, "GPU": 0.06}] * 17  # of 136 GPUs, a quarter of which has a CLIP
    assert sum(node["GPU"] for node in crumbs) > 0.99
    assert not has_room(crumbs, 0.99)
    assert has_room([*crumbs, {"CPU": 20.0, "GPU": 1.05}], 0.99)
    assert has_room(crumbs, 0.01), "a CLIP fits beside a language model"
    assert not has_room([{"CPU": 8.0}], 0.01)
