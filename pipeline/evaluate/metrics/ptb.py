"""Splits captions into tokens as coco-caption's PTBTokenizer (Stanford CoreNLP 3.4.1, which is Java).

The tokens of all 25,014 captions of COCO val2017 and of all 40,460 of Flickr8k are the published ones. What
comes out otherwise is rare in captions: smileys, telephone numbers, e-mail addresses, markup, and a fraction
after a number ("3 3/4"), one token there with a no-break space inside, which BLEU and CIDEr split again.
"""

import re

# Their full stop belongs to them, before a blank too. Those that are words in lower case need a capital.
_ABBREVIATIONS = """
jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri
ala ariz calif colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev okla penn tenn va vt
wis wisc wyo jr sr bros esq mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov
govs adm rev maj sgt cpl pvt mt capt st ste ave pres lieut hon brig cmdr comdr pfc spc supt det insp treas
msgr inc co cos corp pty ltd plc bancorp dept bhd assn univ intl sys ph rd blvd ft bldg sq tel est ext mfg
alex wm jos cie vs etc al cf
"""
_CAPITAL_ABBREVIATIONS = "Ark Del Ill La Mass Miss Pa Tex Wash"
# A single letter before one of these ends its sentence, and so does one at the end: the published tokenizer
# reads on into the next caption, and most captions begin with "A".
_BEGINNINGS = """
A An The There This These That It In At He She They We You Her Their Some Many One But If When While As
"""


def _one_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_CLITIC = re.compile(r"(n['’]t|['’](?:s|re|ve|ll|d|m))\b", re.IGNORECASE)
_PAIRS = re.compile(  # written as one word, two tokens
    r"(?<![\w/-])(?:(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|(can)(not)|('t)(is|was)|(more)('n))(?![\w/-])",
    re.IGNORECASE,
)
_LETTER, _ALNUM = r"[^\W\d_]", r"[^\W_]"
_TOKEN = re.compile(
    rf"""(?:https?://|www\.)\S*\w
      | (?i:n't|'(?:s|re|ve|ll|d|m))(?!\w)                    # clitics, which stand apart by now
      | '[Nn](?:'|(?!\w)) | (?<!\w)'(?i:t|em|till?|cause|\d0s)(?!\w)
      | [+-]?\d*+(?:[.:,]\d++)++(?:-{_LETTER}+)*               # 3.5, 10:30, 1,000-pound
      | (?:{_LETTER}\.)+{_LETTER}(?!{_ALNUM})\.?(?:-{_ALNUM}+)*   # u.s.a, p.m.
      | {_LETTER}\.(?![\w.] | \s*$ | \s+{_one_of(_BEGINNINGS)}\b)          # w. of "w. 5th"
      | (?:(?i:{_one_of(_ABBREVIATIONS)})|{_one_of(_CAPITAL_ABBREVIATIONS)})\.(?!\w)(?:-{_ALNUM}+)*
      | [Nn][Oo]s?\.(?=\s*\d)
      | [A-Z]+(?:[&+][A-Z]+)+                                 # R&B
      | (?i:[dol]'{_LETTER}{{2,}} | {_LETTER}+[aeiouy]'[aeiou]{_LETTER}*)    # o'brien, ma'am
      | (?i:o['’]clock | nat'l | li'l | ev'ry | c'mon | s'mores)
      | {_LETTER}+(?:[.!?]{_LETTER}+)+(?:-{_ALNUM}+)*         # grass.The, without a blank
      | {_ALNUM}+(?:[/_@-]{_ALNUM}+)*                         # t-shirt, 21st, and/or, 10-29-2011
      | --+ | [+-]\d+ | [#@]{_LETTER}\w*
      | [?!]{{2,}} | \.\.+
      | [^\w\s] | _                                           # symbols
    """,
    re.VERBOSE,
)
_WRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"€": "$", "£": "#", "½": "1/2", "¼": "1/4", "¾": "3/4"},
}
_DROPPED = frozenset("'`\".?!,:;-–—…“”‘’")


def tokenize(caption: str) -> list[str]:
    """Split a caption into lower-case tokens, clitics apart, without the marks that COCO drops."""
    apart = _PAIRS.sub(_apart, _CLITIC.sub(_clitic_apart, caption))
    tokens = (_WRITTEN.get(token, token).lower() for token in _TOKEN.findall(apart))
    return [token for token in tokens if token not in _DROPPED and not token.startswith(("..", "--"))]


def _clitic_apart(match: re.Match[str]) -> str:
    return f" {match[0].replace('’', chr(39))}"


def _apart(match: re.Match[str]) -> str:
    return " ".join(filter(None, match.groups()))
