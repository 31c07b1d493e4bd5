"""Read keepalived's configuration language as keepalived itself does (2.2, lib/parser.c).

The result is a tree of directives. Whatever makes keepalived read something else than what is
written (macros, conditions, repetition, includes, escapes) is refused here, with its line.

One exception makes Octavia's texts readable: a brace within the word behind `path` is part of the
URL. keepalived takes it for a brace, and complains of the text that comes out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

#: keepalived reads lines into a buffer of 1,024 bytes: what is behind begins a line of its own.
LONGEST_LINE = 1022

#: Octavia's blocks are at most four deep.
_DEEPEST = 8

#: What separates words. Other characters that Unicode takes for blanks are parts of words.
_BLANKS = frozenset(" \t\f\r\v")
_BRACES = frozenset("{}")
_COMMENT = frozenset("#!")

#: What a keyword must not begin with, and why.
_SPECIAL = {
    "$": "macros are not allowed",
    "@": "conditions are not allowed",
    "~": "repetition is not allowed",
}


class ConfigError(ValueError):
    """A configuration is refused. `line` counts from 1; `reason` never has a value in it that may
    be secret."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True)
class Directive:
    """The words of a line, without quotes, and what is in the braces that follow, if any.

    A comment that has a line of its own is a directive without words.
    """

    line: int
    words: tuple[str, ...]
    comment: str = ""
    block: "tuple[Directive, ...] | None" = None

    @property
    def keyword(self) -> str:
        return self.words[0] if self.words else ""


class _Piece(NamedTuple):
    """What keepalived takes for a line: words, or a brace, or a comment."""

    line: int
    words: tuple[str, ...] = ()
    brace: str = ""
    comment: str = ""


def parse(content: bytes) -> tuple[Directive, ...]:
    """Return the directives of a configuration, each byte read as one character (ISO 8859-1).

    Raises:
        ConfigError
    """
    return _block(_pieces(content), depth=0)


def shown(word: str) -> str:
    """Return the beginning of a word, fit for a message."""
    printable = "".join(each if " " <= each <= "~" else "?" for each in word)
    return printable if len(printable) <= 40 else f"{printable[:40]}..."


def _block(pieces: Iterator[_Piece], depth: int) -> tuple[Directive, ...]:
    """Return the directives up to the brace that closes the block."""
    found: list[Directive] = []
    #: The place in `found` of the last directive, while a brace may follow it.
    last: int | None = None
    for piece in pieces:
        if piece.comment:
            found.append(Directive(piece.line, (), piece.comment))
        elif piece.words:
            last = len(found)
            found.append(Directive(piece.line, piece.words))
        elif piece.brace == "{":
            if last is None:
                raise ConfigError(piece.line, "a brace where none belongs")
            if depth == _DEEPEST:
                raise ConfigError(piece.line, "too many braces in braces")
            opened = found[last]
            block = _block(pieces, depth + 1)
            found[last] = Directive(opened.line, opened.words, block=block)
            last = None
        elif depth:
            return tuple(found)
        else:
            raise ConfigError(piece.line, "a brace closes what was not opened")
    if depth:
        raise ConfigError(found[-1].line if found else 1, "a brace is not closed")
    return tuple(found)


def _pieces(content: bytes) -> Iterator[_Piece]:
    for number, raw in enumerate(content.decode("latin-1").split("\n"), 1):
        if len(raw) > LONGEST_LINE:
            raise ConfigError(number, f"the line is longer than {LONGEST_LINE} bytes")
        line = raw.rstrip("\r")
        for character in line:
            if (character < " " and character not in _BLANKS) or character == "\x7f":
                name = "a NUL byte" if character == "\0" else "a control character"
                raise ConfigError(number, f"the line has {name}")
        stripped = line.strip(" \t")
        if stripped.startswith("#"):
            yield _Piece(number, comment=stripped)
        else:
            yield from _pieces_of_line(number, line)


def _pieces_of_line(number: int, line: str) -> Iterator[_Piece]:
    """Split a line at its braces. A comment ends it."""
    words: list[str] = []
    position = 0
    while position < len(line):
        character = line[position]
        if character in _COMMENT:
            break
        if character in _BLANKS:
            position += 1
        elif character in _BRACES:
            if words:
                yield _piece_of_words(number, words)
                words = []
            yield _Piece(number, brace=character)
            position += 1
        elif character == '"':
            end = line.find('"', position + 1)
            if end < 0:
                raise ConfigError(number, "a quote is not closed")
            words.append(line[position + 1 : end])
            position = end + 1
        else:
            end = _end_of_word(line, position, is_url=words == ["path"])
            words.append(line[position:end])
            position = end
        if words and "\\" in words[-1]:
            raise ConfigError(number, "a backslash is not allowed")
    if words:
        yield _piece_of_words(number, words)


def _end_of_word(line: str, begin: int, *, is_url: bool) -> int:
    position = begin
    while position < len(line):
        character = line[position]
        if character in _BLANKS or character in _COMMENT or character == '"':
            break
        if character in _BRACES and not is_url:
            break
        position += 1
    return position


def _piece_of_words(number: int, words: list[str]) -> _Piece:
    keyword = words[0]
    if keyword[:1] in _SPECIAL:
        raise ConfigError(number, f"{shown(keyword)}: {_SPECIAL[keyword[0]]}")
    if keyword.startswith("include"):
        raise ConfigError(number, f"{shown(keyword)} is not allowed: it reads other files")
    return _Piece(number, tuple(words))
