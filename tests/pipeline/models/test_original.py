"""Test LLaVA's original layout, loaded directly and converted, with equal answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaImageProcessorPil

from pipeline.engines.base import Request
from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.convert import Conversion, convert
from pipeline.models.checkpoints.digest import weights_digest
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.language_only import language_only
from pipeline.models.config import Decoding, Model
from pipeline.models.llava import LanguageModel
from pipeline.models.preprocess import Preprocessor, pad_to_square, preprocessor_of
from pipeline.models.sizes import read_shape
from pipeline.run.in_process import run_in_process
from pipeline.sources.images import Images
from pipeline.support.errors import ConfigError
from tests.support.original_checkpoint import as_pickles, edit, make_original
from tests.support.runs import lasting, make_config, rows

TEMPLATE = "A chat. USER: <image>\n{question} ASSISTANT:"
KINDS = {
    "sharded float16, no tower, tokenizer.model": {"dtype": torch.float16, "tower": False},
    "one file, bfloat16, with its tower": {"dtype": torch.bfloat16, "tower": True, "shards": 1},
    "float32 in pickles": {"dtype": torch.float32, "tower": False, "pickles": True},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def original(random_checkpoint, tmp_path):
    return make_original(random_checkpoint, tmp_path / "original", dtype=torch.float32, tower=False)


def model_of(folder: Path, **options) -> Model:
    return Model(name="tiny", path=str(folder), clip=None, template=TEMPLATE, allow_pickle=True, **options)


def converted(folder: Path, **options) -> Path:
    target = folder.parent / "converted"
    convert(Conversion(source=str(folder), target=str(target), allow_pickle=True, **options))
    return target


def answers(model: Model, tokens: list[torch.Tensor]) -> list[tuple]:
    engine = Transformers().load(model, Decoding(max_new_tokens=12), device="cpu", seed=0)
    prompts = [TEMPLATE.replace("{question}", text) for text in ("what is it?", "who 猫 42?", "where?")]
    return [
        (answer.token_ids, answer.text)
        for answer in engine.generate([Request(*pair) for pair in zip(prompts, tokens, strict=True)])
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_checkpoint_gives_the_same_answers(random_checkpoint, tmp_path, kind):
    options = dict(KINDS[kind])
    pickles = options.pop("pickles", False)
    folder = make_original(random_checkpoint, tmp_path / "original", **options)
    if pickles:
        as_pickles(folder)
    tokens = [
        torch.randn(count, 64, generator=torch.Generator().manual_seed(count)) for count in (5, 40, 576)
    ]
    target = converted(folder)
    clip = str(random_checkpoint / "clip")
    direct = answers(model_of(folder), tokens)
    assert direct == answers(Model(name="tiny", path=str(target), clip=clip, template=TEMPLATE), tokens)
    assert len({ids for ids, _ in direct}) == 3, "answers must differ, or equality proves nothing"
    llava, clip_folder = folders(model_of(folder))
    assert check_fit(llava, clip_folder) == check_fit(target, clip_folder)
    assert {weight.dtype for file in target.glob("*.safetensors") for weight in load_file(file).values()} <= {
        options["dtype"],
        torch.float32,  # CLIP's own weights
    }


def test_the_same_requests_get_the_same_rows(original, random_checkpoint, tmp_path, photographs):
    """Runs decode, encode and generate, so padding, CLIP, reduction and prompts are equal too."""
    (tmp_path / "in").mkdir()
    oblong = [image for image in photographs if image.width != image.height][:2]
    for index, image in enumerate(oblong):
        image.save(tmp_path / "in" / f"{index}.png")
        (tmp_path / "in" / f"{index}.json").write_text(json.dumps({"questions": ["what is it?", "where?"]}))
    target, clip = converted(original), str(random_checkpoint / "clip")
    models = {"direct": model_of(original), "converted": replace(model_of(target), clip=clip)}
    rows_of = {}
    for name, model in models.items():
        source = Images(path=str(tmp_path / "in"))
        config = make_config(random_checkpoint, source, tmp_path / f"rows_{name}", reducer="trim")
        run_in_process(replace(config, model=model))
        rows_of[name] = lasting(rows(tmp_path / f"rows_{name}"), "model")
    assert len(rows_of["direct"]) == 4 and all(row["status"] == "ok" for row in rows_of["direct"])
    assert rows_of["direct"] == rows_of["converted"]


def test_transformers_loads_a_converted_checkpoint(original, photographs):
    target = converted(original)
    model, report = LlavaForConditionalGeneration.from_pretrained(target, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = AutoProcessor.from_pretrained(target)
    ours = LanguageModel(target)
    prompt = TEMPLATE.replace("{question}", "what is shown?")
    inputs = processor(text=prompt, images=photographs[0], return_tensors="pt")
    ids = inputs.input_ids[0].tolist()
    assert ids.count(model.config.image_token_id) == 576
    collapsed = [
        token
        for place, token in enumerate(ids)
        if place == 0 or {token, ids[place - 1]} != {model.config.image_token_id}
    ]
    assert collapsed == ours.tokenize(prompt)
    with torch.inference_mode():
        generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, len(ids) :]
        hidden = model.model.vision_tower(inputs.pixel_values, output_hidden_states=True).hidden_states[-2]
    (direct,) = (
        Transformers()
        .load(model_of(original), Decoding(max_new_tokens=8), device="cpu", seed=0)
        .generate([Request(prompt, hidden[0, 1:])])
    )
    assert [token for token in generated.tolist() if token != 2] == list(direct.token_ids)


def test_prompts_are_tokenised_as_the_original_does(original):
    """SentencePiece encodes the texts before and after the image separately (llava/mm_utils.py)."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(original / "tokenizer.model"))
    ours, theirs = LanguageModel(folders(model_of(original))[0]), LanguageModel(converted(original))
    for prefix, suffix in (
        ("A chat. USER: ", "\nwhat is it? ASSISTANT:"),
        ("", ""),
        ("  two  spaces", " and  more\n\n猫 🐈 x<y 1234"),
        ("a", "<s"),
    ):
        expected = [1, *pieces.encode(prefix), -200, *pieces.encode(suffix)]
        assert ours.tokenize(f"{prefix}<image>{suffix}") == expected
        number = theirs.image_token_id
        assert theirs.tokenize(f"{prefix}<image>{suffix}") == [number if i == -200 else i for i in expected]
    ids = pieces.encode("what is it, 猫?")
    assert ours.tokenizer.decode(ids) == theirs.tokenizer.decode(ids) == pieces.decode(ids)


