"""haproxy's configuration language: text to sections of directives, with their line numbers.

Words are split as haproxy splits them (configuration manual, 2.2 "Quoting and escaping"): blanks
separate, `"…"` and `'…'` join, a backslash escapes outside single quotes, an unquoted `#` begins
a comment, also inside a word. Environment variables are left as written: nothing here expands.
"""

from collections.abc import Iterator
from typing import NamedTuple

#: Keywords that begin a section; haproxy 2.6 to 3.0.
SECTIONS = frozenset(
    {
        "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global",
        "http-errors", "listen", "log-forward", "log-profile", "mailers", "peers", "program",
        "resolvers", "ring", "traces", "userlist",
    }
)  # fmt: skip

_SPECIAL = frozenset("\"'\\#")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class Directive(NamedTuple):
    """One line: `words` has at least one word, `line` counts from 1."""

    line: int
    words: tuple[str, ...]


class Section(NamedTuple):
    """A section; `kind` is its keyword, `name` what follows ("" for none)."""

    line: int
    kind: str
    name: str
    directives: tuple[Directive, ...]

    def first(self, *keyword: str) -> Directive | None:
        """The first directive that begins with these words."""
        return next(self.all(*keyword), None)

    def all(self, *keyword: str) -> Iterator[Directive]:
        """The directives that begin with these words."""
        length = len(keyword)
        return (d for d in self.directives if d.words[:length] == keyword)


class Config(NamedTuple):
    """A parsed configuration."""

    sections: tuple[Section, ...]

    def of_kind(self, kind: str) -> Iterator[Section]:
        return (section for section in self.sections if section.kind == kind)


def parse(text: str) -> Config:
    """Parse a configuration. Never fails: what is wrong with the text is haproxy's to say."""
    sections: list[Section] = []
    header: Directive | None = None
    body: list[Directive] = []

    def close() -> None:
        if header is not None:
            name = header.words[1] if len(header.words) > 1 else ""
            sections.append(Section(header.line, header.words[0], name, tuple(body)))

    for number, line in enumerate(text.split("\n"), 1):
        words = split(line)
        if not words:
            continue
        directive = Directive(number, words)
        if words[0] in SECTIONS:
            close()
            header, body = directive, []
        else:
            body.append(directive)
    close()
    return Config(tuple(sections))


def split(line: str) -> tuple[str, ...]:
    """The words of one line, without quotes and escapes; none for a blank or a comment."""
    if not _SPECIAL.intersection(line):
        return tuple(line.split())
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    position = 0
    while position < len(line):
        character = line[position]
        position += 1
        if quote:
            if character == quote:
                quote = ""
                continue
        elif character in "\"'":
            quote = character
            word = word if word is not None else []
            continue
        elif character == "#":
            break
        elif character.isspace():
            if word is not None:
                words.append("".join(word))
                word = None
            continue
        if character == "\\" and quote != "'" and position < len(line):
            character = _ESCAPES.get(line[position], line[position])
            position += 1
        word = word if word is not None else []
        word.append(character)
    if word is not None:
        words.append("".join(word))
    return tuple(words)
