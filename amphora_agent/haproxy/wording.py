"""Saying what differs, briefly and safely: the words go to logs, journals and the controller."""

from collections.abc import Sequence

#: Characters of a name, and sentences of a list.
_NAME, _SENTENCES = 100, 50


def name(text: str) -> str:
    """A name from a configuration as a word of a sentence."""
    printable = "".join(
        character
        if character.isascii() and character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text[: _NAME + 1]
    )
    return printable if len(printable) <= _NAME else printable[: _NAME - 1] + "…"


def bounded(sentences: Sequence[str]) -> tuple[str, ...]:
    """The sentences, or the first of them and how many more there are."""
    if len(sentences) <= _SENTENCES:
        return tuple(sentences)
    return *sentences[:_SENTENCES], f"and {len(sentences) - _SENTENCES} more"
