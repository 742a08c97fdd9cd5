"""LLaVA's own loaders read what is exported for them."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.export.export import export
from pipeline.export.llava import _answer, _conversation
from pipeline.export.options import Export
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from tests.support.quick import HERE, quick_answer
from tests.support.tars import jpeg, write_members

TEXTS = st.lists(st.sampled_from(["<image>", "<ima", "ge>", "\n", " ", "What?", "\u2028", "a"])).map("".join)


def exported(tmp_path, source=None, name="a.jsonl", **options):
    """Answer a source and export it; returns the items that LLaVA reads, and the notes."""
    if source is not None:
        quick_answer(source, tmp_path / "out")
    to = tmp_path / name
    written = export(Export(output=str(tmp_path / "out"), to=str(to), **options), HERE)
    text = to.read_text()
    items = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    return items, written.notes


def load(item, image_folder):
    """Open an item as LazySupervisedDataset does; its texts take one image, in the first turn."""
    image = Image.open(Path(image_folder, item["image"])).convert("RGB")
    values = [turn["value"] for turn in item["conversations"]]
    assert [value.count("<image>") for value in values] == [1] + [0] * (len(values) - 1)
    assert [turn["from"] for turn in item["conversations"]] == ["human", "gpt"] * (len(values) // 2)
    assert len(item["ids"]) == len(values) // 2
    return image


def lines(*items):
    return "".join(json.dumps(item) + "\n" for item in items)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_a_conversation_has_one_image_whatever_is_asked_and_answered(pairs):
    rows = [
        {
            "key": "k",
            "question_id": str(number),
            "sample_key": "s",
            "question": question,
            "prediction": answer,
        }
        for number, (question, answer) in enumerate(pairs)
    ]
    values = [turn["value"] for turn in _conversation(rows, "a.jpg")["conversations"]]
    assert values[0].startswith("<image>\n")
    assert sum(value.count("<image>") for value in values) == 1
    for pair, turns in zip(pairs, zip(values[::2], values[1::2], strict=True), strict=True):
        for text, value in zip(pair, turns, strict=True):
            if "<image>" not in text:
                assert value.removeprefix("<image>\n") == text


def test_questions_that_bring_their_own_image(tmp_path):
    for number in (0, 1):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    asked = [
        (11, "0.jpg", "<image>\nWhat colour is it?"),
        (12, "0.jpg", "<image>\nIs it round?"),
        (13, "1.jpg", "What is this?\n<image>"),
    ]
    (tmp_path / "q.jsonl").write_text(
        lines(*({"question_id": name, "image": image, "text": text} for name, image, text in asked))
    )
    items, notes = exported(tmp_path, Jsonl(path=str(tmp_path / "q.jsonl")), "a.json")
    assert [item["ids"] for item in items] == [["11", "12"], ["13"]]
    asked = [turn["value"] for item in items for turn in item["conversations"][::2]]
    assert asked == ["<image>\nWhat colour is it?", "Is it round?", "<image>\nWhat is this?"]
    assert [load(item, tmp_path).size for item in items]
    assert notes == [f"images are named relative to {tmp_path}"]
    answers, _ = exported(tmp_path, name="b.jsonl", format="llava_answers")
    assert [answer["question_id"] for answer in answers] == [11, 12, 13]


def test_answers_are_laid_out_as_model_vqa_loader_writes_them(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    items = [{"question_id": name, "image": "0.jpg", "text": "What?"} for name in ("7", "07")]
    missing = {"question_id": 9, "image": "none.jpg", "text": "What?"}
    (tmp_path / "q.jsonl").write_text(lines(*items, missing))
    answers, _ = exported(tmp_path, Jsonl(path=str(tmp_path / "q.jsonl")), format="llava_answers")
    fields = ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert all(list(answer) == fields and answer["metadata"] == {} for answer in answers)
    # "07" is no number: as one it would lose its zero, and so all stay texts
    assert [answer["question_id"] for answer in answers] == ["7", "07"]
    every, _ = exported(
        tmp_path, name="b.jsonl", format="llava_answers", statuses=["ok", "bad_image"], question_ids="text"
    )
    assert every[-1]["text"] == "" and every[-1]["metadata"]["status"] == "bad_image"
    assert len({answer["answer_id"] for answer in every}) == 3


@pytest.mark.parametrize("name", ["7", "0", "-7", "1e3", "\u0663", "9" * 16, "", "x"])
def test_only_plain_numbers_become_numbers(tmp_path, name):
    row = {"question_id": name, "question": "q", "prediction": "p", "status": "ok", "key": "k", "model": "m"}
    assert _answer(row, numbers=False)["question_id"] == name
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "q.jsonl").write_text(lines({"question_id": name, "image": "0.jpg", "text": "What?"}))
    answers, _ = exported(tmp_path, Jsonl(path=str(tmp_path / "q.jsonl")), format="llava_answers")
    asked = name or "0"  # a question without a name has its number
    assert answers[0]["question_id"] == (int(asked) if asked in ("7", "0") else asked)


def test_images_of_a_folder_are_named_relative_to_it(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b c.jpg", "deep/caf\udce9.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg(1))
        (tmp_path / "in" / name).with_suffix(".txt").write_text("what?")
    items, notes = exported(tmp_path, Images(path=str(tmp_path / "in")))
    assert [item["image"] for item in items] == ["a.jpg", "deep/b c.jpg", "deep/caf\\xe9.jpg"]
    assert [load(item, tmp_path / "in") for item in items[:2]]
    assert "1 of 3 images are no files there, the first is deep/caf\\xe9.jpg" in notes[1]
    items, notes = exported(tmp_path, name="b.jsonl", images=str(tmp_path / "images"))
    assert [load(item, tmp_path / "images") for item in items]
    assert notes == [f"images are named relative to {tmp_path}/images"]


def test_question_files_in_several_folders_name_their_images_from_above_them(tmp_path):
    for number, folder in enumerate("ab"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "0.jpg").write_bytes(jpeg(number, width=24 + number))
        whole = str(tmp_path / "in" / folder / "0.jpg")
        text = lines({"image": "0.jpg", "text": "What?"}, {"image": whole, "text": "And?"})
        (tmp_path / "in" / folder / "q.jsonl").write_text(text)
    items, notes = exported(tmp_path, Jsonl(path=str(tmp_path / "in")))
    assert [item["image"] for item in items] == ["a/0.jpg", "a/0.jpg", "b/0.jpg", "b/0.jpg"]
    assert [load(item, tmp_path / "in").width for item in items] == [24, 24, 25, 25]
    assert notes == [f"images are named relative to {tmp_path}/in"]


def tables_and_tars(tmp_path):
    """Two tables with two images each, and two tars with the same keys and names from a hostile archive."""
    (tmp_path / "p").mkdir()
    (tmp_path / "t").mkdir()
    for number, name in enumerate("ab"):
        pictures = [jpeg(2 * number, width=30 + 2 * number), jpeg(2 * number + 1, width=31 + 2 * number)]
        pq.write_table(
            pa.table({"image": pictures, "question": ["What?"] * 2}), tmp_path / f"p/{name}.parquet"
        )
        keys = ("000", "../../evil")
        members = [
            (f"{key}.{suffix}", data)
            for key, picture in zip(keys, pictures, strict=True)
            for suffix, data in (("JPEG", picture), ("txt", b"What?"))
        ]
        write_members(tmp_path / f"t/{name}.tar", members)
    return Parquet(path=str(tmp_path / "p")), WebDataset(path=str(tmp_path / "t"))


@pytest.mark.parametrize("kind", [0, 1])
def test_images_of_tables_and_tars_are_written_once_each(tmp_path, kind):
    source = tables_and_tars(tmp_path)[kind]
    items, (note,) = exported(tmp_path, source)
    assert len({item["image"] for item in items}) == 4
    assert all(item["image"].startswith(("a.", "b.")) and ".." not in item["image"] for item in items)
    assert "no such files exist; images=FOLDER writes them" in note
    images = tmp_path / "to" / "images"
    items, _ = exported(tmp_path, name="b.json", images=str(images))
    assert [load(item, images).width for item in items] == [30, 31, 32, 33]
    assert len([path for path in images.rglob("*") if path.is_file()]) == 4
    assert all(path.is_relative_to(images) for path in tmp_path.rglob("*evil*"))
    with pytest.raises(ConfigError, match=r"images: .* exists already"):
        exported(tmp_path, name="c.json", images=str(images))


def test_a_store_takes_conversations_and_images(tmp_path):
    quick_answer(tables_and_tars(tmp_path)[1], tmp_path / "out")
    place = f"memory://{tmp_path.name}"
    options = Export(output=str(tmp_path / "out"), to=f"{place}/a.json", images=f"{place}/images")
    assert export(options, HERE).rows == 4
    fs, root = HERE.open(place)
    items = json.loads(fs.cat_file(f"{root}/a.json"))
    assert sorted(f"{root}/images/{item['image']}" for item in items) == sorted(fs.find(f"{root}/images"))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    quick_answer(tables_and_tars(tmp_path)[1], tmp_path / "out")
    (tmp_path / "file").touch()
    for format in ("llava", "llava_answers", "webdataset", "parquet"):
        options = Export(output=str(tmp_path / "out"), to=str(tmp_path / "file" / "below"), format=format)
        with pytest.raises(ConfigError, match=r"to: cannot use .*file/below"):
            export(options, HERE)


def test_a_json_is_one_list_and_the_huggingface_loader_reads_both(tmp_path):
    source = tables_and_tars(tmp_path)[0]
    listed, _ = exported(tmp_path, source, "a.json")
    in_lines, _ = exported(tmp_path, name="a.jsonl")
    assert listed == in_lines
    for name in ("a.json", "a.jsonl"):
        loaded = datasets.load_dataset(
            "json", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache" / name)
        )
        assert list(loaded["image"]) == [item["image"] for item in listed]


def test_an_output_without_a_row_is_an_empty_list(tmp_path):
    (tmp_path / "q.jsonl").write_text(lines({"image": "none.jpg", "text": "What?"}))
    assert exported(tmp_path, Jsonl(path=str(tmp_path / "q.jsonl")), "a.json") == ([], [])
    assert exported(tmp_path, name="a.jsonl")[0] == []


def test_rows_without_an_answer_are_nothing_to_train_on():
    with pytest.raises(ConfigError, match="statuses: format=llava takes ok alone"):
        Export(output="x", to="y", statuses=["ok", "bad_image"])
    with pytest.raises(ConfigError, match="images needs format=llava"):
        Export(output="x", to="y", format="webdataset", images="z")
