"""Test whole runs: against the library, TRIM's rule, and each other on two stores.

Runs with Ray are compared with runs without it, so that equal answers prove both.
"""

import io
import json
import shutil
import tarfile
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipeline.demo.pictures import pictures as demo_pictures
from pipeline.run.annotate import annotate
from pipeline.sources.images import Images
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.schema import PREDICTIONS
from tests.support.runs import TEMPLATE, lasting, make_config, read_units, rows, unit_names, without_ray
from tests.support.s3 import BUCKET, KEY, SECRET
from tests.support.tars import add, jpeg, write_tar

# five runs, two of them with Ray
pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.slow, pytest.mark.timeout(900)]
NEW_TOKENS = 12
QUESTIONS = ["What is shown in the picture?", "How many people are there?", "Describe it.", "Is it red?"]


# --- all tokens: answers equal the library's ---


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Write 26 pictures with questions: skimage's files, and flips and crops of some."""

    folder = tmp_path_factory.mktemp("pictures")
    files = sorted(file for file in (demo_pictures() / "photographs").iterdir() if file.suffix != ".json")
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for index, file in enumerate(files[: 26 - len(files)]):
        image = Image.open(file).convert("RGB")
        changed = ImageOps.mirror(image) if index % 2 else image.crop((0, 0, image.width // 2, image.height))
        changed.save(folder / f"changed-{file.stem}.png")
    for index, file in enumerate(sorted(folder.iterdir())):
        file.with_suffix(".txt").write_text(QUESTIONS[index % len(QUESTIONS)])
    return folder


class Reference:
    """LlavaForConditionalGeneration and its processor, used as transformers documents them."""

    def __init__(self, folder: Path):
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        self.model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder, padding_side="left")

    @torch.inference_mode()
    def answer(self, files: list[Path], questions: list[str]) -> list[SimpleNamespace]:
        """Answer one batch; returns the tokens before EOS, the text, and the logits of the chosen tokens."""
        inputs = self.processor(
            text=[TEMPLATE.replace("{question}", question) for question in questions],
            images=[Image.open(file) for file in files],
            padding=True,
            return_tensors="pt",
        )
        output = self.model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        answers = []
        logits_BGV = torch.stack(output.logits, 1)
        for ids, logits_GV in zip(output.sequences[:, inputs.input_ids.shape[1] :], logits_BGV, strict=True):
            ids = ids.tolist()
            end = ids.index(2) if 2 in ids else len(ids)
            text = self.processor.decode(ids[:end], skip_special_tokens=True).strip()
            chosen = logits_GV[: end + 1]  # EOS was chosen too
            answers.append(SimpleNamespace(ids=ids[:end], text=text, logits_GV=chosen))
        return answers


def test_with_all_tokens_each_answer_equals_the_librarys(random_checkpoint, pictures, tmp_path):
    config = make_config(
        random_checkpoint,
        Images(path=str(pictures)),
        tmp_path / "out",
        max_new_tokens=NEW_TOKENS,
        token_budget=2000,  # batches of three, and a smaller last one in each unit
        unit_samples=7,
    )
    with without_ray():
        assert annotate(config).status == 0
    answered = rows(tmp_path / "out")
    assert len(answered) == 26
    assert len(unit_names(tmp_path / "out")) == 4

    reference = Reference(random_checkpoint / "llava")
    files = [pictures / row["sample_key"] for row in answered]
    questions = [row["question"] for row in answered]
    expected = [
        reference.answer([file], [question])[0] for file, question in zip(files, questions, strict=True)
    ]
    for row, answer, file in zip(answered, expected, files, strict=True):
        assert row["status"] == "ok"
        assert row["prediction"] == answer.text
        assert row["generated_tokens"] == len(answer.ids)
        assert row["finish_reason"] == ("length" if len(answer.ids) == NEW_TOKENS else "stop")
        assert (row["visual_tokens_full"], row["visual_tokens_kept"]) == (576, 576)
        assert row["kept_patches"] == b"\xff" * 72
        assert (row["width"], row["height"]) == Image.open(file).size

    # The comparison proves something: answers differ, and no choice of token is as close as batching noise.
    assert len({answer.text for answer in expected}) > 20
    assert {row["finish_reason"] for row in answered} == {"length", "stop"}
    gap = min(
        (top[:, 0] - top[:, 1]).min() for top in (answer.logits_GV.topk(2).values for answer in expected)
    )
    together = [
        answer
        for at in range(0, 9, 3)
        for answer in reference.answer(files[at : at + 3], questions[at : at + 3])
    ]
    pairs = list(zip(together, expected[:9], strict=True))
    noise = max((batched.logits_GV - alone.logits_GV).abs().max() for batched, alone in pairs)
    print(f"smallest gap {gap:.1e}, batching noise {noise:.1e}")
    assert gap > 5 * noise > 0


# --- TRIM, and the same tar from and to both stores ---


@pytest.fixture(scope="module")
def trims(random_checkpoint, s3, tmp_path_factory):
    """Run TRIM on one tar, from and to both stores: name -> run. The last run uses Ray."""
    folder = tmp_path_factory.mktemp("trims")
    tar = write_tar(folder / "tars" / "a.tar", 20, questions=3)
    fs, _ = s3.open(f"s3://{BUCKET}")
    fs.put_file(str(tar), f"{BUCKET}/tars/a.tar")
    local, remote = str(folder / "tars"), f"s3://{BUCKET}/tars"
    places = {
        "local to local": (local, str(folder / "out-ll"), Storage()),
        "S3 to local": (remote, str(folder / "out-sl"), s3),
        "S3 to S3": (remote, f"s3://{BUCKET}/out-ss", s3),
    }
    runs = {}
    for name, (source, output, storage) in places.items():
        config = make_config(
            random_checkpoint,
            WebDataset(path=source),
            output,
            reducer="trim",
            storage=storage,
            unit_requests=9,
            unit_bytes=20_000,
        )
        with nullcontext() if name == "S3 to S3" else without_ray():
            outcome = annotate(config)
        runs[name] = SimpleNamespace(outcome=outcome, output=output, storage=storage, config=config, tar=tar)
    return runs


def test_trim_keeps_the_patches_that_its_rule_selects(random_checkpoint, trims):
    run = trims["local to local"]
    with tarfile.open(run.tar) as tar:
        images = {
            member.name.removesuffix(".jpg"): tar.extractfile(member).read()
            for member in tar
            if member.name.endswith(".jpg")
        }
    answered = rows(run.output)
    assert len(answered) == sum(1 + index % 3 for index in range(20))
    scores, clear, counts = scores_of(random_checkpoint, images, answered), 0, set()
    for row, scores_N in zip(answered, scores, strict=True):
        low, high = np.percentile(scores_N, [25, 75])
        fence = high + 1.5 * (high - low)
        kept_N = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8)).astype(bool)
        clear_N = np.abs(scores_N - fence) > 1e-5 * fence  # closer scores depend on rounding
        assert (kept_N == (scores_N > fence))[clear_N].all()
        assert row["visual_tokens_kept"] == kept_N.sum() + 1
        assert row["visual_tokens_full"] == kept_N.size == 576
        counts.add(int(kept_N.sum()))
        clear += int(clear_N.all())
    assert clear > 0.9 * len(answered)
    assert len(counts) > 5
    several = [(a, b) for a, b in pairwise(answered) if a["sample"] == b["sample"]]
    assert any(a["kept_patches"] != b["kept_patches"] for a, b in several), (
        "the choice depends on the question"
    )