@pytest.mark.parametrize("legacy", [None, True, False])
def test_a_sentencepiece_model_alone_gives_the_ids_that_the_model_was_trained_with(original, legacy):
    """In the Hugging Face layout, too; "legacy" decides on a space behind added tokens."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(original / "tokenizer.model"))
    folder = converted(original)
    config = json.loads((folder / "config.json").read_text())
    number, pad = config["image_token_index"], config["text_config"]["pad_token_id"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes((original / "tokenizer.model").read_bytes())
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": number, "<pad>": pad}))
    settings = {"tokenizer_class": "LlamaTokenizer"} | ({} if legacy is None else {"legacy": legacy})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    llava, _ = folders(replace(model_of(original), path=str(folder)))
    assert llava != folder
    ours = LanguageModel(llava)

    def behind(text: str) -> list[int]:
        if legacy is not False:
            return model.encode(text)
        return model.encode(f"猫{text}")[len(model.encode("猫")) :]  # bytes merge with nothing

    for before, after in (("A chat. USER: ", "\nwhat is it?"), ("", "what"), ("two  spaces", " and  more")):
        expected = [1, *model.encode(before), number, *behind(after)]
        assert ours.tokenize(f"{before}<image>{after}") == expected


def test_the_view_of_a_checkpoint_links_its_weights_and_is_made_once(original):
    llava, clip = folders(model_of(original))
    assert folders(model_of(original)) == (llava, clip)
    assert sum(file.lstat().st_size for file in llava.iterdir()) < 100_000
    assert all(file.is_symlink() for file in llava.glob("*.safetensors"))
    digest = weights_digest(llava)
    edit(original, mm_vision_select_layer=-3)
    edited, _ = folders(model_of(original))
    assert (
        edited != llava and check_fit(edited, clip).feature_layer == check_fit(llava, clip).feature_layer - 1
    )
    assert weights_digest(edited) != digest


def test_the_language_model_can_be_exported(original):
    folder, _ = folders(model_of(original))
    names = {name for file in language_only(folder).glob("*.safetensors") for name in load_file(file)}
    assert names == set(LanguageModel(folder).model.state_dict())
    assert read_shape(str(original)) == read_shape(str(folder))


def test_images_are_padded_as_in_the_original_code(original, random_checkpoint, photographs):
    library = LlavaImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_pad=True
    )
    direct, theirs = preprocessor_of(model_of(original)), Preprocessor(converted(original))
    assert theirs._library is None
    for image in [*photographs[::5], Image.new("RGB", (90, 40), "red")]:
        padded = library(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert (direct(image) == padded.transpose(1, 2, 0)).all()
        assert (theirs(image) == direct(image)).all()
    edit(original, image_aspect_ratio="square")
    plain = Preprocessor(random_checkpoint / "clip")
    assert (preprocessor_of(model_of(original))(photographs[0]) == plain(photographs[0])).all()


def test_padding_never_makes_a_square_of_gigabytes():
    assert pad_to_square(Image.new("RGB", (40_000, 2_500)), (0, 0, 0)).size == (8_000, 8_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_mpt"}, "model_type 'llava_mpt'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear' is not supported"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_vision_select_feature": "cls_patch"}, "vision_feature_select_strategy 'full'"),
        ({"mm_hidden_size": 1024}, "CLIP of width 1024"),
        ({"mm_vision_tower": "openai/clip-vit-base-patch14-224"}, "takes images of 336 pixels"),
    ],
)
def test_unsupported_settings_are_refused(original, random_checkpoint, changes, message):
    edit(original, **changes)
    model = Model(name="x", path=str(original), clip=str(random_checkpoint / "clip"), template=TEMPLATE)
    with pytest.raises(ConfigError, match=message) as raised:
        check_fit(*folders(model))
    assert "\n" not in str(raised.value) and str(original.parent) in str(raised.value)


def test_a_missing_projector_and_another_tower_are_refused(original, random_checkpoint, tmp_path):
    for file in original.glob("*.safetensors"):
        remaining = {name: weight for name, weight in load_file(file).items() if "mm_projector" not in name}
        save_file(remaining, file, metadata={"format": "pt"})
    for load in (lambda: check_fit(*folders(model_of(original))), lambda: converted(original)):
        with pytest.raises(ConfigError, match="holds no projector weights"):
            load()
    assert not (tmp_path / "converted").exists()
    tuned = make_original(random_checkpoint, tmp_path / "tuned", dtype=torch.float32, shards=1, tower=True)
    weights = load_file(tuned / "model.safetensors")
    weights["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"] *= -1
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"vision tower in .* is not that of"):
        check_fit(*folders(model_of(tuned)))


def test_pickles_are_refused_without_the_flag(original):
    as_pickles(original)
    with pytest.raises(ConfigError, match=r"model\.allow_pickle=true"):
        folders(Model(name="x", path=str(original), clip=None, template=TEMPLATE))


def test_a_failed_conversion_is_one_line(original, random_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="not in LLaVA's original layout"):
        convert(Conversion(source=str(random_checkpoint / "llava"), target=str(tmp_path / "new")))
    with pytest.raises(ConfigError, match="is there already"):
        convert(Conversion(source=str(original), target=str(tmp_path)))
    (original / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no SentencePiece model"):
        converted(original)
    (original / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match="lacks a tokenizer"):
        folders(model_of(original))


def test_a_hugging_face_layout_need_not_name_its_clip(random_checkpoint):
    llava = random_checkpoint / "llava"
    assert folders(Model(name="x", path=str(llava), clip=None, template=TEMPLATE)) == (llava, None)
