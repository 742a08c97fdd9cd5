"""Test that a row in KINDS and its encoder add a family of vision towers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, CLIPConfig, CLIPVisionConfig

from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.kinds import CLIP, KINDS
from pipeline.models.clip import ClipEncoder
from pipeline.models.config import Model
from pipeline.models.encoder import encoder_class, load_encoder
from pipeline.models.footprint import of_encode
from pipeline.models.preprocess import Preprocessor
from pipeline.support.errors import ConfigError


class OwnVisionConfig(CLIPVisionConfig):
    model_type = "own_vision_model"


class OwnConfig(CLIPConfig):
    model_type = "own"


class OwnEncoder(ClipEncoder):
    """The encoder of a new family; a real one would override what differs from CLIP."""


OWN = dataclasses.replace(
    CLIP,
    name="own",
    encoder=f"{__name__}.OwnEncoder",
    squares=dataclasses.replace(CLIP.squares, processors=("OwnImageProcessor",)),
    lacks=frozenset({"last_keys"}),
)


def edit(file, **changes):
    content = json.loads(file.read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (content[part] if part else content)[name] = value
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def own_family(random_checkpoint, tmp_path_factory):
    """Copy the random LLaVA and CLIP as checkpoints of a family unknown to Trimline."""
    folder = tmp_path_factory.mktemp("own")
    for part in ("llava", "clip"):
        shutil.copytree(random_checkpoint / part, folder / part)
    for config in (OwnVisionConfig, OwnConfig):  # as transformers has it for the families that it knows
        AutoConfig.register(config.model_type, config, exist_ok=True)
    edit(folder / "llava" / "config.json", vision_config__model_type="own_vision_model")
    edit(folder / "clip" / "config.json", model_type="own")
    (settings,) = (
        file
        for file in (folder / "llava").glob("*processor_config.json")
        if "image_processor_type" in file.read_text()
    )
    settings.write_text(settings.read_text().replace("CLIPImageProcessor", "OwnImageProcessor"))
    return folder


def test_a_row_adds_a_family(own_family, random_checkpoint, photographs, monkeypatch):
    with pytest.raises(ConfigError, match=r"own_vision_model.* is none of clip, siglip"):
        check_fit(own_family / "llava", own_family / "clip")
    monkeypatch.setitem(KINDS, "own", OWN)

    geometry = check_fit(own_family / "llava", own_family / "clip")
    as_clip = check_fit(random_checkpoint / "llava", random_checkpoint / "clip")
    assert geometry == dataclasses.replace(as_clip, kind="own")

    images = Preprocessor(own_family / "llava"), Preprocessor(random_checkpoint / "llava")
    assert images[0].normalization == images[1].normalization
    pixels = [preprocess(photographs[0]) for preprocess in images]
    assert np.array_equal(*pixels)

    needs = frozenset({"metric", "text", "embeddings"})
    footprints = [of_encode(root / "llava", root / "clip", needs) for root in (own_family, random_checkpoint)]
    assert footprints[0] == footprints[1]

    model = Model(
        name="own",
        path=str(own_family / "llava"),
        clip=str(own_family / "clip"),
        template="<image>{question}",
    )
    encoder = load_encoder(model, geometry, needs=needs)
    assert type(encoder).__name__ == "OwnEncoder"
    ours = encoder.encode_images(torch.from_numpy(pixels[0])[None], needs)
    clip = ClipEncoder(
        *[random_checkpoint / "clip"] * 2,
        feature_layer=geometry.feature_layer,
        normalization=images[1].normalization,
    )
    theirs = clip.encode_images(torch.from_numpy(pixels[1])[None], needs)
    assert ours.keys() == theirs.keys() == {"patches", "metric"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(encoder.encode_texts(["a cat"]), clip.encode_texts(["a cat"]))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_row_names_an_encoder(kind):
    encoder = encoder_class(kind)
    assert not encoder.__abstractmethods__
    assert f"{encoder.__module__}.{encoder.__name__}" == kind.encoder