@torch.inference_mode()
def scores_of(checkpoint, images, requests):
    """Compute softmax(-(metric . text)) of each request with transformers' CLIPModel, in float64."""
    from transformers import AutoProcessor, AutoTokenizer, CLIPModel

    clip = CLIPModel.from_pretrained(checkpoint / "clip").eval()
    processor = AutoProcessor.from_pretrained(checkpoint / "llava").image_processor
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "clip")
    metrics = {}
    for key, data in images.items():
        pixels = processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values
        hidden = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        metrics[key] = clip.visual_projection(clip.vision_model.post_layernorm(hidden))[0].double().numpy()
    for row in requests:
        tokens = tokenizer(row["question"], truncation=True, max_length=77, return_tensors="pt")
        text_P = clip.get_text_features(**tokens).pooler_output[0].double().numpy()
        powers_N = np.exp(-(metrics[row["sample_key"]] @ text_P))
        yield powers_N / powers_N.sum()


def test_local_files_and_object_storage_give_the_same(trims):
    local, *other_runs = trims.values()
    expected = lasting(rows(local.output), "source")
    names = unit_names(local.output)
    assert len({name.split(".")[0][7:] for name in names}) > 3
    for run in trims.values():
        assert (run.outcome.status, run.outcome.message) == (0, "done")
        fs, folder = run.storage.open(run.output)
        assert fs.exists(f"{folder}/_SUCCESS")
        assert json.loads(fs.cat_file(f"{folder}/summary.json"))["rows"] == len(expected)
    for run in other_runs:
        assert unit_names(run.output, run.storage) == names
        assert lasting(rows(run.output, run.storage), "source") == expected
    assert {row["source"] for row in rows(local.output)} == {f"file://{local.tar}"}
    remote = trims["S3 to S3"]
    assert {row["source"] for row in rows(remote.output, remote.storage)} == {f"s3://{BUCKET}/tars/a.tar"}


