"""Make the configuration that haproxy gets from the one that the controller sent.

A statement of an old controller that haproxy refuses becomes a comment. So lines keep their
numbers, and `restore_config` returns the bytes that the controller sent. A second file has what the
agent itself says to haproxy.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import NamedTuple

from amphora_agent import templates
from amphora_agent.haproxy.config import diff, parser
from amphora_agent.haproxy.config.preflight import Limits
from amphora_agent.haproxy.policy import table

#: How long a worker that was replaced may serve its last connections, and how many further reloads
#: it may see: then haproxy ends it (docs/decisions/0017-bounded-old-workers.md).
HARD_STOP_AFTER = "1h"
MOST_RELOADS = 50

#: Milliseconds until a new member is checked for the first time. haproxy would wait for up to an
#: interval, at a start for as long as the checks are spread over.
FIRST_CHECK = 100

#: The user that haproxy's workers run as.
USER = table.USER

#: Statements of `global` that the agent adds where the controller's text has none.
KEYWORDS = frozenset(
    {"group", "hard-stop-after", "max-spread-checks", "mworker-max-reloads", "user"}
)

_FOLDER = "haproxy_templates"


def addition(configuration: str, group: str, limits: Limits) -> str:
    """Return the second configuration file of an instance.

    Only the amphora knows the name of the group (WIRE §3). Without a user haproxy's worker would
    stay root. A statement that the controller's text has itself is left to it.
    """
    return templates.render(
        _FOLDER,
        "agent.cfg.j2",
        said=_find_keywords(configuration),
        separated=read_joined_statements(configuration),
        limits=limits,
        user=USER,
        group=group,
        first_check=FIRST_CHECK,
        hard_stop_after=HARD_STOP_AFTER,
        most_reloads=MOST_RELOADS,
    )


def _find_keywords(configuration: str) -> frozenset[str]:
    """Return those of `KEYWORDS` that the `global` sections have.

    Large configurations are uploaded for every change. Controllers write `global` first, and
    nearly always that section alone answers.
    """
    first = next((b for b in parser.split_file("", configuration) if b.kind == "global"), None)
    if first is None:
        return frozenset()
    keywords = _read_keywords(first.text)
    if any(diff.has_word(configuration, keyword) for keyword in KEYWORDS - keywords):
        keywords = _read_keywords(configuration)
    return keywords


def _read_keywords(configuration: str) -> frozenset[str]:
    parsed = parser.parse_config(configuration, KEYWORDS)
    return frozenset(line.words[0] for line in parsed.lines("global"))


def check_addition() -> str:
    """Return the file with which a check does not need the memory of a start: haproxy takes the
    last value that it reads."""
    return templates.render(_FOLDER, "check.cfg.j2")


def ping_wrapper() -> str:
    """Return the program that checks the members of pools with a PING monitor."""
    return templates.render(_FOLDER, "ping-wrapper.sh.j2")


def peer_name(amphora_id: str) -> str:
    """Return the name of this amphora among its peers, as the controller writes it (WIRE §3)."""
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = b64encode(digest, b"_-").decode().rstrip("=")
    return f"x{name[1:]}" if name.startswith("-") else name


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
    if not any(diff.has_word(content, word) for word in _WORDS):
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
    lines = content.split(b"\n")
    for directive in parsed.lines("global", "maxconn"):
        lines[directive.line - 1] = _HIDDEN + lines[directive.line - 1]
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
    if diff.has_word(content, mark):
        for line in content.split("\n"):
            if line.startswith(mark):
                yield line.removeprefix(mark)


def restore_config(content: bytes) -> bytes:
    """Return the bytes that `adapt_config` was given."""
    if _HIDDEN not in content:
        return content
    return b"\n".join(line.removeprefix(_HIDDEN) for line in content.split(b"\n"))
