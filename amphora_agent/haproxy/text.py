"""haproxy's configuration language: text to sections of directives, with their line numbers.

Words are split as haproxy splits them (configuration manual, 2.2 "Quoting and escaping", and
`parse_line` in its tools.c): blanks separate, `"…"` and `'…'` join, a backslash before certain
characters escapes outside single quotes and stands for itself before others, an unquoted `#`
begins a comment, also inside a word. Environment variables are left as written: nothing here
expands.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

#: Keywords that begin a section; haproxy 2.6 to 3.0.
SECTIONS = frozenset(
    {
        "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global",
        "http-errors", "listen", "log-forward", "log-profile", "mailers", "peers", "program",
        "resolvers", "ring", "traces", "userlist",
    }
)  # fmt: skip

#: What separates words, to a C program in the C locale: no other character that Unicode calls
#: white space does.
_BLANKS = frozenset(" \t\n\v\f\r")
#: Printable ASCII without what quotes, escapes or comments: a line of it is words and spaces.
_PLAIN = re.compile(r"[ !$-&(-\[\]-~]*")
#: What stands for itself, quoted or not.
_ORDINARY = re.compile(r"[^\"'\\# \t\n\v\f\r]+")
_ESCAPES = {" ": " ", "\\": "\\", "#": "#", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_HEXADECIMAL = re.compile(r"x([0-9A-Fa-f]{2})")


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


def parse(text: str, keywords: Collection[str] | None = None) -> Config:
    """Parse a configuration. Never fails: what is wrong with the text is haproxy's to say.

    With `keywords`, sections have only the directives that begin with one of these words; that
    takes a third of the time and memory. Large configurations are read for every change.
    """
    sections: list[Section] = []
    header: Directive | None = None
    body: list[Directive] = []

    def close() -> None:
        if header is not None:
            name = header.words[1] if len(header.words) > 1 else ""
            sections.append(Section(header.line, header.words[0], name, tuple(body)))

    wanted = None if keywords is None else SECTIONS.union(keywords)
    unwanted: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        if wanted is not None:
            # Most lines need not be split to be told apart.
            first = line.split(None, 1)
            if not first or first[0] in unwanted:
                continue
            if first[0] not in wanted and _is_what_it_seems(first[0]):
                unwanted.add(first[0])
                continue
        words = split(line)
        if not words:
            continue
        if words[0] in SECTIONS:
            close()
            header, body = Directive(number, words), []
        elif keywords is None or words[0] in keywords:
            body.append(Directive(number, words))
    close()
    return Config(tuple(sections))


def _is_what_it_seems(word: str) -> bool:
    """Whether a word is the same to `split`: it has no quote, escape, comment or control."""
    return word.replace("-", "").isalnum()


def split(line: str) -> tuple[str, ...]:
    """The words of one line, without quotes and escapes; none for a blank or a comment."""
    if _PLAIN.fullmatch(line):
        return tuple(line.split())
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    position = 0
    while position < len(line):
        if ordinary := _ORDINARY.match(line, position):
            word = word if word is not None else []
            word.append(ordinary[0])
            position = ordinary.end()
            continue
        character = line[position]
        position += 1
        if character == quote:
            quote = ""
            continue
        if not quote:
            if character == "#":
                break
            if character in _BLANKS:
                if word is not None:
                    words.append(_joined(word))
                    word = None
                continue
        word = word if word is not None else []
        if not quote and character in "\"'":
            quote = character
            continue
        if character == "\\" and quote != "'":
            escaped, length = _escape(line, position, quoted=bool(quote))
            if length:
                character = escaped
                position += length
        word.append(character)
    if word is not None:
        words.append(_joined(word))
    return tuple(words)


def _escape(line: str, position: int, *, quoted: bool) -> tuple[str, int]:
    """What the characters after a backslash stand for, and how many they are; 0 when the
    backslash is just one."""
    character = line[position : position + 1]
    if character in _ESCAPES:
        return _ESCAPES[character], 1
    if character == "$" and quoted:
        return "$", 1
    if found := _HEXADECIMAL.match(line, position):
        return chr(int(found[1], 16)), 3
    return "", 0


def _joined(pieces: list[str]) -> str:
    # To a C program a word ends at a NUL, which `\x00` can put into it.
    return "".join(pieces).partition("\0")[0]
