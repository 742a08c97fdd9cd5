"""Makes the requests of a sample: fixed prompts, the source's own questions, or both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # a row's columns differ in type

from pipeline.sources.base import Question, Sample, Want
from pipeline.support.errors import BadQuestion, BadSample
from pipeline.support.fields import counted, require

IMAGE_TOKEN = "<image>"
# How data sets ask for a short answer, in a question's last line: "... single word or phrase", "... letter".
_SHORT = re.compile(r"\b(answer|respond|reply)\b.*\b(words?|phrase|letters?|number|yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Configures the questions for each sample: fixed prompts, the source's own questions, or both.

    `suffix`, an answer-format instruction, is appended to each of the source's questions, such as
    "\\nAnswer the question using a single word or phrase."
    """

    prompts: list[str] = counted(default_factory=list)
    source_questions: bool = counted(False)
    suffix: str = counted("")

    def __post_init__(self) -> None:
        require(bool(self.prompts) or self.source_questions, "task: no prompts, and source_questions is off")
        require(all(prompt.strip() for prompt in self.prompts), "task.prompts must not hold an empty prompt")
        for prompt in self.prompts:
            asked = _asked(Question("", prompt), "")
            require(asked.fault is None, f"task.prompts: {prompt[:80]!r}: {asked.fault}")
            require(bool(asked.text), f"task.prompts: {prompt[:80]!r} asks nothing")

    @property
    def wanted(self) -> Want:
        """What the task asks for of a sample: without the source's questions nobody need read them."""
        return Want.ALL if self.source_questions else Want.IMAGE

    def most_questions(self, max_questions: int) -> int:
        """Return the most rows that a sample can have."""
        return max_questions if self.source_questions else len(self.prompts)

    def questions(self, sample: Sample, max_questions: int) -> tuple[Question, ...]:
        """Return the questions to ask of a sample, each with a name.

        Raises:
            DataFault: the sample as a whole is at fault, has no question or has too many.
        """
        questions = [_asked(Question("", prompt), "") for prompt in self.prompts]
        if self.source_questions:
            questions += [_asked(item, self.suffix) for item in sample.questions]
        fault = sample.fault
        if self.source_questions and fault is None and sample.question_fault is not None:
            if self.prompts:  # these can be asked; one row says why there is no more
                questions = [*questions[: len(self.prompts)], Question("", "", str(sample.question_fault))]
            else:
                questions, fault = [], sample.question_fault
        if fault is not None and not questions:
            raise fault
        if not questions:
            raise BadQuestion("the sample has no question")
        if len(questions) > max_questions:
            raise BadSample(f"{len(questions)} questions are more than max_questions={max_questions}")
        return tuple(
            question if question.question_id else Question(str(index), question.text, question.fault)
            for index, question in enumerate(questions)
        )


def _asked(question: Question, suffix: str) -> Question:
    """Prepare a question: strip an `<image>` at its beginning or end, and add the suffix.

    The prompt brings its own. So does LLaVA (preprocess_multimodal in llava/train/train.py). Within the text
    the mark is no image; the model is given a blank.
    """
    text = question.text
    if IMAGE_TOKEN in text:
        if (count := text.count(IMAGE_TOKEN)) > 1:
            fault = f"the question has {IMAGE_TOKEN} {count} times, and there is one image"
            return Question(question.question_id, text, fault)
        ends = text.strip()
        if ends.startswith(IMAGE_TOKEN) or ends.endswith(IMAGE_TOKEN):
            text = ends.removeprefix(IMAGE_TOKEN).removesuffix(IMAGE_TOKEN).strip()
    return Question(question.question_id, text + suffix if text.strip() else text)


def requests_of(shard: int, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return key, question_id, question and fault of each request of a row of SAMPLES or IMAGES.

    A sample without questions is one request, too: its output row says why it has none.
    """
    questions = row["questions"] or [{"question_id": "0", "question": "", "fault": None}]
    return [
        {**question, "key": request_key(shard, row["sample"], number)}
        for number, question in enumerate(questions)
    ]


def request_key(shard: int, sample: int, number: int) -> str:
    """Return the key of a sample's question `number`: unique within an output."""
    return f"{shard:06d}-{sample:08d}-{number:04d}"


def kind_of_answer(question: str, prompts: Sequence[str]) -> str:
    """Name the kind of answer that a question asks for; those of one kind are of like length.

    Each of the task's fixed prompts is a kind. The source's questions are one kind, and another where their
    last line asks for a word, a phrase or a letter.
    """
    if question in prompts:
        return f"prompt {list(prompts).index(question)}"
    last_line = question.strip().rpartition("\n")[2]
    return "short" if _SHORT.search(last_line) else "question"
