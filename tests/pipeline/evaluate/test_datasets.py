"""Every dataset of `conf/dataset`, on a small copy in the official file format."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_class

from pipeline.evaluate.evaluate import Evaluation, evaluate
from pipeline.sources.base import files_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.pipeline.evaluate import official

STORAGE = Storage()
CONF = Path(__file__).parents[3] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
JUDGED = ("llava_bench", "mm_vet")


def make(name: str, root: Path, **fields):
    """Build the dataset from its YAML."""
    tree = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return get_class(tree.pop("_target_"))(**{**tree, "root": str(root), **fields})


def fixture(name: str, folder: Path, **fields):
    builder = official.scienceqa if name == "scienceqa_img" else getattr(official, name)
    return make(name, builder(folder / name), **fields)


def scored(dataset, output: Path, **options) -> dict:
    return evaluate(dataset, Evaluation(output=str(output), resamples=50, **options), STORAGE)


def values(figures: dict) -> dict[str, float]:
    return {name: figure["value"] for name, figure in figures.items()}


def truth(dataset) -> dict[str, str]:
    """Return a right answer to every question."""
    return {
        reference.question_id: reference.answers[0] if reference.answers else "who knows"
        for reference in dataset.references(STORAGE)
    }


def test_every_dataset_has_a_fixture():
    assert set(NAMES) == {
        *("vqav2", "gqa", "vizwiz", "scienceqa_img", "textvqa", "pope", "mme", "mmbench", "mmbench_cn"),
        *("seed_bench", "llava_bench", "mm_vet", "scenes", "coco_caption"),
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mmbench_cn"])
def test_the_defaults_are_those_of_the_class(name):
    dataset = make(name, Path("/data"))
    assert type(dataset)(root="/data") == dataset


def test_answers_are_as_long_as_in_published_runs():
    """LLaVA's model_vqa.py, model_vqa_science.py and model_vqa_mmbench.py have 1024, its loader has 128."""
    lengths = {name: make(name, Path("/data")).max_new_tokens for name in NAMES}
    long = dict.fromkeys(("mm_vet", "llava_bench", "scienceqa_img", "mmbench", "mmbench_cn"), 1024)
    short = dict.fromkeys(("vqav2", "gqa", "vizwiz", "textvqa", "pope", "mme", "seed_bench"), 128)
    assert lengths == {**long, **short, "coco_caption": 64, "scenes": 64}
    with pytest.raises(ConfigError, match=r"dataset\.max_new_tokens must be at least 1"):
        make("pope", Path("/data"), max_new_tokens=0)


def test_questions_are_asked_in_the_case_of_llavas_files(tmp_path):
    """Official: 5,000 of TextVQA's and 8,000 of VizWiz's prompts equal their own .capitalize()."""
    asked = {"And what color is it?": "And what color is it?", "is it Fahrenheit?": "Is it fahrenheit?"}
    for name, key in (("textvqa", "data"), ("vizwiz", None)):
        dataset = fixture(name, tmp_path)
        path = Path(dataset.root) / dataset.annotations
        tree = json.loads(path.read_text())
        for item, text in zip(tree[key] if key else tree, asked, strict=False):
            item["question"] = text
        path.write_text(json.dumps(tree))
        texts = [text for _, text in dataset.read_questions(STORAGE)]
        assert texts[:2] == list(asked.values())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in JUDGED])
def test_right_answers_are_right_and_the_root_is_left_alone(name, tmp_path):
    dataset = fixture(name, tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    right = truth(dataset)
    if name == "scenes":
        right = {(item.sample_key, item.question_id): item.answers[0] for item in dataset.references(STORAGE)}
        captions = iter([answer_text for (_, question), answer_text in right.items() if question == "0"])
        output = official.answer(
            dataset,
            tmp_path / "out" / "o",
            lambda question, _: (
                next(captions) if question == "0" else next(s for (_, q), s in right.items() if q == question)
            ),
        )
    else:
        output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: right[question])
    evaluation = scored(dataset, output)
    figures = values(evaluation["figures"])
    assert evaluation["questions"] == len(right) == sum(evaluation["status"].values()) == evaluation["scored"]
    headline = {"mme": "perception", "coco_caption": "bleu_1"}.get(name, "accuracy")
    assert figures[headline] == {"mme": 400.0}.get(name, 1.0)
    for figure in evaluation["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"] or headline in ("perception", "bleu_1")
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert [path for path in after if path.parts[0] != "out"] == before


