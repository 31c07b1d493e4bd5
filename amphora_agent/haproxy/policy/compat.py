"""What old controllers send and haproxy refuses, made acceptable and not forgotten.

A file that is mended says in a comment, which haproxy passes over, how it came: from the file
alone `as_sent` gives back the controller's very bytes, and lines keep their numbers.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from amphora_agent.haproxy.config import parser, word_counts

#: In front of a line of a configuration that haproxy is not to see.
_PASSED_OVER = b"#amphora-agent:"

#: Statements that haproxy refuses. The option chose between two engines in 1.9 and 2.0, and is not
#: known any more. The group is what releases 1 and 2 write when they leave it to the agent.
_REFUSED = frozenset(
    {("option", "http-use-htx"), ("no", "option", "http-use-htx"), ("group", "None")}
)
#: Two statements on one line, as releases 12 to 18 write them for an amphora whose CPUs are pinned.
_JOINED = re.compile(
    r"\s*(cpu-map (?:auto:)?[0-9]+(?:/[0-9-]+)?(?: [0-9,-]+)+)\s+(external-check)\s*"
)
_CONNECTIONS = re.compile(r"\s*maxconn\s+([0-9]{1,10})\s*")
#: What a text with one of them has somewhere, for a quick look.
_SIGNS = ("http-use-htx", "group None", "cpu-map", _PASSED_OVER.decode())


class AdaptedConfig(NamedTuple):
    """`content` is for haproxy; `changes` says what was done, in words for the log."""

    content: bytes
    changes: tuple[str, ...]


def adapt_config(sent: bytes, content: str | None = None) -> AdaptedConfig:
    """Return a configuration without the lines that haproxy refuses; `content` is the same as
    text, if that is at hand. What such a line means is told by `separated`."""
    if content is None:
        content = sent.decode(errors="surrogateescape")
    if not any(word_counts.has_word(content, sign) for sign in _SIGNS):
        return AdaptedConfig(sent, ())
    lines = sent.split(b"\n")
    changes = []
    for index, line in enumerate(lines):
        read = line.decode(errors="replace")
        joined = _JOINED.fullmatch(read)
        refused = joined or parser.split_words(read) in _REFUSED
        if refused:
            done = "separated into statements" if joined else "left out"
            changes.append(f"line {index + 1} {done}: {read.strip()!r}")
        # A comment of the controller's that looks like one of these has to come back as well.
        if refused or line.startswith(_PASSED_OVER):
            lines[index] = _PASSED_OVER + line
    return AdaptedConfig(b"\n".join(lines), tuple(changes))


def take_out_maxconn(content: bytes) -> bytes:
    """Return a mended configuration without the connection limit of the process, for the agent to
    say another: haproxy takes the first that it reads."""
    parsed = parser.parse_config(content.decode(errors="surrogateescape"), {"maxconn"})
    numbers = {
        directive.line
        for section in parsed.of_kind("global")
        for directive in section.directives
        if directive.words[0] == "maxconn"
    }
    lines = content.split(b"\n")
    for number in numbers:
        lines[number - 1] = _PASSED_OVER + lines[number - 1]
    return b"\n".join(lines)


def read_taken_out_maxconn(content: str) -> int | None:
    """Return the connection limit that `without_connections` took out of a configuration."""
    for line in _passed_over(content):
        if match := _CONNECTIONS.fullmatch(line):
            return int(match[1])
    return None


def read_joined_statements(content: str) -> tuple[str, ...]:
    """Return the statements for `global` that a mended configuration has on joined lines."""
    joined = map(_JOINED.fullmatch, _passed_over(content))
    return tuple(statement for match in joined if match for statement in match.groups())


def _passed_over(content: str) -> Iterator[str]:
    """The lines of a mended configuration that haproxy does not see, as they were sent."""
    mark = _PASSED_OVER.decode()
    if word_counts.has_word(content, mark):
        for line in content.split("\n"):
            if line.startswith(mark):
                yield line.removeprefix(mark)


def restore_config(content: bytes) -> bytes:
    """What `configuration` was given."""
    if _PASSED_OVER not in content:
        return content
    return b"\n".join(line.removeprefix(_PASSED_OVER) for line in content.split(b"\n"))
