"""Test with a hub of its own that a run takes one commit of a hub id, and how often the hub is asked."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models import hub as our_hub
from pipeline.models.checkpoints.folders import folders, resolve, resolve_small
from pipeline.models.hub import without_hub
from pipeline.run.flow import stage_arguments
from pipeline.run.in_process import make_units
from pipeline.run.prepare import prepare, prepare_all
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.support.errors import ConfigError, RunError
from tests.pipeline.models.hub import Hub, serving
from tests.support.commands import compose, trimline

LLAVA, CLIP = "tiny/llava", "tiny/clip"
PICTURES = ["source=images", "source.path=pictures", "task=caption", "limit=2", "decoding.max_new_tokens=2"]


@pytest.fixture
def hub(random_checkpoint, tmp_path, monkeypatch):
    with serving() as hub:
        hub.add(LLAVA, random_checkpoint / "llava")
        hub.add(CLIP, random_checkpoint / "clip")
        hub.use(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(our_hub, "RETRY_S", (0.0, 0.0, 0.0))
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def other(random_checkpoint, tmp_path):
    """Another LLaVA of the same form: a later upload."""
    folder = shutil.copytree(random_checkpoint / "llava", tmp_path / "later")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "lm_head" in name)
    weights[name] = weights[name] + torch.ones(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def settings(tmp_path, name="out", path=LLAVA):
    from PIL import Image

    (tmp_path / "pictures").mkdir(exist_ok=True)
    for index in range(2):
        Image.new("RGB", (40, 30), (index * 90, 80, 10)).save(tmp_path / "pictures" / f"{index}.png")
    return [
        "model=random",
        f"model.path={path}",
        f"model.clip={CLIP}",
        "device=cpu",
        f"output={name}",
        *PICTURES,
    ]


def recorded(tmp_path, name="out"):
    return json.loads((tmp_path / name / "run.json").read_text())["configuration"]["model"]


def test_a_run_takes_one_commit(hub: Hub, other, tmp_path):
    (first,) = hub.commits[LLAVA]
    (clip,) = hub.commits[CLIP]
    config = compose(*settings(tmp_path))
    prepared = prepare(config)
    assert hub.resolved == [LLAVA, CLIP], "each id once"
    model = prepared.model_of(config)
    assert (model.path, model.clip) == (f"{LLAVA}@{first}", f"{CLIP}@{clip}")
    assert (recorded(tmp_path)["path"], recorded(tmp_path)["clip"]) == (model.path, model.clip)

    second = hub.add(LLAVA, other)
    hub.asked.clear()
    hub.refuses = 429
    make_units(config, prepared, "1")
    assert not hub.asked, "stages have the files and ask nobody"
    assert prepare(config).model_of(config) == model
    assert not hub.asked, "a later start takes the commit of run.json"

    hub.refuses = None
    prepare(compose(*settings(tmp_path, "new")))
    assert recorded(tmp_path, "new")["path"] == f"{LLAVA}@{second}"
    named = compose(*settings(tmp_path, "named", f"{LLAVA}@{first}"))
    prepare(named)
    assert recorded(tmp_path, "named")["path"] == f"{LLAVA}@{first}"
    with pytest.raises(ConfigError, match=r"model\.weights was"):
        prepare(compose(*settings(tmp_path, "out", f"{LLAVA}@main")))


@pytest.mark.parametrize(("begun", "is_same"), [(LLAVA, True), (f"{LLAVA}@COMMIT", False)])
def test_an_arm_that_comes_later_gets_the_weights_of_those_that_have_begun(
    hub: Hub, other, tmp_path, begun, is_same
):
    """Unless these name a commit: then it is another version that is compared."""
    (first,) = hub.commits[LLAVA]
    made = settings(tmp_path)  # once: it writes the pictures

    def group(name, path):
        config = compose(*made, f"model.path={path.replace('COMMIT', first)}")
        return dataclasses.replace(config, arms=(dataclasses.replace(config.arms[0], folder=name),))

    prepare(group("b", begun))
    second = hub.add(LLAVA, other)
    added, _ = prepare_all([group("a", LLAVA), group("b", begun)])
    assert recorded(tmp_path, "out/b")["path"] == f"{LLAVA}@{first}"
    assert recorded(tmp_path, "out/a")["path"] == f"{LLAVA}@{first if is_same else second}"
    assert added.states[0].folder.endswith("out/a")


def test_the_fingerprint_does_not_depend_on_the_place(hub: Hub, random_checkpoint, tmp_path):
    local = [f"model.path={random_checkpoint / 'llava'}", f"model.clip={random_checkpoint / 'clip'}"]
    here = prepare(compose(*settings(tmp_path, "here"), *local)).states[0].manifest
    there = prepare(compose(*settings(tmp_path, "there"))).states[0].manifest
    assert here.fingerprint == there.fingerprint
    assert here.configuration["model"]["path"] == str(random_checkpoint / "llava")


@pytest.mark.parametrize("times", [2, None])
def test_a_busy_hub_is_asked_again(hub: Hub, times):
    hub.refuses, hub.times = 503, times
    if times is not None:
        assert resolve(LLAVA).is_dir()
        return
    with pytest.raises(RunError, match="the hub still answers 503 to every try") as caught:
        resolve(LLAVA)
    assert "\n" not in str(caught.value)
    assert len(hub.asked) == 4


def test_a_partial_snapshot_is_completed(hub: Hub, tmp_path):
    from huggingface_hub import hf_hub_download

    (commit,) = hub.commits[LLAVA]
    hf_hub_download(LLAVA, "config.json", revision=commit)  # a folder of the commit, with one file
    assert (resolve(f"{LLAVA}@{commit}") / "model.safetensors").is_file()
    hub.asked.clear()
    with without_hub():
        resolve(f"{LLAVA}@{commit}")
    resolve(f"{LLAVA}@{commit}")
    assert not hub.asked


def test_who_decodes_gets_no_weights(hub: Hub):
    (commit,) = hub.commits[LLAVA]
    assert (resolve_small(f"{LLAVA}@{commit}") / "processor_config.json").is_file()
    assert not any("safetensors" in line for line in hub.asked)


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("tiny/llava", ("tiny/llava", None)),
        ("tiny/llava@v1.5", ("tiny/llava", "v1.5")),
        ("tiny/llava@refs/pr/3", ("tiny/llava", "refs/pr/3")),
        *((path, None) for path in ("./llava", "/models/llava", "llava", "a/b/c", "demo:random/llava")),
        *((path, None) for path in ("tiny/llava@", "tiny/llava@../x", "tiny/llava@a/../b", "tiny/llava@a b")),
    ],
)
def test_hub_ids_are_told_from_other_paths(path, parts):
    assert our_hub.hub_id(path) == parts


def test_a_missing_commit_is_one_line(hub: Hub):
    with pytest.raises(ConfigError, match=f"{LLAVA}@{'0' * 40}.*the hub does not give it"):
        resolve(f"{LLAVA}@{'0' * 40}")


@pytest.mark.parametrize(("stage", "key"), [("encode", "model.clip"), ("generate", "model.path")])
def test_other_weights_than_the_fingerprints_are_refused(random_checkpoint, other, tmp_path, stage, key):
    """Each actor compares what it finds at the model's paths: a node may have another folder there."""
    root = shutil.copytree(random_checkpoint, tmp_path / "root")
    local = [f"model.path={root / 'llava'}", f"model.clip={root / 'clip'}"]
    here = [f"source.path={tmp_path}/pictures", f"output={tmp_path}/out"]
    config = compose(*settings(tmp_path), *local, *here)
    arguments = stage_arguments(config, prepare(config))
    if stage == "generate":
        shutil.copy(other / "model.safetensors", root / "llava/model.safetensors")
    else:
        weights = load_file(root / "clip/model.safetensors")
        save_file(
            {name: tensor + 1 for name, tensor in weights.items()},
            root / "clip/model.safetensors",
            {"format": "pt"},
        )
    actor = {"encode": Encode, "generate": Generate}[stage]
    with pytest.raises(
        ConfigError, match=f"{key}: .* holds other weights or settings .* every node"
    ) as caught:
        actor(**arguments[stage], threads=None)
    assert "\n" not in str(caught.value)
    plain = dataclasses.replace(config.model)
    assert folders(plain)[0] == root / "llava", "without a run nothing is compared"


@pytest.mark.slow
def test_nodes_work_while_the_hub_refuses(hub: Hub, other, tmp_path):
    """When the driver has all files, other weights are uploaded, and the hub refuses everything."""
    (first,) = hub.commits[LLAVA]
    hub.upload = (LLAVA, other)
    overrides = [*settings(tmp_path), "cluster.generate.num_actors=2", "cluster.encode.num_actors=1"]
    done = trimline("annotate", *overrides, **hub.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert hub.upload is None, "the hub has refused since then"
    assert recorded(tmp_path)["path"] == f"{LLAVA}@{first}"
    assert hub.resolved == [LLAVA, CLIP]