@pytest.mark.parametrize("name", [name for name in NAMES if name not in JUDGED])
def test_rows_that_failed_are_wrong_and_counted(name, tmp_path):
    dataset = fixture(name, tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: None)
    evaluation = scored(dataset, output)
    assert set(evaluation["status"]) == {"failed"}
    figures = values(evaluation["figures"])
    assert set(figures.values()) <= {0.0}, figures


def test_vqav2(tmp_path):
    dataset = fixture("vqav2", tmp_path)
    predictions = {"9001000": "Yes.", "9001001": "two", "42002": "Shirt"}
    output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: predictions[question])
    evaluation = scored(dataset, output)
    assert values(evaluation["figures"]) == pytest.approx({"accuracy": (1.0 + 0.6 + 0.3) / 3})
    assert {name: values(group["figures"])["accuracy"] for name, group in evaluation["groups"].items()} == (
        pytest.approx({"yes/no": 1.0, "number": 0.6, "other": 0.3})
    )
    texts = dict((reference.question_id, text) for reference, text in dataset.read_questions(STORAGE))
    assert texts["9001000"] == "Is it red?"


def test_vizwiz(tmp_path):
    dataset = fixture("vizwiz", tmp_path)
    predictions = iter(["Soda can.", "Unanswerable", "unanswerable"])
    evaluation = scored(
        dataset, official.answer(dataset, tmp_path / "out" / "o", lambda *_: next(predictions))
    )
    assert values(evaluation["figures"]) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "unanswerable_precision": 1 / 2,
            "unanswerable_recall": 1.0,
            "unanswerable_f1": 2 / 3,
        }
    )
    test = make("vizwiz", dataset.root, annotations="test.json", images="test")
    output = official.answer(test, tmp_path / "out" / "t", lambda *_: "A can, red.")
    scored(test, output, submission=str(tmp_path / "s.json"))
    assert json.loads((tmp_path / "s.json").read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "can red"}
    ]


def test_gqa_by_type(tmp_path):
    dataset = fixture("gqa", tmp_path)
    predictions = {"201307251": "No.", "201640614": "Woman", "202225914": "grey"}
    evaluation = scored(
        dataset,
        official.answer(dataset, tmp_path / "out" / "o", lambda question, _: predictions[question]),
        submission=str(tmp_path / "s.json"),
    )
    assert values(evaluation["figures"]) == pytest.approx({"accuracy": 2 / 3})
    groups = {name: values(group["figures"])["accuracy"] for name, group in evaluation["groups"].items()}
    assert groups["binary"] == 1 and groups["open"] == 0.5 and groups["semantic: attr"] == 0
    assert {"questionId": "201307251", "prediction": "no"} in json.loads((tmp_path / "s.json").read_text())


def test_textvqa_shows_ocr_tokens_if_asked_to(tmp_path):
    plain = fixture("textvqa", tmp_path)
    shown = make("textvqa", plain.root, ocr="TextVQA_Rosetta_OCR_v0.2_val.json")
    texts = [[text for _, text in dataset.read_questions(STORAGE)] for dataset in (plain, shown)]
    assert texts[0][0] == "What is the brand?"
    assert texts[1][0] == "What is the brand?\nReference OCR token: DAKOTA, DIGITAL"


def test_scienceqa_asks_two_blanks_as_one(tmp_path):
    """Official: none of LLaVA's 4,241 prompts has two blanks, some 1 % of the problems have."""
    dataset = fixture("scienceqa_img", tmp_path)
    path = Path(dataset.root) / "problems.json"
    problems = json.loads(path.read_text())
    problems["4"] |= {"question": "The  is adapted   to be hidden.", "choices": ["an  owl", "a cow"]}
    path.write_text(json.dumps(problems))
    (text, choices), *_ = [(text, ref.choices) for ref, text in dataset.read_questions(STORAGE)]
    assert (
        text == "The is adapted  to be hidden.\nA. an owl\nB. a cow"
    )  # replaced once, not until none is left
    assert choices == ("an  owl", "a cow")


