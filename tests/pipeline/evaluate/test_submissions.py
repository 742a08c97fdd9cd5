"""Submission files have the form, the ids and the order that servers and judges expect."""

import io
import json
import sys
from pathlib import Path

import pytest

from pipeline.evaluate.evaluate import evaluation_notes, evaluation_table
from pipeline.evaluate.submission import json_list, json_object, workbook
from pipeline.support.errors import ConfigError
from tests.pipeline.evaluate import official
from tests.pipeline.evaluate.test_datasets import fixture, make, scored

TEST_DEV = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
TEST = "v2_OpenEnded_mscoco_test2015_questions.json"


def submitted(dataset, folder: Path, say, name: str = "s.json", **options) -> Path:
    """Answer a dataset and write its submission."""
    output = official.answer(dataset, folder / "out" / "o", say)
    scored(dataset, output, submission=str(folder / name), **options)
    return folder / name


def sheet(path: Path) -> list[tuple]:
    from openpyxl import load_workbook

    return list(load_workbook(path).active.iter_rows(values_only=True))


def vqav2_test(folder: Path) -> Path:
    """Write a test-dev split of three questions, and the whole test split of five, in another order."""
    root = official.vqav2(folder / "vqav2")
    questions = json.loads((root / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    (root / TEST_DEV).write_text(json.dumps(questions))
    more = [{"image_id": 7, "question": "Why?", "question_id": number} for number in (7000, 7001)]
    questions["questions"] = [more[0], *reversed(questions["questions"]), more[1]]
    (root / TEST).write_text(json.dumps(questions))
    return root


def test_vqav2_has_every_question_of_the_test_split(tmp_path):
    """Official: convert_vqav2_for_submission.py goes through test2015, with "" for what was not asked."""
    root = vqav2_test(tmp_path)
    dataset = make("vqav2", root, annotations=None, questions=TEST_DEV)
    path = submitted(dataset, tmp_path, lambda *_: "Two t-shirts.")
    assert json.loads(path.read_text()) == [
        {"question_id": number, "answer": "" if number in (7000, 7001) else "2 t shirts"}
        for number in (7000, 42002, 9001001, 9001000, 7001)
    ]


def test_vqav2_in_part_has_every_question_too(tmp_path):
    dataset = make("vqav2", official.vqav2(tmp_path / "vqav2"), annotations=None)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "Two t-shirts.", drop=1)
    scored(dataset, output, submission=str(tmp_path / "s.json"), partial=True)
    answers = [item["answer"] for item in json.loads((tmp_path / "s.json").read_text())]
    assert answers == ["2 t shirts", "", "2 t shirts"]


def test_vqav2_without_the_file_of_all_questions_is_refused(tmp_path):
    root = vqav2_test(tmp_path)
    (root / TEST).unlink()
    dataset = make("vqav2", root, annotations=None, questions=TEST_DEV)
    with pytest.raises(ConfigError, match=TEST):
        submitted(dataset, tmp_path, lambda *_: "yes")
    (root / TEST).write_text(json.dumps({"questions": []}))
    with pytest.raises(ConfigError, match="lacks question_id 42002"):
        scored(dataset, tmp_path / "out" / "o", submission=str(tmp_path / "s.json"))
    assert not (tmp_path / "s.json").exists()


def test_answers_that_are_not_public_are_submitted(tmp_path):
    dataset = make("vqav2", official.vqav2(tmp_path / "vqav2"), annotations=None)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "Two t-shirts.")
    with pytest.raises(ConfigError, match="submission=FILE writes the predictions as EvalAI's JSON list"):
        scored(dataset, output)
    evaluation = scored(dataset, output, submission=str(tmp_path / "s.json"))
    assert evaluation["figures"] == {} and evaluation["without_truth"] == 3
    assert evaluation_notes(evaluation) == []


