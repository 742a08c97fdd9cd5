r"""Reads `\n`, `\t` and `\\` in overrides of prompt texts as line break, tab and backslash.

Hydra's grammar keeps a backslash as it is, and a YAML file has its own escapes in double quotes. So only a
command line is rewritten, once, before Hydra reads it: all that follows (`--cfg job`, the points of a sweep,
the arms of a comparison, run.json) has the text itself.
"""

import random
import re
from collections.abc import Callable
from typing import Any

# Keys whose text the model reads, or at which its answer ends; `*` stands for any one name.
TEXTS = (
    "task.prompts",
    "task.suffix",
    "model.template",
    "decoding.stop",
    "dataset.prompt",
    "dataset.suffix",
    "arms.*.model.template",
)
_PATHS = tuple(tuple(key.split(".")) for key in TEXTS)
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}
_ESCAPED = {text: escape for escape, text in _ESCAPES.items()}
# backslashes right before a reference, `${...}`, belong to OmegaConf
_KEPT = r"(?P<kept>\\+)(?=\$\{)"
_UNESCAPE = re.compile(rf"{_KEPT}|\\[nt\\]")
_ESCAPE = re.compile(rf"{_KEPT}|[\\\n\t]")


def unescape(text: str) -> str:
    """Replace the escapes in a text; another backslash stays as it is."""
    return _UNESCAPE.sub(lambda found: found["kept"] or _ESCAPES[found[0]], text)


def escape(text: str) -> str:
    """Write a text so that `unescape` returns it."""
    return _ESCAPE.sub(lambda found: found["kept"] or _ESCAPED[found[0]], text)


def decoded(argument: str) -> str:
    """Replace the escapes in an argument's prompt texts; an argument without any is returned as it is."""
    return _rewritten(argument, unescape)


def encoded(argument: str) -> str:
    """Write an argument so that `decoded` returns its meaning: for a command line that is read again."""
    return _rewritten(argument, escape)


def without_breaks(text: str) -> str:
    """Write line breaks and tabs as escapes: a folder's name has none."""
    return text.replace("\n", r"\n").replace("\t", r"\t")


def _rewritten(argument: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the prompt texts of an override that Hydra can parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, Override

    key, equals, _ = argument.partition("=")
    path = tuple(key.lstrip("+").split("."))
    leads = any(_agree(path, pattern) for pattern in _PATHS)
    if argument.startswith(("-", "~")) or not equals or not leads:
        return argument
    value = OverridesParser.create().parse_override(argument)._value
    text_of = Override._get_value_element_as_str
    if not isinstance(value, ChoiceSweep):
        new = _changed(value, path, change)
        return argument if new == value else f"{key}={text_of(new)}"
    points = [_changed(point, path, change) for point in value.list]
    if points == value.list:
        return argument
    if value.shuffle:
        random.shuffle(points)
    # texts in choice(...) and shuffle(...) have lost their quotes, and Hydra cannot write all texts without
    return f"{key}={','.join(text_of(_quoted(point)) for point in points)}"


def _quoted(value: Any) -> Any:  # any value of Hydra's
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list):
        return [_quoted(part) for part in value]
    return QuotedString(value, Quote.double) if isinstance(value, str) else value


def _agree(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Tell whether a key leads towards a text, to it or to one of its items."""
    return all(part in ("*", name) for part, name in zip(pattern, path, strict=False))


def _changed(value: Any, path: tuple[str, ...], change: Callable[[str], str]) -> Any:  # any value of Hydra's
    """Apply `change` to the texts of a parsed value at `path`, in lists and mappings too."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, dict):
        return {name: _changed(part, (*path, _name(name)), change) for name, part in value.items()}
    if isinstance(value, list):
        return [_changed(part, path, change) for part in value]
    is_text = any(len(path) >= len(pattern) and _agree(path, pattern) for pattern in _PATHS)
    if not is_text or not isinstance(value, str | QuotedString):
        return value
    text, quote = (value, Quote.double) if isinstance(value, str) else (value.text, value.quote)
    new = change(text)
    return value if new == text else QuotedString(new, quote)


def _name(key: object) -> str:
    return str(getattr(key, "text", key))