def test_rows_and_footers_are_as_declared(trims):
    fingerprints, run_ids = set(), set()
    for run in trims.values():
        expected_first = 0
        for name, (table, footer) in read_units(run.output, run.storage).items():
            assert table.schema.remove_metadata().equals(PREDICTIONS)
            first, stop, end = footer["first"], footer["stop"], footer["end"]
            assert name == f"000000-{first:08d}-{stop:08d}{'-end' if end else ''}.parquet"
            assert first == expected_first
            expected_first = stop
            keys = [f"000000-{s:08d}-{q:04d}" for s in range(first, stop) for q in range(1 + s % 3)]
            assert table["key"].to_pylist() == keys
            assert footer["shard"] == 0
            assert footer["schema_version"] == 1
            assert footer["source_size"] == run.tar.stat().st_size
            assert footer["source_etag"]
            assert footer["shard_error"] is None
            assert footer["totals"]["rows"] == table.num_rows
            assert footer["totals"]["samples"] == stop - first
            assert footer["totals"]["status"] == {"ok": table.num_rows}
            assert footer["totals"]["visual_tokens_kept"] == sum(table["visual_tokens_kept"].to_pylist())
            assert float(footer["attempt"]) <= footer["start"] < footer["end_time"]
            assert list(footer["stages"]) == ["read", "decode", "encode", "generate", "write"]
            for stage in footer["stages"].values():
                assert stage["node"]
                assert stage["start"] <= stage["end"]
                assert stage["peak_memory_bytes"] > 1 << 20
                assert stage["cores"] >= 1
                assert 0 <= stage["cpu_s"] <= (stage["end"] - stage["start"]) * stage["cores"] + 1
            assert footer["image_bytes"] < footer["source_bytes"] <= footer["source_size"]
            assert all(footer["stages"][name]["startup_s"] > 0 for name in ("encode", "generate"))
            fingerprints.add(footer["fingerprint"])
            run_ids |= set(table["run_id"].to_pylist())
        assert expected_first == 20
    assert len(fingerprints) == 1, "the fingerprint does not depend on where the bytes lie"
    assert len(run_ids) == 3


def test_no_credentials_in_outputs(trims):
    for run in trims.values():
        fs, folder = run.storage.open(run.output)
        for path in fs.find(folder):
            data = fs.cat_file(path)
            assert KEY.encode() not in data, path
            assert SECRET.encode() not in data, path


# --- new and broken shards in an extended output ---