def test_textvqa(tmp_path):
    """Official: lmms-eval submits EvalAI's normal form."""
    dataset = fixture("textvqa", tmp_path)
    tree = json.loads((Path(dataset.root) / dataset.annotations).read_text())
    for item in tree["data"]:
        del item["answers"]
    (Path(dataset.root) / "TextVQA_0.5.1_test.json").write_text(json.dumps(tree))
    test = make("textvqa", dataset.root, annotations="TextVQA_0.5.1_test.json")
    answers = json.loads(submitted(test, tmp_path, lambda *_: "Coca-Cola, Two.").read_text())
    assert answers == [{"question_id": number, "answer": "coca cola 2"} for number in (34602, 34603)]


def test_coco_captions(tmp_path):
    """Official: [{image_id, caption}], the ids numbers; test2014 has images without captions."""
    dataset = fixture("coco_caption", tmp_path)
    tree = json.loads((Path(dataset.root) / dataset.annotations).read_text())
    del tree["annotations"]
    (Path(dataset.root) / "test.json").write_text(json.dumps(tree))
    test = make("coco_caption", dataset.root, annotations="test.json")
    captions = json.loads(submitted(test, tmp_path, lambda *_: "A man rides.").read_text())
    assert captions == [{"image_id": number, "caption": "A man rides."} for number in (42, 73)]


def test_captions_of_another_task_are_submitted_by_the_ids_of_images(tmp_path):
    from pipeline.sources.images import Images
    from pipeline.sources.task import Task

    dataset = fixture("coco_caption", tmp_path)
    (tmp_path / "o").mkdir()
    source = Images(path=f"{dataset.root}/val2014")
    output = official.answer_source(
        source, Task(prompts=["Describe it."]), tmp_path / "o", lambda *_: "a man"
    )
    scored(dataset, output, submission=str(tmp_path / "s.json"))
    assert [item["image_id"] for item in json.loads((tmp_path / "s.json").read_text())] == [42, 73]


def test_mmbench_is_a_sheet_of_every_row(tmp_path):
    """Official: the columns and rows of convert_mmbench_for_submission.py, here by pandas as it does it."""
    import pandas as pd

    dataset = fixture("mmbench", tmp_path)
    predictions = {"1": "A", "1000001": "=1+1", "2000001": "(B)", "2": "NA", "1000002": "x\x07y"}
    path = submitted(dataset, tmp_path, lambda question, _: predictions[question], "s.xlsx")
    columns, *rows = sheet(path)
    official_table = pd.read_table(Path(dataset.root) / dataset.table)
    table = official_table.drop(columns=["hint", "category", "source", "image", "comment", "l2-category"])
    table.insert(6, "prediction", [predictions[str(index)].replace("\x07", " ") for index in table["index"]])
    assert columns == tuple(table.columns)
    assert columns == ("index", "question", *"ABCD", "prediction", "answer", "split")
    assert rows == [
        tuple(None if pd.isna(cell) else cell for cell in row) for row in table.itertuples(index=False)
    ]


def test_mmbench_in_part_leaves_cells_empty(tmp_path):
    dataset = fixture("mmbench", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "A", drop=0)
    scored(dataset, output, submission=str(tmp_path / "s.xlsx"), partial=True)
    assert [row[6] for row in sheet(tmp_path / "s.xlsx")] == ["prediction", None, "A", "A", "A", "A"]


def test_a_sheet_needs_openpyxl(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ConfigError, match=r"needs the package openpyxl: pip install 'trimline\[xlsx\]'"):
        workbook([["index"]])


def test_the_files_hold_what_they_are_given():
    assert json.loads(json_list([])) == [] and json.loads(json_object([])) == {}
    assert json.loads(json_list([{"a": 1}, {"a": "é"}])) == [{"a": 1}, {"a": "é"}]
    assert json.loads(json_object([("a", 1), ('"', None)])) == {"a": 1, '"': None}


