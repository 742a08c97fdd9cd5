"""Normalises short answers as VQA's script (arXiv 1505.00468, vqaEval.py) and EvalAI's (TextVQA) do.

Both scripts share the tables and the two steps below; they differ in what they do before them.
"""

import re

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd
there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've
when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all
you'd you'll you're you've
"""
_MORE_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""
_GROUPED_DIGITS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the scripts pass re.UNICODE as the number of replacements


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


# A word without one of its apostrophes -> the word. "somebody'd" is the official tables' own error.
CONTRACTIONS = {
    lacking: word
    for word in (_ONE_APOSTROPHE + _MORE_APOSTROPHES).split()
    for lacking in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}


def one_line(text: str) -> str:
    """Replace line breaks and tabs by blanks, and strip the text."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Remove punctuation as the official scripts do.

    A mark is removed if the text has it beside a blank, or has a comma between digits anywhere; otherwise it
    becomes a blank. Then periods are removed unless a digit follows.
    """
    grouped = _GROUPED_DIGITS.search(text) is not None
    stripped = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_blank or grouped else " ")
    return _PERIOD.sub("", stripped, count=_MOST_PERIODS)


def plain_words(text: str) -> str:
    """Lower-case, write number words as digits, drop articles, restore apostrophes of contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_normal(text: str) -> str:
    """Normalise an answer as VQA's script does before comparing."""
    return plain_words(strip_punctuation(one_line(text)))


def evalai_normal(text: str) -> str:
    """Normalise an answer as EvalAI's processor: LLaVA's scripts submit this, TextVQA compares it."""
    lowered = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normal(lowered)