def test_scienceqa_skips_questions_without_an_image(tmp_path):
    dataset = fixture("scienceqa_img", tmp_path)
    texts = dict((reference.question_id, text) for reference, text in dataset.read_questions(STORAGE))
    assert texts == {
        "4": "Which is a solid?\nA. ice\nB. steam",
        "11": "Context: The picture shows water.\nWhich is a solid?\nA. ice\nB. steam",
    }
    predictions = {"4": "A", "11": "It is ice."}
    evaluation = scored(
        dataset, official.answer(dataset, tmp_path / "out" / "o", lambda q, _: predictions[q])
    )
    assert values(evaluation["figures"]) == {"accuracy": 0.5, "accuracy_vlmeval": 1.0}


def test_pope(tmp_path):
    dataset = fixture("pope", tmp_path)
    right = truth(dataset)
    assert set(right) == {f"random/{i}" for i in (1, 2)} | {f"popular/{i}" for i in (1, 2, 3)} | {
        "adversarial/1"
    }
    evaluation = scored(
        dataset, official.answer(dataset, tmp_path / "out" / "o", lambda *_: "Yes, there is.")
    )
    figures = values(evaluation["figures"])
    assert figures["yes_ratio"] == 1 and figures["recall"] == 1
    assert figures["precision"] == figures["accuracy"] == pytest.approx(2 / 6)
    groups = {name: values(group["figures"]) for name, group in evaluation["groups"].items()}
    assert groups["random"]["f1"] == pytest.approx(2 / 3)
    assert groups["popular"]["f1"] == pytest.approx(1 / 2)
    assert figures["f1_mean_of_categories"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_mme(tmp_path):
    dataset = fixture("mme", tmp_path)
    texts = {reference.question_id: text for reference, text in dataset.read_questions(STORAGE)}
    assert texts["OCR/0001#1"] == "Is it Yes?" and len(texts) == 8
    right = truth(dataset)
    predictions = {**right, "OCR/0001#2": "Yes", "code_reasoning/0001#1": "I'd say yes"}
    evaluation = scored(
        dataset, official.answer(dataset, tmp_path / "out" / "o", lambda q, _: predictions[q])
    )
    groups = {name: values(group["figures"]) for name, group in evaluation["groups"].items()}
    assert groups["OCR"] == pytest.approx({"accuracy": 0.75, "accuracy_plus": 0.5, "score": 125})
    assert groups["artwork"]["score"] == 200
    assert groups["code_reasoning"] == pytest.approx({"accuracy": 0.5, "accuracy_plus": 0, "score": 50})
    figures = values(evaluation["figures"])
    assert (figures["perception"], figures["cognition"]) == pytest.approx((325, 50))
    assert evaluation["units"] == 4 and evaluation["scored"] == 8


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_mmbench(name, tmp_path):
    dataset = fixture(name, tmp_path)
    texts = {reference.question_id: text for reference, text in dataset.read_questions(STORAGE)}
    assert texts["2"] == "Look\nhere.\nWhat?\nA. up\nB. down"
    assert texts["1000001"] == "Which?\nA. dog\nB. cow\nC. cat"
    predictions = {"1": "A", "1000001": "C.", "2000001": "(B)", "2": "down", "1000002": "up"}
    output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: predictions[question])
    evaluation = scored(dataset, output)
    assert values(evaluation["figures"]) == pytest.approx(
        {"accuracy": 0.5, "accuracy_vanilla": 1.0, "accuracy_rows": 0.8}
    )
    assert evaluation["units"] == 2 and set(evaluation["groups"]) == {"ocr", "perception"}
    (converted,) = (tmp_path / "out" / "converted").glob("*.parquet")
    assert converted.stat().st_mtime == 0


