"""Chooses the text that CLIP embeds for a request; reducers such as TRIM compare patches with it."""

import re
from dataclasses import dataclass

from pipeline.models.config import fill_template
from pipeline.support.fields import counted, require

TEXTS = ("question", "bare", "prompt", "words")
LONG = ("cut", "windows")

# Words that name nothing visible. Without them, a question resembles a caption.
_FUNCTION_WORDS = """
a an the this that these those it its and or not no of in on at to from with by for as than about into
is are was were be been being am do does did has have had can could will would shall should may might
what which who whom whose where when why how there here many much any some each other
i you he she we they me him her us them my your his our their
describe tell name give please answer question using single word phrase sentence one briefly
image picture photo photograph
"""


@dataclass(frozen=True, kw_only=True)
class ClipText:
    """Configures the text that CLIP embeds for a request.

    Args:
        text: `question`, as in TRIM's published code: with its answer-format suffix, without the prompt
            around it; `bare`: without `task.suffix`; `prompt`: the language model's whole prompt;
            `words`: the words of the bare question that name things (all words, if none does).
        long: how to treat texts of more than CLIP's 77 tokens. `cut`: truncate them, as the published code
            does; `windows`: split them, and average the embeddings of the pieces.
    """

    text: str = counted("question")
    long: str = counted("cut")

    def __post_init__(self) -> None:
        require(self.text in TEXTS, f"clip_text.text: {self.text!r} is none of {TEXTS}")
        require(self.long in LONG, f"clip_text.long: {self.long!r} is none of {LONG}")

    def of(self, question: str, *, suffix: str, template: str) -> str:
        """Return the text for one question, with a blank in place of `<image>`."""
        if self.text == "prompt":
            question = fill_template(template, question)
        elif self.text != "question":
            question = question.removesuffix(suffix)
        if self.text == "words":
            words = re.findall(r"\w+(?:['’-]\w+)*", question.replace("<image>", " "))
            function_words = set(_FUNCTION_WORDS.split())
            question = " ".join(word for word in words if word.lower() not in function_words) or question
        return question.replace("<image>", " ")
