"""Write a text for keepalived from statements: the only text that keepalived ever reads."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.keepalived.config.parser import LONGEST_LINE, ConfigError
from amphora_agent.keepalived.config.table import Statement

#: The settings of the agent. They come first: when keepalived reads a text again, it leaves out
#: checks for which it does not yet know the user. Root runs them, and keepalived sees to it that
#: nobody else can change them. Without a router id keepalived asks the name service for one, and
#: waits where there is none.
_SETTINGS = (
    "router_id amphora",
    "script_user root",
    "enable_script_security",
)

_INDENT = "    "
_KEYWORD = re.compile(r"[A-Za-z][A-Za-z_-]*")
#: Words that need no quotes.
_PLAIN = re.compile(r"[0-9A-Za-z_./:-]+")
#: What stands for itself in quotes. keepalived looks for macros there, too.
_QUOTABLE = re.compile(r"(?:[ !#%-\[\]-~\x80-\xff]|\$(?![_{]))*")


class Rendered(NamedTuple):
    """A text for keepalived. `lines` has for each of its lines that of the text that it was made
    of; 0 stands for the agent's own."""

    text: bytes
    lines: tuple[int, ...]


class _Line(NamedTuple):
    text: str
    source: int


def render(statements: Iterable[Statement], header: str = "", fifo: str = "") -> Rendered:
    """Return the text for keepalived, `header` as a comment in its first line. keepalived writes
    each change of an instance's state to `fifo`.

    Raises:
        ConfigError: a value cannot be written, or its line would be too long.
    """
    settings = (*_SETTINGS, *((f"vrrp_notify_fifo {_quoted(0, fifo)}",) if fifo else ()))
    own = (
        f"# {header}" if header else "# Written by amphora-agent.",
        "global_defs {",
        *(f"{_INDENT}{setting}" for setting in settings),
        "}",
    )
    lines = [*(_checked(_Line(text, 0)) for text in own), *_lines(statements, "")]
    text = "".join(f"{line.text}\n" for line in lines)
    return Rendered(text.encode("latin-1"), tuple(line.source for line in lines))


def _lines(statements: Iterable[Statement], indent: str) -> Iterator[_Line]:
    for statement in statements:
        words = [_quoted(statement.line, value) for value in statement.values]
        if statement.keyword:
            if not _KEYWORD.fullmatch(statement.keyword):
                raise ConfigError(statement.line, "this keyword cannot be written")
            words.insert(0, statement.keyword)
        text = indent + " ".join(words)
        if statement.block is None:
            yield _checked(_Line(text, statement.line))
        else:
            yield _checked(_Line(f"{text} {{", statement.line))
            yield from _lines(statement.block, indent + _INDENT)
            yield _Line(f"{indent}}}", statement.line)


def _checked(line: _Line) -> _Line:
    if len(line.text) > LONGEST_LINE:
        raise ConfigError(line.source, f"the line is longer than {LONGEST_LINE} bytes")
    return line


def _quoted(line: int, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    # In blocks that are another process's, keepalived counts braces in quotes, too.
    if value in ("{", "}") or not _QUOTABLE.fullmatch(value):
        raise ConfigError(line, "a value cannot be written for keepalived")
    return f'"{value}"'
