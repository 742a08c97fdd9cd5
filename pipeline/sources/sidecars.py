"""Parses a sample's questions from JSON or text, and assembles a sample from its files."""

import json
from collections.abc import Mapping

from pipeline.sources.base import IMAGE_SUFFIXES, Question, Sample
from pipeline.support.errors import BadQuestion, BadSample, DataFault

MAX_SIDECAR_BYTES = 4 << 20  # parsed JSON takes some thirty times as much memory
MAX_QUESTIONS = 10_000
MAX_QUESTION_CHARACTERS = 1 << 20  # of all questions of one sample and their names


def parse_object(data: bytes, name: str) -> dict[str, object]:
    """Parse a JSON object; BadSample, calling it `name`, if it is something else."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the {name} is not JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict):
        raise BadSample(f"the {name} is JSON but not an object: {type(tree).__name__}")
    return tree


def sidecar_questions(data: bytes) -> tuple[Question, ...]:
    """Parse the questions of a sample's JSON sidecar: `question`, or `questions` as a list.

    Raises:
        BadSample: it is not a JSON object, or its questions are not of the documented form.
    """
    tree = parse_object(data, "sidecar")
    return parse_questions(tree.get("questions", [tree] if tree.get("question") is not None else []))


def parse_questions(items: object) -> tuple[Question, ...]:
    """Make questions of a list of texts or of `{question_id, question}`; BadSample if it is neither."""
    if not isinstance(items, list):
        raise BadSample(f"the questions are not a list: {type(items).__name__}")
    if len(items) > MAX_QUESTIONS:
        raise BadSample(f"{len(items)} questions are more than {MAX_QUESTIONS}")
    questions = tuple(_question(item) for item in items)
    characters = sum(map(question_characters, questions))
    if characters > MAX_QUESTION_CHARACTERS:
        raise BadSample(f"the questions are too long: {characters} characters")
    return questions


def question_characters(question: Question) -> int:
    """Return how much a question counts against MAX_QUESTION_CHARACTERS."""
    return len(question.question_id) + len(question.text)


def _question(item: object) -> Question:
    if isinstance(item, str):
        return Question("", item)
    if not isinstance(item, dict) or not isinstance(text := item.get("question", ""), str):
        raise BadSample("a question is neither text nor an object with a text `question`")
    name = item.get("question_id")
    if isinstance(name, list | dict):
        raise BadSample("a question_id is neither text nor a number")
    return Question("" if name is None else str(name), text)


def text_question(data: bytes) -> tuple[Question, ...]:
    """Return the question in a sample's .txt sidecar, or none if it is blank."""
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadQuestion("the .txt sidecar is not UTF-8") from None
    return parse_questions([text]) if text else ()


def assemble(
    key: str, position: int, parts: Mapping[str, bytes | DataFault], taken: tuple[int, int] = (0, 0)
) -> Sample:
    """Assemble a sample from its files by suffix, each its bytes or why they could not be read."""
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
    image = parts[images[0]] if images else BadSample("the sample has no image (.jpg, .jpeg, .png, .webp)")
    if len(images) > 1:
        image = BadSample(f"the sample has {len(images)} images: {', '.join('.' + name for name in images)}")
    questions: tuple[Question, ...] = ()
    faults = [image] if isinstance(image, DataFault) else []
    for suffix, parse in (("json", sidecar_questions), ("txt", text_question)):
        data = parts.get(suffix)
        try:
            if isinstance(data, DataFault):
                raise data
            if data is not None and not questions:
                questions = parse(data)
        except DataFault as fault:
            faults.append(fault)
    return Sample(
        key=key,
        position=position,
        image=image if isinstance(image, bytes) else None,
        questions=questions,
        fault=faults[0] if faults else None,
        taken=taken,
    )
