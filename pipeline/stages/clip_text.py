"""Chooses the text that CLIP embeds for a request; reducers such as TRIM compare patches with it."""

import re
from dataclasses import dataclass

from pipeline.models.config import fill_template
from pipeline.support.fields import counted, fingerprint_fields, require

TEXTS = ("question", "bare", "prompt", "words")
LONG = ("cut", "windows")
_WINDOWS_MEAN = "of directions; of raw embeddings in 0.1.0"  # an error shows it to whoever continues those

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

    What published code reads is in the docstrings of `trim.Trim` and `trim.CDPruner`.

    Args:
        text: `question`: with its answer-format suffix, without the prompt around it; `bare`: without
            `task.suffix`; `prompt`: the language model's whole prompt; `words`: the words of the bare
            question that name things (all words, if none does).
        long: how to treat texts of more than CLIP's 77 tokens. `cut`: truncate them; `windows`: split them,
            and average the directions of the pieces' embeddings (`Towers.encode_texts`).
    """

    text: str = counted("question")
    long: str = counted("cut")

    def __post_init__(self) -> None:
        require(self.text in TEXTS, f"clip_text.text: {self.text!r} is none of {TEXTS}")
        require(self.long in LONG, f"clip_text.long: {self.long!r} is none of {LONG}")

    def counted(self) -> dict[str, object]:
        """Collect what the fingerprint covers.

        Release 0.1.0 averaged windows otherwise, so `windows` has a mark besides; `cut` has none.
        """
        mark = {"windows_mean": _WINDOWS_MEAN} if self.long == "windows" else {}
        return {**fingerprint_fields(self), **mark}

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
