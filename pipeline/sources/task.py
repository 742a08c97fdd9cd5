"""Makes the requests of a sample: fixed prompts, the source's own questions, or both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any  # a row's columns differ in type

from pipeline.sources.base import Question, Sample
from pipeline.support.errors import BadQuestion, BadSample
from pipeline.support.fields import counted, require


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

    def most_questions(self, max_questions: int) -> int:
        """Return the most rows that a sample can have."""
        return max_questions if self.source_questions else len(self.prompts)

    def questions(self, sample: Sample, max_questions: int) -> tuple[Question, ...]:
        """Return the questions to ask of a sample, each with a name.

        Raises:
            DataFault: the sample as a whole is at fault, has no question or has too many.
        """
        questions = [Question("", prompt) for prompt in self.prompts]
        if self.source_questions:
            questions += [Question(item.question_id, item.text + self.suffix) for item in sample.questions]
        if sample.fault is not None and not questions:
            raise sample.fault
        if not questions:
            raise BadQuestion("the sample has no question")
        if len(questions) > max_questions:
            raise BadSample(f"{len(questions)} questions are more than max_questions={max_questions}")
        return tuple(
            Question(question.question_id or str(index), question.text)
            for index, question in enumerate(questions)
        )


def requests_of(shard: int, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return key, question_id and question of each request of a row of SAMPLES or IMAGES.

    A sample without questions is one request, too: its output row says why it has none.
    """
    questions = row["questions"] or [{"question_id": "0", "question": ""}]
    return [
        {**question, "key": request_key(shard, row["sample"], number)}
        for number, question in enumerate(questions)
    ]


def request_key(shard: int, sample: int, number: int) -> str:
    """Return the key of a sample's question `number`: unique within an output."""
    return f"{shard:06d}-{sample:08d}-{number:04d}"