@pytest.fixture(scope="module")
def extended(trims, random_checkpoint, tmp_path_factory):
    """Copy a finished output and extend it by tars, some of them broken."""
    run = trims["local to local"]
    tars, output = run.tar.parent, tmp_path_factory.mktemp("extended") / "out"
    shutil.copytree(run.output, output)
    write_tar(tars / "0-good.tar", 6, seed=1, questions=2)
    broken = write_tar(tars / "1-broken.tar", 10, seed=2)
    with tarfile.open(broken) as tar:
        at = next(member.offset for member in tar if member.name == "002/000006.jpg")
    data = bytearray(broken.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    broken.write_bytes(data)
    tarfile.open(tars / "2-empty.tar", "w").close()
    (tars / "3-none.tar").write_bytes(b"this is no tar " * 100)
    with tarfile.open(tars / "4-images.tar", "w") as tar:
        for index, image in enumerate([jpeg(0), b"no image", jpeg(1), jpeg(2)[:300], jpeg(3)]):
            add(tar, f"{index}.jpg", image)
            add(tar, f"{index}.json", b'{"questions": ["what?", "who?"]}')
    stamps_before = stamps(output)
    source = WebDataset(path=str(tars))
    settings = {"reducer": "trim", "unit_requests": 9, "unit_bytes": 20_000}
    plain = annotate(make_config(random_checkpoint, source, output, **settings))
    untouched = stamps(output)
    config = make_config(random_checkpoint, source, output, extend=True, **settings)
    return SimpleNamespace(
        before=stamps_before,
        plain=plain,
        untouched=untouched,
        outcome=annotate(config),
        config=config,
        output=output,
        tars=tars,
    )


def stamps(output):
    files = {name: (output / "data" / name).stat() for name in unit_names(output)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def test_extend_appends_and_answers_only_new_shards(extended):
    assert (extended.plain.status, extended.untouched) == (0, extended.before), (
        "without extend=true nothing is added"
    )
    assert extended.plain.message.startswith("nothing to do")
    stamps_after = stamps(extended.output)
    assert {name: stamps_after[name] for name in extended.before} == extended.before
    added = [name for name in stamps_after if name not in extended.before]
    assert {name[:6] for name in added} == {f"{shard:06d}" for shard in range(1, 6)}
    new = [row for row in rows(extended.output) if row["key"].startswith("000001-")]
    assert [row["sample"] for row in new] == [0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert {row["source"] for row in new} == {f"file://{extended.tars}/0-good.tar"}
    assert {row["status"] for row in new} == {"ok"}
    summary = json.loads((extended.output / "summary.json").read_text())
    assert (summary["shards"], summary["shards_finished"]) == (6, 6)


def test_a_broken_shard_is_reported_and_the_others_are_answered(extended):
    outcome = extended.outcome
    assert outcome.status == 1
    assert "2 shards could not be read whole" in outcome.message
    assert [failed.shard for failed in outcome.summary.failed_shards_named] == [2, 4]
    assert not (extended.output / "_SUCCESS").exists(), "the previous run's _SUCCESS is deleted too"
    units = read_units(extended.output)
    last_units = {name[:6]: item for name, item in units.items() if item[1]["end"]}
    errors = {int(shard): footer["shard_error"] for shard, (_, footer) in last_units.items()}
    assert [shard for shard, error in errors.items() if error] == [2, 4]
    assert "bad header" in errors[2]
    assert "000002-00000000-00000006-end.parquet" in units, "the samples before the bad header"
    for name in ("000003-00000000-00000000-end.parquet", "000004-00000000-00000000-end.parquet"):
        assert units[name][0].num_rows == 0
    rerun = annotate(extended.config)
    assert (rerun.status, rerun.summary) == (1, outcome.summary), "a rerun reports the same shards"


def test_a_bad_image_is_a_row_and_its_neighbours_are_answered(extended):
    images = [row for row in rows(extended.output) if row["key"].startswith("000005")]
    assert [row["sample"] for row in images] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for row in images:
        if row["sample"] in (1, 3):
            assert (row["status"], row["prediction"]) == ("bad_image", None)
            assert "cannot be decoded" in row["error"]
        else:
            assert (row["status"], row["error"]) == ("ok", None)
            assert row["generated_tokens"] > 0
    assert extended.outcome.summary.status["bad_image"] == 4
