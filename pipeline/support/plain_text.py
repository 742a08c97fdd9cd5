"""Makes text from data harmless on a terminal."""


def printable(text: str) -> str:
    """Escape the characters that command a terminal or begin a line, which names from data may hold."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
