"""Writes small data sets in the official file formats, and outputs that answer them."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.output.footers import FOOTER
from pipeline.output.manifest import make_manifest, require_same_run
from pipeline.output.plan_growth import make_plan
from pipeline.output.units import Unit
from pipeline.sources.base import Want
from pipeline.storage.uris import Storage
from pipeline.support.schema import PREDICTIONS

STORAGE = Storage()


def picture(number: int = 0, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number * 7 % 256, 99, 30)).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: dict[str, Any]) -> Path:
    """Write files below a folder: bytes and texts unchanged, everything else as JSON."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (root / name).write_bytes(content)
    return root


def lines(*items: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def answer(dataset: Any, output: Path, say: Callable[[str, str], Any], **rows: Any) -> Path:
    """Write an output for the dataset's own source and task.

    `say(question_id, question)` gives the predictions. A prediction of None is a `failed` row. Units hold
    three samples. `rows`: `double` and `drop` are indices; the answers of more than `longest` characters were
    cut off.
    """
    output.mkdir(parents=True, exist_ok=True)
    source, task = dataset.source(str(output.parent / "converted"), STORAGE), dataset.task()
    return answer_source(source, task, output, say, **rows)


def answer_source(
    source: Any, task: Any, output: Path, say: Any, double: int = -1, drop: int = -1, longest: int = 1000
) -> Path:
    manifest = make_manifest(str(output), {"made": "by hand", "decoding": {"max_new_tokens": longest}}, {})
    plan = make_plan(str(output), source, None, STORAGE)
    require_same_run(str(output), manifest, STORAGE)
    (output / "data").mkdir()
    number = 0
    for shard in plan.shards(STORAGE):
        samples = list(source.samples(shard, STORAGE, lambda _: Want.ALL))
        for first in range(0, max(len(samples), 1), 3):
            batch = samples[first : first + 3]
            rows = []
            for index, sample in enumerate(batch, first):
                assert sample.fault is None, sample.fault
                for place, question in enumerate(task.questions(sample, 1000)):
                    key = f"{shard.shard:06d}-{index:08d}-{place:04d}"
                    copies = 2 if number == double else 0 if number == drop else 1
                    rows += [_row(key, sample, index, question, say, longest)] * copies
                    number += 1
            unit = Unit(shard.shard, first, first + len(batch), first + 3 >= len(samples))
            table = pa.Table.from_pylist(rows, schema=PREDICTIONS.with_metadata({FOOTER: b"{}"}))
            pq.write_table(table, output / "data" / unit.file_name)
    return output


def _row(key: str, sample: Any, index: int, question: Any, say: Any, longest: int) -> dict[str, Any]:
    prediction = say(question.question_id, question.text)
    return {
        **{"key": key, "sample_key": sample.key, "question_id": question.question_id, "source": "s"},
        **{"sample": index, "question": question.text, "prediction": prediction},
        "status": "failed" if prediction is None else "ok",
        "finish_reason": prediction and ("length" if len(prediction) > longest else "stop"),
        **{"model": "llava", "reducer": "trim", "run_id": "r"},
    }


def vqav2(root: Path) -> Path:
    def annotated(number: int, kind: str, *answers: str) -> dict[str, Any]:
        entries = [
            {"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(answers)
        ]
        image = {"question_id": number, "image_id": number // 1000}
        return {**image, "answer_type": kind, "question_type": "is", "answers": entries}

    questions = [("Is it red?", 9001000), ("How many dogs?", 9001001), ("What is it?", 42002)]
    return write(
        root,
        {
            "v2_OpenEnded_mscoco_val2014_questions.json": {
                "info": {},
                "data_subtype": "val2014",
                "questions": [
                    {"image_id": number // 1000, "question": text, "question_id": number}
                    for text, number in questions
                ],
            },
            "v2_mscoco_val2014_annotations.json": {
                "info": {"version": "2.0"},
                "annotations": [
                    annotated(42002, "other", *["t-shirt"] * 8, "shirt", "top"),
                    annotated(9001000, "yes/no", *["yes"] * 10),
                    annotated(9001001, "number", *["3"] * 8, *["2"] * 2),
                ],
            },
            "val2014/COCO_val2014_000000009001.jpg": picture(1),
            "val2014/COCO_val2014_000000000042.jpg": picture(2),
        },
    )


def gqa(root: Path) -> Path:
    def item(image: str, text: str, answer_text: str, structural: str, semantic: str) -> dict[str, Any]:
        types = {"structural": structural, "semantic": semantic, "detailed": "x"}
        return {"imageId": image, "question": text, "answer": answer_text, "isBalanced": True, "types": types}

    return write(
        root,
        {
            "testdev_balanced_questions.json": {
                "201307251": item("n161313", "Is it overcast?", "no", "verify", "global"),
                "201640614": item("n235859", "Who is wearing the dress?", "woman", "query", "rel"),
                "202225914": item("n161313", "Which color is the sky?", "gray", "query", "attr"),
            },
            "images/n161313.jpg": picture(1),
            "images/n235859.jpg": picture(2),
        },
    )


def vizwiz(root: Path) -> Path:
    def item(number: int, text: str, kind: str, answers: list[str]) -> dict[str, Any]:
        entries = [{"answer": answer_text, "answer_confidence": "yes"} for answer_text in answers]
        name = f"VizWiz_val_{number:08d}.jpg"
        answerable = int(kind != "unanswerable")
        return {
            "image": name,
            "question": text,
            "answers": entries,
            "answer_type": kind,
            "answerable": answerable,
        }

    return write(
        root,
        {
            "val.json": [
                item(0, "What is this?", "other", ["soda can"] * 10),
                item(1, "What color?", "unanswerable", ["unanswerable"] * 7 + ["grey"] * 3),
                item(2, "Is it on?", "yes/no", ["yes"] * 10),
            ],
            "test.json": [{"image": "VizWiz_test_00000000.jpg", "question": "Can you tell me?"}],
            **{f"val/VizWiz_val_{number:08d}.jpg": picture(number) for number in range(3)},
            "test/VizWiz_test_00000000.jpg": picture(3),
        },
    )


def textvqa(root: Path) -> Path:
    def item(number: int, image: str, text: str, answer_text: str) -> dict[str, Any]:
        classes = {"image_classes": [], "image_width": 1024, "set_name": "val"}
        return {
            "question": text,
            "image_id": image,
            "question_id": number,
            "answers": [answer_text] * 10,
            **classes,
        }

    return write(
        root,
        {
            "TextVQA_0.5.1_val.json": {
                "dataset_type": "val",
                "data": [
                    item(34602, "003a8ae2ef43b901", "what is the brand?", "dakota"),
                    item(34603, "0c6d1a2b3c4d5e6f", "what time is it?", "10:30"),
                ],
            },
            "TextVQA_Rosetta_OCR_v0.2_val.json": {
                "data": [{"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL"]}]
            },
            "train_images/003a8ae2ef43b901.jpg": picture(1),
            "train_images/0c6d1a2b3c4d5e6f.jpg": picture(2),
        },
    )


def scienceqa(root: Path) -> Path:
    def item(image: str | None, hint: str, answer_index: int) -> dict[str, Any]:
        metadata = {
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "biology",
        }
        text = {
            "question": "Which is a solid?",
            "choices": ["ice", "steam"],
            "answer": answer_index,
            "hint": hint,
        }
        return {**text, "image": image, **metadata, "lecture": "", "solution": "", "split": "test"}

    return write(
        root,
        {
            "problems.json": {
                "4": item("image.png", "", 0),
                "5": item(None, "", 0),
                "11": item("image.png", "The picture shows water.", 0),
                "12": item("image.png", "", 1),
            },
            "pid_splits.json": {"train": ["12"], "val": [], "test": ["4", "5", "11"]},
            "images/test/4/image.png": picture(4, "PNG"),
            "images/test/11/image.png": picture(5, "PNG"),
        },
    )


def pope(root: Path) -> Path:
    def questions(*labels: str) -> str:
        image = "COCO_val2014_000000310196.jpg"
        return lines(
            *(
                {"question_id": number, "image": image, "text": f"Is there a thing {number}?", "label": label}
                for number, label in enumerate(labels, 1)
            )
        )

    return write(
        root,
        {
            "coco/coco_pope_random.json": questions("yes", "no"),
            "coco/coco_pope_popular.json": questions("yes", "no", "no"),
            "coco/coco_pope_adversarial.json": questions("no"),
            "val2014/COCO_val2014_000000310196.jpg": picture(1),
        },
    )


def mme(root: Path) -> Path:
    def text(*answers: str) -> str:
        return "\n".join(f"Is it {label}?  Please answer yes or no.\t{label}" for label in answers) + "\n"

    return write(
        root,
        {
            "OCR/0001.jpg": picture(1),
            "OCR/0001.txt": text("Yes", "No"),
            "OCR/0002.jpg": picture(2),
            "OCR/0002.txt": text("Yes", "No"),
            "artwork/images/10002.jpg": picture(3),
            "artwork/questions_answers_YN/10002.txt": text("Yes", "No"),
            "code_reasoning/0001.png": picture(4, "PNG"),
            "code_reasoning/0001.txt": text("Yes", "No"),
            "eval_tool/Your_Results/OCR.txt": "0001.jpg\tIs it?\tYes\n",
            "eval_tool/readme.txt": "not a subtask",
        },
    )


def mmbench(root: Path, name: str = "mmbench_dev_20230712.tsv") -> Path:
    """Question 1 in three rotations, question 2 in two; the image of question 2 is that of question 1."""
    columns = ["index", "question", "hint", *"ABCD", "answer"]
    metadata = {"category": "ocr", "l2-category": "perception", "source": "x", "comment": "", "split": "dev"}
    rows = [
        {"index": 1, "question": "Which?", "hint": "", "A": "cat", "B": "dog", "C": "cow", "answer": "A"},
        {"index": 2, "question": "What?", "hint": "Look\nhere.", "A": "up", "B": "down", "answer": "B"},
        {
            "index": 1000001,
            "question": "Which?",
            "hint": "",
            "A": "dog",
            "B": "cow",
            "C": "cat",
            "answer": "C",
        },
        {
            "index": 2000001,
            "question": "Which?",
            "hint": "",
            "A": "cow",
            "B": "cat",
            "C": "dog",
            "answer": "B",
        },
        {"index": 1000002, "question": "What?", "hint": "Look\nhere.", "A": "down", "B": "up", "answer": "A"},
    ]
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, [*columns, "image", *metadata], delimiter="\t")
    table.writeheader()
    for row in rows:
        image = base64.b64encode(picture(row["index"] % 10)).decode() if row["index"] != 2 else "1"
        table.writerow({**metadata, **row, "image": image})
    return write(root, {name: buffer.getvalue()})


def mmbench_cn(root: Path) -> Path:
    return mmbench(root, "mmbench_dev_cn_20231003.tsv")


def seed_bench(root: Path) -> Path:
    def item(number: str, kind: str, data: str, type_id: int, letter: str) -> dict[str, Any]:
        choices = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
        names = {"data_id": data, "data_type": kind, "question_id": number, "question_type_id": type_id}
        return {"answer": letter, **choices, **names, "question": "How many towels are in the image?"}

    return write(
        root,
        {
            "SEED-Bench.json": {
                "questions": [
                    item("101669", "image", "1454426_2591111986", 5, "A"),
                    item("101670", "image", "1454426_2591111986", 5, "B"),
                    item("v18", "video", "v_18.mp4", 10, "C"),
                ],
                "question_type": {"Instances Counting": 5, "Action Recognition": 10},
            },
            "SEED-Bench-image/1454426_2591111986": picture(1),
            "SEED-Bench-video-image/10_v18.png": picture(2, "PNG"),
        },
    )


def llava_bench(root: Path) -> Path:
    return write(
        root,
        {
            "questions.jsonl": lines(
                {"question_id": 0, "image": "001.jpg", "text": "What is the name?", "category": "conv"},
                {"question_id": 1, "image": "001.jpg", "text": "Describe it.", "category": "detail"},
            ),
            "images/001.jpg": picture(1),
        },
    )


def mm_vet(root: Path) -> Path:
    def item(image: str, answer_text: str) -> dict[str, Any]:
        metadata = {"imagesource": "https://x", "capability": ["ocr", "math"]}
        return {
            "imagename": image,
            "question": "What is x in the equation?",
            "answer": answer_text,
            **metadata,
        }

    return write(
        root,
        {
            "mm-vet.json": {"v1_0": item("v1_0.png", "-1<AND>-5"), "v1_1": item("v1_1.png", "1.25<OR>5/4")},
            "images/v1_0.png": picture(1, "PNG"),
            "images/v1_1.png": picture(2, "PNG"),
        },
    )


def coco_caption(root: Path) -> Path:
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in (42, 73)]
    texts_by_image = {42: ["a man rides a motorcycle", "a man on a bike"], 73: ["two cats sleep on a sofa"]}
    captions = [
        {"image_id": image, "id": 7, "caption": text}
        for image, texts in texts_by_image.items()
        for text in texts
    ]
    return write(
        root,
        {
            "annotations/captions_val2014.json": {"info": {}, "images": images, "annotations": captions},
            **{f"val2014/COCO_val2014_{number:012d}.jpg": picture(number) for number in (42, 73)},
        },
    )


def scenes(root: Path) -> Path:
    from pipeline.demo.scenes import write_shards

    list(write_shards(str(root), samples=4, samples_per_shard=3, split="val", seed=0, storage=STORAGE))
    return root