@pytest.mark.parametrize(
    ("cell", "is_option"),
    [
        (cell, False)
        for cell in ("NA", "N/A", "n/a", "null", "NULL", "#N/A", "<NA>", "nan", "NaN", "None", "none")
    ]
    + [(cell, True) for cell in (" ", "na", "Null", "N.A.", "0", "nano", "-")],
)
def test_options_end_where_pandas_sees_a_missing_value(cell, is_option, tmp_path):
    import pandas as pd

    table = (
        f"index\tquestion\thint\tA\tB\tC\tD\tanswer\timage\n7\tWhich?\t{cell}\tup\tdown\t{cell}\tleft\tA\tx\n"
    )
    (tmp_path / "t.tsv").write_text(table)
    ((reference, text),) = make("mmbench", tmp_path, table="t.tsv").read_questions(STORAGE)
    official_row = pd.read_table(tmp_path / "t.tsv", dtype=str).iloc[0]
    if cell != "none":  # which LLaVA's is_none adds
        assert isinstance(official_row["C"], str) == is_option
    assert reference.choices == (("up", "down", cell, "left") if is_option else ("up", "down"))
    assert text.startswith(f"{cell}\nWhich?" if is_option else "Which?")


def test_seed_bench(tmp_path):
    dataset = fixture("seed_bench", tmp_path)
    predictions = {"101669": "A", "101670": "B.", "v18": "C"}
    output = official.answer(dataset, tmp_path / "out" / "o", lambda question, _: predictions[question])
    evaluation = scored(dataset, output, submission=str(tmp_path / "s.jsonl"))
    assert values(evaluation["figures"]) == pytest.approx({"accuracy": 2 / 3, "accuracy_vlmeval": 1.0})
    assert set(evaluation["groups"]) == {"image", "video", "Instances Counting", "Action Recognition"}
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 3
    images = make("seed_bench", dataset.root, kinds=["image"])
    assert {reference.question_id for reference in images.references(STORAGE)} == {"101669", "101670"}


def test_captions_of_another_task_are_matched_by_image(tmp_path):
    """`source=images task=caption` gives every question the id 0."""
    from pipeline.sources.images import Images
    from pipeline.sources.task import Task

    dataset = fixture("coco_caption", tmp_path)
    task = Task(prompts=["Describe the image."])
    (tmp_path / "o").mkdir()
    output = official.answer_source(
        Images(path=f"{dataset.root}/val2014"), task, tmp_path / "o", lambda *_: "a man rides a motorcycle"
    )
    evaluation = scored(dataset, output)
    assert evaluation["scored"] == 2 and values(evaluation["figures"])["bleu_1"] == pytest.approx(
        0.6 * math.exp(-0.1)
    )


def test_photographs_without_truth_are_not_scored(tmp_path):
    from pipeline.evaluate.datasets.scenes import Scenes

    root = official.write(
        tmp_path / "pictures",
        {
            "scenes/a.jpg": official.picture(1),
            "scenes/a.json": {
                "caption": "a small red ring",
                "questions": [
                    {"question_id": "a-0", "question": "What color?", "kind": "color", "answers": ["red"]}
                ],
            },
            "photographs/b.png": official.picture(2, "PNG"),
            "photographs/b.json": {"questions": ["Who is it?"]},
        },
    )
    dataset = Scenes(root=str(root))
    evaluation = scored(dataset, official.answer(dataset, tmp_path / "out" / "o", lambda *_: "Red."))
    assert evaluation["without_truth"] == 2 and evaluation["scored"] == 2
    assert values(evaluation["figures"]) == {"accuracy": 1.0, "caption_f1": 0.0}
    assert set(evaluation["groups"]) == {"color", "caption"}


def test_questions_of_an_image_are_grouped_up_to_64():
    from pipeline.evaluate.base import Reference
    from pipeline.evaluate.questions import request_lines

    questions = [(Reference(str(i), f"{'ab'[i % 2]}.jpg"), f"q{i}") for i in range(150)]
    rows = [json.loads(line) for line in request_lines(questions)]
    assert sorted(int(row["question_id"]) for row in rows) == list(range(150))
    assert [row["image"] for row in rows] == ["a.jpg"] * 64 + ["b.jpg"] * 64 + ["a.jpg"] * 11 + ["b.jpg"] * 11


def test_a_repeated_conversion_gives_the_same_file(tmp_path):
    dataset = fixture("pope", tmp_path)
    source = dataset.source(str(tmp_path / "converted"), STORAGE)
    first = [*source.shards(files_of(source, STORAGE), STORAGE)]
    Path(source.path).unlink()
    assert dataset.source(str(tmp_path / "converted"), STORAGE) == source
    assert [*source.shards(files_of(source, STORAGE), STORAGE)] == first
