"""Test what sidecars and questions may look like, and that a task reads only what it asks for."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.sources.base import Question, Sample, Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.items import samples_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.task import Task
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.census import Census
from pipeline.support.errors import BadQuestion, BadSample, ConfigError
from tests.support.tars import jpeg

HERE = Storage()
Files = dict[str, bytes]

# name, content of the sidecar, and the questions that it holds or what is wrong with it
TEXTS = {
    "plain.txt": (b" What is it?\r\n", ["What is it?"]),
    "mark.txt": (b"\xef\xbb\xbfWhat is it?", ["What is it?"]),
    "utf16.txt": ("Été?".encode("utf-16"), ["Été?"]),
    "latin.txt": ("un éléphant".encode("latin-1"), ["un éléphant"]),
    "windows.txt": ("“what” – is it?".encode("cp1252"), ["“what” – is it?"]),
    "binary.txt": (b"\x81\x8d\x8f", "neither UTF-8 nor Latin-1"),
    "blank.txt": (b"\xef\xbb\xbf \n", []),
    "mark.json": (b'\xef\xbb\xbf{"question": "a?"}', ["a?"]),
    "utf16.json": ('{"question": "é?"}'.encode("utf-16"), ["é?"]),
    "latin.json": ('{"question": "é?"}'.encode("latin-1"), ["é?"]),
    "null.json": (b'{"question": "q?", "questions": null}', ["q?"]),
    "nulls.json": (b'{"question": null, "questions": null}', []),
    "null_text.json": (b'{"questions": [{"question": null}, "b?"]}', ["", "b?"]),
    "list.json": (b'[{"bbox": [1, 2]}]', "not an object"),
    "comma.json": (b'{"question": "x?",}', "not JSON"),
    "large.json": (b'{"x": "' + b"x" * (5 << 20) + b'"}', "too large"),
}


def as_folder(folder: Path, files: Files) -> Images:
    for name, data in files.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(data)
    return Images(path=str(folder / "in"))


def as_tar(folder: Path, files: Files) -> WebDataset:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return WebDataset(path=str(folder / "a.tar"))


def read(source, want=Want.ALL) -> list[Sample]:
    shards = list(source.shards(files_of(source, HERE), HERE))
    return [sample for shard in shards for sample in samples_of(source, shard, HERE, lambda _: want)]


@pytest.mark.parametrize("kind", [as_folder, as_tar])
@pytest.mark.parametrize("name", TEXTS)
def test_a_sidecar_is_read_or_told(tmp_path, kind, name):
    data, expected = TEXTS[name]
    (sample,) = read(kind(tmp_path, {"a.jpg": jpeg(0), f"a.{name.rpartition('.')[2]}": data}))
    assert sample.fault is None and sample.image == jpeg(0)
    if isinstance(expected, str):
        assert expected in str(sample.question_fault)
    else:
        assert sample.question_fault is None
        assert [question.text for question in sample.questions] == expected


@pytest.mark.parametrize("kind", [as_folder, as_tar])
@pytest.mark.parametrize("name", TEXTS)
def test_a_caption_needs_no_sidecar(tmp_path, kind, name):
    source = kind(tmp_path, {"a.jpg": jpeg(0), f"a.{name.rpartition('.')[2]}": TEXTS[name][0]})
    caption = Task(prompts=["Describe."])
    (sample,) = read(source, caption.wanted)
    assert (sample.questions, sample.question_fault) == ((), None), "nothing of it was read"
    assert caption.questions(sample, 9) == (Question("0", "Describe."),)
    (whole,) = read(source)
    assert caption.questions(whole, 9) == (Question("0", "Describe."),)


def test_beside_a_caption_a_faulty_sidecar_is_one_bad_question(tmp_path):
    (sample,) = read(as_folder(tmp_path, {"a.jpg": jpeg(0), "a.json": b"["}))
    both, own = Task(prompts=["Describe."], source_questions=True), Task(source_questions=True)
    caption, broken = both.questions(sample, 9)
    assert caption == Question("0", "Describe.") and broken.question_id == "1"
    assert broken.text == "" and "not JSON" in broken.fault
    with pytest.raises(BadSample, match="not JSON"):
        own.questions(sample, 9)


@pytest.mark.parametrize("kind", [as_folder, as_tar])
def test_names_of_sidecars(tmp_path, kind):
    source = kind(
        tmp_path,
        {
            "UPPER.JPG": jpeg(0),
            "UPPER.JSON": b'{"question": "upper?"}',
            "double.jpg": jpeg(1),
            "double.jpg.json": b'{"question": "double?"}',
            "mixed.Png": jpeg(2),
            "mixed.Txt": b"mixed?",
            "none.jpg": jpeg(3),
            "other.png.json": b'{"question": "no image?"}',
            "two.jpeg": jpeg(4),
            "two.jpeg.txt": b"second?",
            "two.txt": b"first?",
        },
    )
    samples = {sample.key.partition(".")[0]: sample for sample in read(source)}
    asked = {name: [question.text for question in sample.questions] for name, sample in samples.items()}
    assert asked == {
        "UPPER": ["upper?"],
        "double": ["double?"],
        "mixed": ["mixed?"],
        "none": [],
        "two": ["first?"],
    }
    if kind is as_folder:
        census = Census()
        list(files_of(source, HERE, census))
        assert dict(census.passed_over) == {"second sidecar": 1, "sidecar without an image": 1}


@pytest.mark.parametrize("kind", [as_folder, as_tar])
def test_keys_of_sidecars_can_be_named(tmp_path, kind):
    sidecar = {"prompts": [{"question": "a?", "n": 1.0}, "b?"], "caption": "c?", "n": 7, "question": "no?"}
    source = kind(tmp_path, {"a.jpg": jpeg(0), "a.json": json.dumps(sidecar).encode()})
    (one,) = read(dataclasses.replace(source, question_key="caption", question_id_key="n"))
    assert one.questions == (Question("7", "c?"),)
    (several,) = read(dataclasses.replace(source, questions_key="prompts", question_id_key="n"))
    assert several.questions == (Question("1", "a?"), Question("", "b?"))
    (missing,) = read(dataclasses.replace(source, question_key="gone"))
    assert missing.fault is None and str(missing.question_fault) == "the sidecar has no 'gone'"


MARKED = {
    "<image>\nWhat?": "What?",
    "What?\n<image>": "What?",
    " <image> What?": "What?",
    "What?": "What?",
    " What?\n": " What?\n",
    "<image>": "",
    "what is <image> here?": "what is <image> here?",
}


@pytest.mark.parametrize("text", MARKED)
def test_a_question_that_brings_its_own_mark_is_asked_once(text):
    for suffix in ("", "\nOne word."):
        (asked,) = Task(source_questions=True, suffix=suffix).questions(_sample(text), 9)
        expected = MARKED[text] + (suffix if MARKED[text] else "")
        assert (asked.text, asked.fault) == (expected, None)


@pytest.mark.parametrize("text", ["<image><image>What?", "<image>\nWhat?\n<image>", "<image> or <image>?"])
def test_several_marks_are_a_fault_of_that_question_alone(text):
    fine, faulty, other = Task(source_questions=True).questions(_sample("a?", text, "b?"), 9)
    assert (fine.text, fine.fault, other.text, other.fault) == ("a?", None, "b?", None)
    assert "2 times" in faulty.fault and faulty.text == text


def test_a_blank_question_is_not_its_suffix():
    (asked,) = Task(source_questions=True, suffix="\nOne word.").questions(_sample(" \n"), 9)
    assert not asked.text.strip()
    with pytest.raises(BadQuestion, match="no question"):
        Task(source_questions=True).questions(_sample(), 9)


@pytest.mark.parametrize("prompt", ["<image><image>a", "<image>", " \n"])
def test_a_prompt_that_asks_nothing_or_marks_several_images_is_refused(prompt):
    with pytest.raises(ConfigError, match=r"task\.prompts"):
        Task(prompts=["fine", prompt])


def test_lines_with_a_faulty_question_have_a_caption(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "q.jsonl").write_text('{"image": "1.jpg", "text": 7}')
    (sample,) = read(Jsonl(path=str(tmp_path / "q.jsonl")))
    assert Task(prompts=["Describe."]).questions(sample, 9) == (Question("0", "Describe."),)
    assert sample.image == jpeg(1)


def _sample(*texts: str) -> Sample:
    return Sample("a", 0, b"", tuple(Question("", text) for text in texts))