def test_texts_of_a_sheet_are_no_formulas():
    from openpyxl import load_workbook

    texts = ["=1+1", "=HYPERLINK(1)", "+1", "2024-01-01", "TRUE", "#N/A", "7"]
    (row,) = load_workbook(io.BytesIO(workbook([[*texts, 7]]))).active.iter_rows()
    assert [cell.value for cell in row] == [*texts, 7]
    assert [cell.data_type for cell in row] == ["s"] * len(texts) + ["n"]


def test_a_set_without_a_format_promises_none(tmp_path):
    from pipeline.evaluate.datasets.scenes import Scenes

    root = official.write(
        tmp_path / "pictures",
        {"a.jpg": official.picture(1), "a.json": {"questions": ["Who is it?"]}},
    )
    dataset = Scenes(root=str(root), caption=False)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "Ann")
    with pytest.raises(ConfigError, match="nothing can be scored, and Scenes has no submission format"):
        scored(dataset, output)
    with pytest.raises(ConfigError, match="submission: Scenes has no submission format"):
        scored(dataset, output, submission=str(tmp_path / "s.json"))


def test_llava_bench_is_exported_for_its_judge(tmp_path):
    dataset = fixture("llava_bench", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: f"answer {question}")
    scored(dataset, output, submission=str(tmp_path / "answers.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "question_id": 0,
        "prompt": "What is the name?",
        "text": "answer 0",
        "answer_id": "000000-00000000-0000",
        "model_id": "llava",
        "metadata": {},
    }
    assert [row["question_id"] for row in rows] == [0, 1]


def test_mm_vet_is_exported_for_its_judge(tmp_path):
    dataset = fixture("mm_vet", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: f"it is {question}")
    scored(dataset, output, submission=str(tmp_path / "answers.json"))
    assert json.loads((tmp_path / "answers.json").read_text()) == {
        "v1_0": "it is v1_0",
        "v1_1": "it is v1_1",
    }


def test_the_judge_reads_answers_in_the_order_of_its_questions(tmp_path):
    """Official: eval_gpt_review_bench.py pairs the lines, also where an image comes back later."""
    root = official.llava_bench(tmp_path / "llava_bench")
    questions = [(0, "001.jpg"), (1, "002.jpg"), (2, "001.jpg")]
    (root / "questions.jsonl").write_text(
        official.lines(
            *(
                {"question_id": number, "image": image, "text": "?", "category": "conv"}
                for number, image in questions
            )
        )
    )
    (root / "images/002.jpg").write_bytes(official.picture(2))
    dataset = make("llava_bench", root)
    asked = []
    path = submitted(dataset, tmp_path, lambda question, _: asked.append(question) or f"answer {question}")
    assert asked == ["0", "2", "1"], "the run has the questions of an image together"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["question_id"], row["text"]) for row in rows] == [(n, f"answer {n}") for n in range(3)]


def test_answers_cut_off_are_counted(tmp_path):
    dataset = fixture("mm_vet", tmp_path)
    output = official.answer(
        dataset, tmp_path / "out" / "o", lambda name, _: name * int(name[-1]) * 9, longest=3
    )
    evaluation = scored(dataset, output, submission=str(tmp_path / "s.json"))
    assert evaluation["cut_off"] == 1 == json.loads((output / "evaluation.json").read_text())["cut_off"]
    assert evaluation_notes(evaluation) == [
        "1 answers were cut off at decoding.max_new_tokens=3, where published runs have 1024"
    ]


def test_answers_cut_off_are_told_beside_the_figures(tmp_path):
    dataset = fixture("pope", tmp_path)
    say = iter(["Yes", None, *["No, there is none"] * 4])
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: next(say), longest=10)
    evaluation = scored(dataset, output)
    assert evaluation["cut_off"] == 4
    notes = evaluation_table(evaluation).notes
    assert "1 rows failed: counted as wrong" in notes
    assert "4 answers were cut off at decoding.max_new_tokens=10, where published runs have 128" in notes
    other = official.answer(dataset, tmp_path / "out" / "p", lambda *_: "No", longest=500)
    assert not any("cut off" in note for note in evaluation_table(scored(dataset, other)).notes)
