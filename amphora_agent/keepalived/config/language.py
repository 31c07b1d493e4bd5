"""keepalived's configuration language: read it as keepalived itself does (2.2, lib/parser.c), and
write what it shall read.

The parser returns a tree of directives. It refuses whatever makes keepalived read something else
than what is written: macros, conditions, repetition, includes, escapes. The table makes statements
of directives, and the renderer writes only those.

One exception makes Octavia's configurations readable: a brace within the word after `path` is part
of the URL. keepalived takes it for a brace, and complains about the result.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

#: keepalived reads lines into a buffer of 1,024 bytes: the rest of a longer one is another line.
LONGEST_LINE = 1022

#: Octavia's blocks are at most four deep.
_DEEPEST = 8

#: Separators of words. Other blanks of Unicode are parts of words.
_BLANKS = frozenset(" \t\f\r\v")
_BRACES = frozenset("{}")
_COMMENT = frozenset("#!")

#: Characters that a keyword must not begin with, and the reason.
_SPECIAL = {
    "$": "macros are not allowed",
    "@": "conditions are not allowed",
    "~": "repetition is not allowed",
}


class ConfigError(ValueError):
    """A configuration is refused. `line` counts from 1; `reason` quotes no value that may be
    secret."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True)
class KeepalivedDirective:
    """The words of a line, without quotes, and the directives in the braces that follow, if any.

    A comment on a line of its own is a directive without words.
    """

    line: int
    words: tuple[str, ...]
    comment: str = ""
    block: "tuple[KeepalivedDirective, ...] | None" = None

    @property
    def keyword(self) -> str:
        return self.words[0] if self.words else ""


@dataclass(frozen=True)
class Statement:
    """An allowed directive, its values in their forms. An entry has no keyword."""

    line: int
    keyword: str
    values: tuple[str, ...]
    block: "tuple[Statement, ...] | None" = None

    def all(self, keyword: str) -> "tuple[Statement, ...]":
        """Return the statements of the block that begin with a keyword."""
        return tuple(inner for inner in self.block or () if inner.keyword == keyword)


class _Piece(NamedTuple):
    """A line as keepalived sees it: words, or a brace, or a comment."""

    line: int
    words: tuple[str, ...] = ()
    brace: str = ""
    comment: str = ""


def parse(content: bytes) -> tuple[KeepalivedDirective, ...]:
    """Return the directives of a configuration, each byte read as one character (ISO 8859-1).

    Raises:
        ConfigError
    """
    return _parse_block(_split_pieces(content), depth=0)


