"""Adapt configurations of old controllers that haproxy refuses.

A statement that haproxy refuses becomes a comment. So lines keep their numbers, and
`restore_config` returns the bytes that the controller sent.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from amphora_agent.haproxy.config import parser, word_counts

#: Before a line that haproxy must not see.
_HIDDEN = b"#amphora-agent:"

#: Statements that haproxy refuses. The option chose between two engines in haproxy 1.9 and 2.0.
#: Octavia's releases 1 and 2 write the group when they leave it to the agent.
_REFUSED = frozenset(
    {("option", "http-use-htx"), ("no", "option", "http-use-htx"), ("group", "None")}
)
#: Two statements on one line: Octavia's releases 12 to 18 write them for pinned CPUs.
_JOINED = re.compile(
    r"\s*(cpu-map (?:auto:)?[0-9]+(?:/[0-9-]+)?(?: [0-9,-]+)+)\s+(external-check)\s*"
)
_CONNECTIONS = re.compile(r"\s*maxconn\s+([0-9]{1,10})\s*")
#: A text with such a statement has one of these words.
_WORDS = ("http-use-htx", "group None", "cpu-map", _HIDDEN.decode())


class AdaptedConfig(NamedTuple):
    """`content` is for haproxy; `changes` describes for the log what was changed."""

    content: bytes
    changes: tuple[str, ...]


def adapt_config(sent: bytes, content: str | None = None) -> AdaptedConfig:
    """Comment out the lines that haproxy refuses. `content` is the same as text, if that is at
    hand. `read_joined_statements` returns the statements of joined lines."""
    if content is None:
        content = sent.decode(errors="surrogateescape")
    if not any(word_counts.has_word(content, word) for word in _WORDS):
        return AdaptedConfig(sent, ())
    lines = sent.split(b"\n")
    changes = []
    for index, line in enumerate(lines):
        text = line.decode(errors="replace")
        joined = _JOINED.fullmatch(text)
        refused = joined or parser.split_words(text) in _REFUSED
        if refused:
            done = "separated into statements" if joined else "left out"
            changes.append(f"line {index + 1} {done}: {text.strip()!r}")
        # A comment of the controller that looks like one of these must come back as well.
        if refused or line.startswith(_HIDDEN):
            lines[index] = _HIDDEN + line
    return AdaptedConfig(b"\n".join(lines), tuple(changes))


def take_out_maxconn(content: bytes) -> bytes:
    """Comment out `maxconn` of the process, so that the agent can set another: haproxy takes the
    first that it reads."""
    parsed = parser.parse_config(content.decode(errors="surrogateescape"), {"maxconn"})
    numbers = {
        directive.line
        for section in parsed.of_kind("global")
        for directive in section.directives
        if directive.words[0] == "maxconn"
    }
    lines = content.split(b"\n")
    for number in numbers:
        lines[number - 1] = _HIDDEN + lines[number - 1]
    return b"\n".join(lines)


def read_taken_out_maxconn(content: str) -> int | None:
    """Return the connection limit that `take_out_maxconn` commented out."""
    for line in _read_hidden_lines(content):
        if match := _CONNECTIONS.fullmatch(line):
            return int(match[1])
    return None


def read_joined_statements(content: str) -> tuple[str, ...]:
    """Return the statements for `global` on joined lines that were commented out."""
    joined = map(_JOINED.fullmatch, _read_hidden_lines(content))
    return tuple(statement for match in joined if match for statement in match.groups())


def _read_hidden_lines(content: str) -> Iterator[str]:
    """Yield the lines that haproxy does not see, as they were sent."""
    mark = _HIDDEN.decode()
    if word_counts.has_word(content, mark):
        for line in content.split("\n"):
            if line.startswith(mark):
                yield line.removeprefix(mark)


def restore_config(content: bytes) -> bytes:
    """Return the bytes that `adapt_config` was given."""
    if _HIDDEN not in content:
        return content
    return b"\n".join(line.removeprefix(_HIDDEN) for line in content.split(b"\n"))
