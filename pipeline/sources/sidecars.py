"""Assembles a sample from its image and its sidecars, `.json` or `.txt`."""

from collections.abc import Mapping

from pipeline.sources.base import IMAGE_SUFFIXES, Question, Sample
from pipeline.sources.questions import (
    Keys,
    decode_text,
    one_question,
    parse_object,
    parse_questions,
    several_questions,
)
from pipeline.support.errors import BadQuestion, BadSample, DataFault

SIDECARS = ("json", "txt")


def sidecar_questions(data: bytes, keys: Keys | None = None) -> tuple[Question, ...]:
    """Parse the questions of a sample's JSON sidecar: `question`, or `questions` as a list.

    Raises:
        DataFault: it is not a JSON object, or its questions are not of the documented form.
    """
    tree, keys = parse_object(data, "sidecar"), keys or Keys()
    several = several_questions(tree, "sidecar", keys)
    return several if several is not None else one_question(tree, "sidecar", keys, ("question",)) or ()


def text_question(data: bytes) -> tuple[Question, ...]:
    """Return the question in a sample's .txt sidecar, or none if it is blank."""
    try:
        text = decode_text(data).strip()
    except UnicodeDecodeError:
        raise BadQuestion("the .txt sidecar is neither UTF-8 nor Latin-1") from None
    return parse_questions([text]) if text else ()


def assemble(
    key: str,
    position: int,
    parts: Mapping[str, bytes | DataFault],
    taken: tuple[int, int] = (0, 0),
    keys: Keys | None = None,
) -> Sample:
    """Assemble a sample from its files by suffix, each its bytes or why they could not be read.

    Without the sidecars, because they were not wanted, it has no questions.
    """
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in parts]
    suffixes = ", ".join("." + suffix for suffix in (images or IMAGE_SUFFIXES))
    image = parts[images[0]] if images else BadSample(f"the sample has no image ({suffixes})")
    if len(images) > 1:
        image = BadSample(f"the sample has {len(images)} images: {suffixes}")
    questions, question_fault = _questions(parts, keys)
    return Sample(
        key=key,
        position=position,
        image=image if isinstance(image, bytes) else None,
        questions=questions,
        fault=image if isinstance(image, DataFault) else None,
        question_fault=question_fault,
        taken=taken,
    )


def _questions(
    parts: Mapping[str, bytes | DataFault], keys: Keys | None
) -> tuple[tuple[Question, ...], DataFault | None]:
    """Read the questions of the first sidecar that has some, and the first fault of a sidecar."""
    questions: tuple[Question, ...] = ()
    faults = []
    for kind in SIDECARS:
        data = parts.get(kind)
        try:
            if isinstance(data, DataFault):
                raise data
            if data is not None and not questions:
                questions = sidecar_questions(data, keys) if kind == "json" else text_question(data)
        except DataFault as fault:
            faults.append(fault)
    return questions, faults[0] if faults else None
