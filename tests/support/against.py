"""Answer requests with Trimline, without Ray, and with transformers, to compare them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pipeline.run.in_process import run_in_process
from tests.support.commands import compose

LONG = "What is there beside the " + ", the ".join(["cup", "table", "cat", "tree", "old clock"] * 40) + "?"
QUESTIONS = ["What is shown in the picture?", "How many people are there?", "Color?", LONG]


def write_requests(
    folder: Path, photographs: Sequence[Image.Image], questions: Sequence[str] = QUESTIONS
) -> Path:
    """Write two pictures, and a JSON lines file that asks each question about both."""
    for number in range(2):
        photographs[number].convert("RGB").resize((400, 300)).save(folder / f"{number}.png")
    lines = [
        {"question_id": f"{number}-{index}", "image": f"{number}.png", "text": text}
        for number in range(2)
        for index, text in enumerate(questions)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def options(root: Path, requests: Path, *more: str) -> list[str]:
    """Return the overrides of a run of the checkpoint in `root` over the requests; later ones win."""
    given = (
        *("source=jsonl", f"source.path={requests}/q.jsonl", f"source.image_root={requests}"),
        *("task=vqa", "task.suffix=''", "reducer=full", "model=random", "device=cpu"),
        *(f"model.path={root}/llava", f"model.clip={root}/clip", "decoding.max_new_tokens=8"),
        *(f"output={root}/out", *more),
    )
    return list({override.partition("=")[0]: override for override in given}.values())


def rows_of(root: Path, requests: Path, *more: str) -> dict[str, dict[str, Any]]:
    """Answer with Trimline; returns the rows by question_id."""
    config = compose(*options(root, requests, *more))
    run_in_process(config)
    files = sorted(Path(config.options.output).glob("data/*.parquet"))
    return {row["question_id"]: row for file in files for row in pq.read_table(file).to_pylist()}


def answers_of(root: Path, requests: Path, *more: str) -> dict[str, str]:
    """Answer with Trimline: prediction by question_id; every row must be ok."""
    rows = rows_of(root, requests, *more)
    assert {row["status"] for row in rows.values()} == {"ok"}, [row["error"] for row in rows.values()]
    return {name: row["prediction"] for name, row in rows.items()}


def library_answers(root: Path, requests: Path, template: str, **generation: object) -> dict[str, str]:
    """Answer with transformers, one request at a time."""
    llava = root / "llava"
    model = LlavaForConditionalGeneration.from_pretrained(llava, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(llava)
    processor.patch_size, processor.num_additional_image_tokens = 14, 1
    processor.vision_feature_select_strategy = "default"
    answers = {}
    for line in (requests / "q.jsonl").read_text().splitlines():
        request = json.loads(line)
        image = Image.open(requests / request["image"])
        text = template.replace("{question}", request["text"])
        inputs = processor(images=image, text=text, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=8, **{"do_sample": False} | generation)
        new = ids[0][inputs["input_ids"].shape[1] :]
        answers[request["question_id"]] = processor.decode(new, skip_special_tokens=True).strip()
    return answers
