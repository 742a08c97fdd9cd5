"""Makes text from data harmless on a terminal."""

import traceback

# How names hold bytes that are not UTF-8: as Python reads them, and as `storage.names` writes them.
_BYTES = {start + byte: f"\\x{byte:02x}" for start in (0xDC00, 0xF700) for byte in range(0x80, 0x100)}


def printable(text: str) -> str:
    """Escape the characters that command a terminal or begin a line, which names from data may hold."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.translate(_BYTES)
    )


def printable_lines(text: str) -> str:
    """Escape the same characters in a text of several lines, which it keeps."""
    return "\n".join(printable(line) for line in text.split("\n"))


def traceback_text(error: BaseException) -> str:
    """Describe an error with its traceback.

    A message's later lines are indented: they may be of data, and must not look like lines of the program.
    """
    entries = (entry.rstrip("\n").split("\n") for entry in traceback.format_exception(error))
    lines = (
        line if place == 0 or line.startswith("  ") else f"  {line}"
        for entry in entries
        for place, line in enumerate(entry)
    )
    return "\n".join(map(printable, lines))
