"""Scenes: pictures, questions and shards agree with the ground truth."""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.ask import KINDS, caption_of
from pipeline.demo.draw import RGB
from pipeline.demo.scene import HELD_OUT, SIDE, TEXTURES
from pipeline.demo.scenes import make_sample
from pipeline.demo.score import caption_f1, is_right
from pipeline.sources.sidecars import sidecar_questions
from pipeline.train_demo.corpus import _disc

SAMPLES = 150


@pytest.fixture(scope="module")
def test_split():
    return [make_sample("test", 0, index) for index in range(SAMPLES)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.demo.scenes", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_equal_arguments_give_equal_shards_with_the_requested_samples(tmp_path):
    arguments = ("--samples", "5", "--samples-per-shard", "2", "--split", "val", "--seed", "3", "--out")
    assert run(*arguments, str(tmp_path / "a")).stdout.split() == [f"val-00000{n}.tar" for n in range(3)]
    run(*arguments, str(tmp_path / "b"))
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    with tarfile.open(tmp_path / "a" / "val-000001.tar") as tar:
        names = tar.getnames()
        assert names == [f"val-3-000000{n}.{kind}" for n in (2, 3) for kind in ("jpg", "json")]
        sidecar = tar.extractfile("val-3-0000002.json").read()
        picture = Image.open(io.BytesIO(tar.extractfile("val-3-0000002.jpg").read()))
    sample = make_sample("val", 3, 2)
    assert picture.size == sample.scene.canvas
    assert [q.text for q in sidecar_questions(sidecar)] == [item.question for item in sample.questions]
    assert json.loads(sidecar)["caption"] == sample.caption
    assert all(
        set(q) == {"question_id", "question", "kind", "answers"} for q in json.loads(sidecar)["questions"]
    )


def test_wrong_arguments_are_refused_in_one_line(tmp_path):
    result = run("--samples", "0", "--out", str(tmp_path))
    assert result.returncode == 2
    assert "argument --samples: must be at least 1" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_splits_and_seeds_share_no_picture():
    scenes = [
        make_sample(split, seed, n).scene
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for n in range(30)
    ]
    assert len({scene.things for scene in scenes}) == len(scenes)


@pytest.mark.slow
def test_held_out_pairs_are_shown_and_named_in_the_test_split_alone(test_split):
    shown = [any(thing.pair in HELD_OUT for thing in sample.scene.things) for sample in test_split]
    assert 0.15 < np.mean(shown) < 0.35
    names = [f"{color} {shape}" for color, shape in HELD_OUT]
    for split in ("train", "val"):
        for index in range(SAMPLES):
            sample = make_sample(split, 0, index)
            assert not any(thing.pair in HELD_OUT for thing in sample.scene.things)
            text = " ".join([sample.caption, *(item.question for item in sample.questions)])
            assert not any(name in text for name in names)


def test_every_kind_is_asked_and_yes_and_no_are_balanced(test_split):
    questions = [question for sample in test_split for question in sample.questions]
    kinds = Counter(question.kind for question in questions)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > SAMPLES / 3
    answer_counts = Counter(question.answers[0] for question in questions if question.kind == "existence")
    assert answer_counts["yes"] == answer_counts["no"] == SAMPLES


def test_pictures_show_the_objects_at_their_true_places(test_split):
    """The mean colour at the centre of each plain object is nearest to its own colour."""
    checked = 0
    for sample in test_split:
        width, height = sample.scene.canvas
        scale = min(width, height) / SIDE
        pixels = np.asarray(sample.image, np.float32)
        for thing in sample.scene.things:
            if thing.shape == "ring" or thing.texture != TEXTURES[0]:
                continue
            x, y = (width - SIDE * scale) / 2 + thing.x * scale, (height - SIDE * scale) / 2 + thing.y * scale
            color = pixels[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].mean((0, 1))
            nearest = min(RGB, key=lambda name: np.abs(color - RGB[name]).sum())
            assert nearest == thing.color, (sample.key, thing, color)
            checked += 1
    assert checked > SAMPLES


def test_answers_follow_from_the_scene(test_split):
    """Each answer is derived again from the scene's numbers alone."""
    for sample in test_split:
        things = sample.scene.things
        for question in sample.questions:
            about = [things[index] for index in question.about]
            answer = question.answers[0]
            if question.kind in ("color", "shape", "texture"):
                assert answer == getattr(about[0], question.kind)
            elif question.kind == "position":
                vertical, horizontal = answer.split()
                assert (vertical == "top") == (about[0].y < SIDE / 2)
                assert (horizontal == "left") == (about[0].x < SIDE / 2)
            elif question.kind == "relation":
                first, second = about
                right = {"left": first.x < second.x, "right": first.x > second.x, "above": first.y < second.y}
                assert {**right, "below": first.y > second.y}[answer]
            elif question.kind == "count":
                assert question.answers[1] == str(len(about))
            elif question.kind == "existence":
                named = question.question.removesuffix(" in the image?").removesuffix("?")
                assert (answer == "yes") == any(named.endswith(thing.name) for thing in things)
            else:
                assert (answer == "larger") == (about[0].radius > about[1].radius)


def test_captions_are_scored_by_attributes(test_split):
    caption = "a small red circle and a large striped blue star"
    assert caption_f1(caption, caption).value == 1
    assert caption_f1("a large red circle and a large striped blue star", caption).value == pytest.approx(
        5 / 6
    )
    assert caption_f1("a small red circle", caption).value == pytest.approx(2 * 3 / (3 + 6))
    assert caption_f1("a small blue circle and a large striped red star", caption).value == pytest.approx(
        4 / 6
    )
    assert caption_f1(None, caption).value == 0
    assert all(caption_f1(caption_of(s.scene), s.caption).value == 1 for s in test_split)


def test_answers_are_compared_without_case_blanks_and_full_stop():
    assert is_right(" Top  left.", ("top left",))
    assert is_right("2", ("two", "2"))
    assert not is_right("left", ("top left",))
    assert not is_right(None, ("yes",))


def test_coverage_is_the_share_of_a_patch_in_the_disc():
    coverage = _disc(100.0, 60.0, 20.0)
    assert coverage.shape == (576,)
    assert coverage.sum() * 14**2 == pytest.approx(np.pi * 20**2, rel=0.02)
    assert coverage.reshape(24, 24)[60 // 14, 100 // 14] == 1
