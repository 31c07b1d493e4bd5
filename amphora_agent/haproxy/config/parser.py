"""Parse haproxy's configuration language: text to sections of directives, nothing lost.

Words are split as haproxy splits them (configuration manual, 2.2 "Quoting and escaping", and
`parse_line` in its tools.c): blanks separate, `"…"` and `'…'` join, a backslash before certain
characters escapes outside single quotes and stands for itself before others, an unquoted `#`
begins a comment, also inside a word. Environment variables stay as written.

A line ends at a newline and nowhere else. No line is continued: haproxy keeps a backslash at the
end, and refuses an open quote there. A section ends with its file.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

#: File name -> text, in the order in which haproxy loads them. Text that was bytes is decoded with
#: `surrogateescape`, so that it can be written back as it was.
Texts = Mapping[str, str]


def join_texts(texts: Texts) -> str:
    """Return all texts as one."""
    return "".join(texts.values())


#: Keywords that begin a section; haproxy 2.6 to 3.0.
SECTIONS = frozenset(
    {
        "backend", "cache", "crt-store", "defaults", "fcgi-app", "frontend", "global",
        "http-errors", "listen", "log-forward", "log-profile", "mailers", "namespace_list",
        "peers", "program", "resolvers", "ring", "traces", "userlist",
    }
)  # fmt: skip

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
#: Printable ASCII without what quotes, escapes or comments: a line of it is words and spaces.
_PLAIN = re.compile(r"[ !$-&(-\[\]-~]*\n?")
#: A word as written, or (then the group is empty) a comment. To a C program in the C locale these
#: blanks separate words: no other character that Unicode calls white space does. Where a word ends
#: depends on few escapes; the others are for `_PIECE`.
_WORD = re.compile(
    r"""((?:[^"'\\# \t\n\v\f\r]++
          | \\[ \\#'"]?+
          | '[^']*+(?:'|\Z)
          | "(?:[^"\\]++ | \\["\\]?+)*+(?:"|\Z)
        )++)
      | \#.*""",
    re.VERBOSE | re.DOTALL,
)
#: A piece of a word: quoted text, an escape, or other characters.
_PIECE = re.compile(
    r"""'(?P<single>[^']*+)(?:'|\Z)
      | "(?P<double>(?:[^"\\]++ | \\["\\]?+)*+)(?:"|\Z)
      | (?P<bare>[^"'\\]++ | \\(?:[ \\#'"nrt] | x[0-9A-Fa-f]{2})?+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:([ \\#'\"nrt])|x([0-9A-Fa-f]{2}))")
_QUOTED_ESCAPE = re.compile(r"\\(?:([ \\#'\"nrt$])|x([0-9A-Fa-f]{2}))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
#: In double quotes, escapes (no group) or an environment variable's dollar sign.
_DOLLAR = re.compile(r"\\.|(\$)", re.DOTALL)

#: A line that may begin a section: its first word is a section's keyword, or has a quote or an
#: escape. The pattern begins with the newline before, which is found fast.
_KEYWORD = "|".join(sorted(SECTIONS))
_CANDIDATE = re.compile(
    rf"""\n[ \t\v\f\r]*+
      (?: [^"'\\# \t\n\v\f\r\0]*+["'\\] | (?:{_KEYWORD})(?:(?=[# \t\n\v\f\r\0])|\Z))""",
    re.VERBOSE,
)


class Directive(NamedTuple):
    """One line. `line` counts from 1; `written` is the line with its end as it is in the text."""

    line: int
    words: tuple[str, ...]
    written: str = ""

    @property
    def expands(self) -> bool:
        """Whether haproxy puts an environment variable into it."""
        line = self.written
        return (
            '"' in line
            and "$" in line
            and any(
                dollar[1]
                for word in _find_words(line)
                for piece in _PIECE.finditer(word[0])
                for dollar in _DOLLAR.finditer(piece["double"] or "")
            )
        )


class Section(NamedTuple):
    """A section: `kind` is its keyword, `name` the next word ("" for none). The lines before the
    first header of a file are a section without kind and `header`."""

    line: int
    kind: str
    name: str
    directives: tuple[Directive, ...]
    header: Directive | None = None

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

    def lines(self, kind: str, *keyword: str) -> Iterator[Directive]:
        """The directives of all sections of a kind that begin with these words."""
        return (line for section in self.of_kind(kind) for line in section.all(*keyword))


class SectionText(NamedTuple):
    """A section as written, from its header up to the next: with comments, blanks, conditionals.

    Those of a file, joined, are its text. The lines before the first header are one without kind.
    """

    file: str
    line: int
    kind: str
    name: str
    text: str

    def lines(self) -> tuple[Directive, ...]:
        """Return all lines, also those without words; joined, they are the text."""
        return tuple(_split_lines(self.text, self.line))

    def section(self) -> Section:
        """Return the section as haproxy reads it."""
        lines = tuple(line for line in self.lines() if line.words and line.words[0])
        if not self.kind:
            return Section(self.line, "", "", lines)
        return Section(self.line, self.kind, self.name, lines[1:], lines[0])


class Header(NamedTuple):
    """The line that begins a section; `start` is its offset in the text."""

    start: int
    kind: str
    name: str


def split_sections(texts: Texts) -> tuple[SectionText, ...]:
    """Return all sections of a configuration, in order. Only headers are parsed, which is fast.

    A header between `.if` and `.endif` counts, whatever the condition.
    """
    return tuple(block for file, text in texts.items() for block in split_file(file, text))


def split_file(
    file: str, text: str, start: int = 0, end: int | None = None, line: int = 1
) -> Iterator[SectionText]:
    """Yield the sections of one file, or of a part of it that begins and ends where sections do.
    `line` is the number of its first line."""
    end = len(text) if end is None else end
    before = Header(start, "", "")
    for header in find_headers(text, start, end):
        if header.start > start:
            yield SectionText(
                file, line, before.kind, before.name, text[before.start : header.start]
            )
            line += text.count("\n", before.start, header.start)
        before = header
    if end > before.start:
        yield SectionText(file, line, before.kind, before.name, text[before.start : end])


def find_headers(text: str, start: int = 0, end: int | None = None) -> Iterator[Header]:
    """Yield the headers of a part of a text; a line begins at `start`."""
    end = len(text) if end is None else end
    if header := read_header(text, start, end):
        yield header
    for found in _CANDIDATE.finditer(text, start, end):
        if header := read_header(text, found.start() + 1, end):
            yield header


def read_header(text: str, start: int, end: int | None = None) -> Header | None:
    """Return the header in the line that begins at `start`, if it is one."""
    end = len(text) if end is None else end
    stop = text.find("\n", start, end)
    words = split_words(text[start : stop if stop >= 0 else end])
    if not words or words[0] not in SECTIONS:
        return None
    return Header(start, words[0], _find_name(words))


def _find_name(header: tuple[str, ...]) -> str:
    if len(header) < 2 or header[:2] == ("defaults", "from"):
        return ""
    return header[1]


def parse_config(text: str, keywords: Collection[str] | None = None) -> Config:
    """Parse a configuration. It never fails: haproxy tells what is wrong with a text.

    With `keywords`, sections have only the directives that begin with one of these words, which
    takes a third of the time and memory. Large configurations are parsed for every change.
    """
    sections: list[Section] = []
    header: Directive | None = None
    body: list[Directive] = []

    def close() -> None:
        if header is not None:
            name = _find_name(header.words)
            sections.append(Section(header.line, header.words[0], name, tuple(body), header))

    lines = (
        _split_lines(text, 1) if keywords is None else _find_lines(text, SECTIONS.union(keywords))
    )
    for directive in lines:
        if not directive.words or not directive.words[0]:
            continue
        if directive.words[0] in SECTIONS:
            close()
            header, body = directive, []
        else:
            body.append(directive)
    close()
    return Config(tuple(sections))


def _split_lines(text: str, line: int) -> Iterator[Directive]:
    for number, written in enumerate(_LINE.findall(text), line):
        yield Directive(number, split_words(written), written)


def _find_lines(text: str, keywords: Collection[str]) -> Iterator[Directive]:
    """Yield the lines that begin with one of the keywords."""
    unwanted: set[str] = set()
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        # Most lines need not be split to be told apart.
        first = line.split(None, 1)
        if not first or first[0] in unwanted:
            continue
        if first[0] not in keywords and _is_plain(first[0]):
            unwanted.add(first[0])
            continue
        words = split_words(line)
        if words and words[0] in keywords:
            yield Directive(number, words, line if number == len(lines) else line + "\n")


def _is_plain(word: str) -> bool:
    """Whether a word has no quote, escape, comment or control character."""
    return word.replace("-", "").isalnum()


def split_words(line: str) -> tuple[str, ...]:
    """Return the words of one line, without quotes and escapes; none for a blank or a comment."""
    if _PLAIN.fullmatch(line):
        return tuple(line.split())
    return tuple(_unquote(found[0]) for found in _find_words(line))


def _find_words(line: str) -> Iterator[re.Match[str]]:
    """Yield the words of one line as written."""
    # A line ends at its newline, and to a C program at a NUL before it.
    line = line.partition("\n")[0].partition("\0")[0]
    return (found for found in _WORD.finditer(line) if found[1])


def _unquote(word: str) -> str:
    """Return the value of a word as written."""
    if "\\" not in word and '"' not in word and "'" not in word:
        return word
    value = "".join(map(_unquote_piece, _PIECE.finditer(word)))
    if not value.isascii() and "\\x" in word:
        value = _join_bytes(value)
    # To a C program a word ends at a NUL, which `\x00` can put into it.
    return value.partition("\0")[0]


def _unquote_piece(found: re.Match[str]) -> str:
    if found["single"] is not None:
        return found["single"]
    if found["double"] is not None:
        return _QUOTED_ESCAPE.sub(_unescape, found["double"])
    return _ESCAPE.sub(_unescape, found["bare"])


def _unescape(found: re.Match[str]) -> str:
    if found[1]:
        return _ESCAPED.get(found[1], found[1])
    byte = int(found[2], 16)
    return chr(byte if byte < 0x80 else 0xDC00 + byte)


def _join_bytes(value: str) -> str:
    """Replace bytes that are a character in UTF-8 by that character."""
    try:
        return value.encode(errors="surrogateescape").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        return value  # has surrogates that stand for no byte
