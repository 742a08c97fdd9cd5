"""Parses the questions of a sample from a JSON object or a text, within bounds."""

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.sources.base import Question
from pipeline.support.errors import BadQuestion, BadSample

MAX_SIDECAR_BYTES = 4 << 20  # parsed JSON takes some thirty times as much memory
MAX_QUESTIONS = 10_000
MAX_QUESTION_CHARACTERS = 1 << 20  # of all questions of one sample and their names
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Keys:
    """Names the keys of a JSON object that hold its questions; None: the usual ones."""

    question: str | None = None
    questions: str | None = None
    question_id: str | None = None


def decode_text(data: bytes) -> str:
    """Decode text by its byte-order mark, else as UTF-8, else as Latin-1 (Windows-1252).

    Raises:
        UnicodeDecodeError: it is neither.
    """
    if data.startswith(_UTF16):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def parse_object(data: bytes, name: str) -> dict[str, object]:
    """Parse a JSON object; BadSample, calling it `name`, if it is something else."""
    try:
        tree = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the {name} is not JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict):
        raise BadSample(f"the {name} is JSON but not an object: {type(tree).__name__}")
    return tree


def one_question(
    tree: Mapping[str, object], name: str, keys: Keys, usual: tuple[str, ...]
) -> tuple[Question, ...] | None:
    """Read the question of an object that is called `name`; None: it has none. A null counts as absent.

    Args:
        usual: the keys that may hold it, unless `keys` names one.

    Raises:
        BadQuestion: a key that `keys` names is missing.
        BadSample: the question is no text.
    """
    if keys.question is None and keys.questions is not None:
        return None
    text = _value(tree, name, keys.question, usual)
    if text is None:
        return None
    question_id = _value(tree, name, keys.question_id, ("question_id",))
    return parse_questions([{"question": text, "question_id": question_id}])


def several_questions(tree: Mapping[str, object], name: str, keys: Keys) -> tuple[Question, ...] | None:
    """Read the list of questions of an object, as `one_question` reads one."""
    if keys.questions is None and keys.question is not None:
        return None
    items = _value(tree, name, keys.questions, ("questions",))
    return None if items is None else parse_questions(items, keys.question_id)


def _value(tree: Mapping[str, object], name: str, key: str | None, usual: tuple[str, ...]) -> object:
    """Return the value of the named key, or of the first usual one that is not null."""
    if key is None:
        return next((tree[usual_key] for usual_key in usual if tree.get(usual_key) is not None), None)
    if key not in tree:
        raise BadQuestion(f"the {name} has no {key!r}")
    return tree[key]


def parse_questions(items: object, id_key: str | None = None) -> tuple[Question, ...]:
    """Make questions of a list of texts or of `{question_id, question}`; a null is absent.

    Args:
        id_key: what the user calls `question_id`.

    Raises:
        BadSample: it is neither.
        BadQuestion: an object lacks `id_key`.
    """
    if not isinstance(items, list):
        raise BadSample(f"the questions are not a list: {type(items).__name__}")
    if len(items) > MAX_QUESTIONS:
        raise BadSample(f"{len(items)} questions are more than {MAX_QUESTIONS}")
    questions = tuple(_question(item, id_key) for item in items if item is not None)
    characters = sum(map(question_characters, questions))
    if characters > MAX_QUESTION_CHARACTERS:
        raise BadSample(f"the questions are too long: {characters} characters")
    return questions


def question_characters(question: Question) -> int:
    """Return how much a question counts against MAX_QUESTION_CHARACTERS."""
    return len(question.question_id) + len(question.text)


def _question(item: object, id_key: str | None) -> Question:
    if isinstance(item, str):
        return Question("", item)
    if not isinstance(item, dict):
        raise BadSample("a question is neither text nor an object with a text `question`")
    text = item.get("question")
    if text is not None and not isinstance(text, str):
        raise BadSample("a question is neither text nor an object with a text `question`")
    if id_key is not None and id_key not in item:
        raise BadQuestion(f"a question has no {id_key!r}")
    name = item.get(id_key or "question_id")
    if isinstance(name, list | dict):
        raise BadSample("a question_id is neither text nor a number")
    return Question(id_text(name), text or "")


def id_text(name: object) -> str:
    """Write an id as text; "" if it has none.

    pandas makes floats of whole numbers where one is missing: 7.0 is written as 7, and NaN is none.
    """
    if name is None or name != name:
        return ""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return str(int(name)) if isinstance(name, float) and name.is_integer() else str(name)


def conversation_questions(turns: object, name: str) -> tuple[Question, ...]:
    """Make questions of the human turns of a conversation in LLaVA's training layout.

    Each is asked by itself, without the turns before it.

    Args:
        turns: a list of `{from, value}` or of `{role, content}`.
        name: the conversation's id; the turns of several are numbered from 0.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadSample("the conversations are not a list of {from, value}")
    asked = [
        turn.get("value", turn.get("content"))
        for turn in turns
        if turn.get("from", turn.get("role")) in ("human", "user")
    ]
    names = [name] if len(asked) == 1 else [name and f"{name}-{number}" for number in range(len(asked))]
    pairs = zip(asked, names, strict=True)
    return parse_questions([{"question": text, "question_id": own or None} for text, own in pairs])


def conversation_id(tree: Mapping[str, object], keys: Keys) -> str:
    """Return the id of a conversation; BadQuestion if the user named its key and it has none."""
    return id_text(_value(tree, "line", keys.question_id, ("id",)))
