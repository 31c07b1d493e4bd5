"""Render statements as the text that keepalived reads."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amphora_agent.keepalived.config.parser import LONGEST_LINE, ConfigError
from amphora_agent.keepalived.config.table import Statement

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