def quote_beginning(word: str) -> str:
    """Return the beginning of a word in printable characters, for a message."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in word)
    return printable if len(printable) <= 40 else f"{printable[:40]}..."


def _parse_block(pieces: Iterator[_Piece], depth: int) -> tuple[KeepalivedDirective, ...]:
    """Return the directives up to the brace that closes the block."""
    directives: list[KeepalivedDirective] = []
    #: The index of the last directive, while a brace may follow it.
    last: int | None = None
    for piece in pieces:
        if piece.comment:
            directives.append(KeepalivedDirective(piece.line, (), piece.comment))
        elif piece.words:
            last = len(directives)
            directives.append(KeepalivedDirective(piece.line, piece.words))
        elif piece.brace == "{":
            if last is None:
                raise ConfigError(piece.line, "a brace where none belongs")
            if depth == _DEEPEST:
                raise ConfigError(piece.line, "too many braces in braces")
            opened = directives[last]
            block = _parse_block(pieces, depth + 1)
            directives[last] = KeepalivedDirective(opened.line, opened.words, block=block)
            last = None
        elif depth:
            return tuple(directives)
        else:
            raise ConfigError(piece.line, "a brace closes what was not opened")
    if depth:
        raise ConfigError(directives[-1].line if directives else 1, "a brace is not closed")
    return tuple(directives)


def _split_pieces(content: bytes) -> Iterator[_Piece]:
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
            yield from _split_line(number, line)


def _split_line(number: int, line: str) -> Iterator[_Piece]:
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
                yield _build_piece(number, words)
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
            end = _find_word_end(line, position, is_url=words == ["path"])
            words.append(line[position:end])
            position = end
        if words and "\\" in words[-1]:
            raise ConfigError(number, "a backslash is not allowed")
    if words:
        yield _build_piece(number, words)


def _find_word_end(line: str, begin: int, *, is_url: bool) -> int:
    position = begin
    while position < len(line):
        character = line[position]
        if character in _BLANKS or character in _COMMENT or character == '"':
            break
        if character in _BRACES and not is_url:
            break
        position += 1
    return position


def _build_piece(number: int, words: list[str]) -> _Piece:
    keyword = words[0]
    if keyword[:1] in _SPECIAL:
        raise ConfigError(number, f"{quote_beginning(keyword)}: {_SPECIAL[keyword[0]]}")
    if keyword.startswith("include"):
        raise ConfigError(
            number, f"{quote_beginning(keyword)} is not allowed: it reads other files"
        )
    return _Piece(number, tuple(words))


#: The agent's settings. They come first: at a reload keepalived leaves out checks before it knows
#: their user. Root runs them, and keepalived verifies that nobody else can change them. Without a
#: router id keepalived asks the name service for one, and waits if there is none.
_SETTINGS = (
    "router_id amphora",
    "script_user root",
    "enable_script_security",
)

_INDENT = "    "
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z_-]*")
#: Words that need no quotes.
_PLAIN = re.compile(r"[0-9A-Za-z_./:-]+")
#: Text that quotes can hold. keepalived expands macros in quotes, too.
_QUOTABLE = re.compile(r"(?:[ !#%-\[\]-~\x80-\xff]|\$(?![_{]))*")


class Rendered(NamedTuple):
    """A text for keepalived. `lines` maps each of its lines to the line of the configuration that
    it was made of; 0 for the agent's own."""

    text: bytes
    lines: tuple[int, ...]


class _Line(NamedTuple):
    text: str
    source: int


def render(statements: Iterable[Statement], header: str = "", fifo: str = "") -> Rendered:
    """Return the text for keepalived.

    Args:
        header: a comment for the first line.
        fifo: where keepalived writes each change of an instance's state.

    Raises:
        ConfigError: a value cannot be written, or its line would be too long.
    """
    settings = (*_SETTINGS, *((f"vrrp_notify_fifo {_quote(0, fifo)}",) if fifo else ()))
    own = (
        f"# {header}" if header else "# Written by amphora-agent.",
        "global_defs {",
        *(f"{_INDENT}{setting}" for setting in settings),
        "}",
    )
    lines = [*(_check_length(_Line(text, 0)) for text in own), *_render_lines(statements, "")]
    text = "".join(f"{line.text}\n" for line in lines)
    return Rendered(text.encode("latin-1"), tuple(line.source for line in lines))


def _render_lines(statements: Iterable[Statement], indent: str) -> Iterator[_Line]:
    for statement in statements:
        words = [_quote(statement.line, value) for value in statement.values]
        if statement.keyword:
            if not _KEYWORD.fullmatch(statement.keyword):
                raise ConfigError(statement.line, "this keyword cannot be written")
            words.insert(0, statement.keyword)
        text = indent + " ".join(words)
        if statement.block is None:
            yield _check_length(_Line(text, statement.line))
        else:
            yield _check_length(_Line(f"{text} {{", statement.line))
            yield from _render_lines(statement.block, indent + _INDENT)
            yield _Line(f"{indent}}}", statement.line)


def _check_length(line: _Line) -> _Line:
    if len(line.text) > LONGEST_LINE:
        raise ConfigError(line.source, f"the line is longer than {LONGEST_LINE} bytes")
    return line


def _quote(line: int, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    # In blocks of its other processes, keepalived counts braces in quotes, too.
    if value in ("{", "}") or not _QUOTABLE.fullmatch(value):
        raise ConfigError(line, "a value cannot be written for keepalived")
    return f'"{value}"'
