"""keepalived's text for a UDP or SCTP listener: what it may say, and what it says.

The controller writes ids in comments, each before the block that it is about, or instead of one
(`# Member <id> is disabled`). A text has one virtual server for each IP version of the VIPs, whose
addresses are in a group; controllers before 2023 write one virtual server with the one VIP.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

#: Programs that checks may run: `%s` is base_path. The second is found on the PATH.
_CHECKS = ("%s/lvs/check/udp_check.sh", "amphora-health-checker")

_TOP = frozenset({"net_namespace", "virtual_server", "virtual_server_group"})
#: What runs programs or reads other files, in any block; `misc_path` is looked at more closely.
_REACHING_OUT = re.compile(r"include|notify|quorum_|.*script|misc_(?!path$|timeout$)")
#: keepalived's own language: definitions, conditions, repetition, continuation.
_MACRO = frozenset("$~@\\")
_CHECKERS = frozenset({"HTTP_GET", "MISC_CHECK", "TCP_CHECK"})

#: The controller's blocks are at most four deep.
_DEEPEST = 8

_ABOUT = re.compile(r"# Configuration for (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*)\s*")
_DISABLED = re.compile(r"# (Listener|Member|Pool) ([0-9A-Za-z][0-9A-Za-z_-]*) is disabled\s*")

#: Who runs the checks' scripts: root, as long as nobody else may change them.
_ADDITION = "global_defs {\n    script_user root\n    enable_script_security\n}\n"


class Endpoint(NamedTuple):
    """An address, in its shortest form, and a port."""

    address: str
    port: int


@dataclass(frozen=True)
class Member:
    """`endpoint` is None when it is disabled. `checked`: a health monitor looks at it."""

    id: str
    endpoint: Endpoint | None
    checked: bool = False


@dataclass(frozen=True)
class Virtual:
    """What clients reach: `protocol` at each of `endpoints`, if there is a member at all."""

    protocol: str
    endpoints: tuple[Endpoint, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Listener:
    """A listener. Its pool is None when it has none, or none that is enabled."""

    enabled: bool
    pool: str | None
    virtuals: tuple[Virtual, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """All, each once: those that are disabled are written for each IP version."""
        known = {member.id: member for virtual in self.virtuals for member in virtual.members}
        return tuple(known.values())


class _Line(NamedTuple):
    number: int
    words: tuple[str, ...]
    comment: str = ""


class _Block(NamedTuple):
    """A directive, with what is in its braces; `about` is the comment before it."""

    line: _Line
    about: str
    content: "tuple[_Block, ...]"

    @property
    def keyword(self) -> str:
        return self.line.words[0] if self.line.words else ""

    def all(self, keyword: str) -> "Iterator[_Block]":
        return (block for block in self.content if block.keyword == keyword)


def parse(text: str, base_path: str) -> Listener:
    """The listener that a configuration describes.

    Raises:
        ValueError: it is none, or does more than the controller's ever do; with the line.
    """
    lines = list(_lines(text))
    comments = [line.comment for line in lines if line.comment]
    blocks = _blocks(iter(lines))
    for block in blocks:
        if block.keyword and block.keyword not in _TOP:
            raise ValueError(f"line {block.line.number}: {block.keyword} is not allowed here")
    for line in lines:
        _require_harmless(line, base_path)
    top = _Block(_Line(0, ()), "", blocks)
    groups = {
        block.line.words[1]: tuple(
            _endpoint(each.line, 0) for each in block.content if each.keyword
        )
        for block in top.all("virtual_server_group")
        if len(block.line.words) == 2
    }
    pools = [
        found[2] for each in comments if (found := _ABOUT.fullmatch(each)) and found[1] == "Pool"
    ]
    disabled = [found for each in comments if (found := _DISABLED.fullmatch(each))]
    return Listener(
        enabled=not any(found[1] == "Listener" for found in disabled),
        pool=pools[0] if pools else None,
        virtuals=tuple(_virtual(block, groups) for block in top.all("virtual_server")),
    )


def given(configuration: bytes) -> bytes:
    """What keepalived reads: the controller's text, after the agent's addition. In the order of its
    reading it must know who runs scripts; when it reloads, it leaves out checks that come before.
    """
    return _ADDITION.encode() + configuration


def renumbered(words: str) -> str:
    """keepalived's words about what it is given, with the lines of the controller's text."""
    added = _ADDITION.count("\n")
    return re.sub(r"\bLine (\d+)\b", lambda found: f"Line {int(found[1]) - added}", words)


def _virtual(block: _Block, groups: dict[str, tuple[Endpoint, ...]]) -> Virtual:
    line = block.line
    if line.words[1:2] == ("group",):
        if len(line.words) != 3 or line.words[2] not in groups:
            raise ValueError(f"line {line.number}: there is no such group")
        endpoints = groups[line.words[2]]
    else:
        endpoints = (_endpoint(line, 1),)
    protocol = next(
        (each.line.words[1] for each in block.all("protocol") if len(each.line.words) > 1), ""
    )
    if protocol not in ("UDP", "SCTP"):
        raise ValueError(f"line {line.number}: its protocol is neither UDP nor SCTP")
    return Virtual(protocol, endpoints, tuple(_members(block)))


def _members(virtual: _Block) -> Iterator[Member]:
    for block in virtual.content:
        if (found := _DISABLED.fullmatch(block.about)) and found[1] == "Member":
            yield Member(found[2], None)
        if block.keyword != "real_server":
            continue
        found = _ABOUT.fullmatch(block.about)
        if found is None or found[1] != "Member":
            raise ValueError(f"line {block.line.number}: no comment says which member this is")
        checked = any(each.keyword in _CHECKERS for each in block.content)
        yield Member(found[2], _endpoint(block.line, 1), checked)


def _endpoint(line: _Line, first: int) -> Endpoint:
    try:
        address, port = line.words[first:]
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(port)
        return Endpoint(str(ip_address(address)), int(port))
    except ValueError:
        raise ValueError(f"line {line.number}: not an address and a port") from None


def _require_harmless(line: _Line, base_path: str) -> None:
    if not line.words:
        return
    keyword = line.words[0]
    if _REACHING_OUT.match(keyword) or keyword[0] in _MACRO:
        raise ValueError(f"line {line.number}: {keyword} is not allowed here")
    if keyword == "misc_path":
        command = shlex.split(" ".join(line.words[1:]))
        if not command or command[0] not in {each.replace("%s", base_path) for each in _CHECKS}:
            raise ValueError(f"line {line.number}: this program is not allowed here")


# Lines and blocks


def _blocks(lines: Iterator[_Line], depth: int = 0) -> tuple[_Block, ...]:
    """Up to the brace that closes them. A comment without a directive after it is one, too."""
    found: list[_Block] = []
    for line in lines:
        if line.comment:
            found.append(_Block(line, line.comment, ()))
        elif line.words == ("}",):
            if not depth:
                raise ValueError(f"line {line.number}: nothing to close")
            return tuple(found)
        else:
            opens = line.words[-1] == "{"
            own = line._replace(words=line.words[:-1]) if opens else line
            if not own.words or {"{", "}"} & set(own.words):
                raise ValueError(f"line {line.number}: a brace where none belongs")
            if depth == _DEEPEST:
                raise ValueError(f"line {line.number}: too many braces in braces")
            content = _blocks(lines, depth + 1) if opens else ()
            before = found.pop().about if found and not found[-1].keyword else ""
            found.append(_Block(own, before, content))
    if depth:
        raise ValueError("a brace is not closed")
    return tuple(found)


def _lines(text: str) -> Iterator[_Line]:
    """Those that have something in them. Comments begin where keepalived sees one: at `#` or `!`
    outside of quotes."""
    for number, raw in enumerate(text.split("\n"), 1):
        if not raw.replace("\t", " ").isprintable():
            raise ValueError(f"line {number}: has a control character")
        stripped = raw.strip()
        if stripped.startswith("#"):
            yield _Line(number, (), stripped)
            continue
        words = tuple(_words(number, stripped))
        if words:
            yield _Line(number, words)


def _words(number: int, line: str) -> Iterator[str]:
    """Those of a line; what is in quotes is one of them."""
    position = 0
    while position < len(line):
        character = line[position]
        if character in "#!":
            return
        if character in " \t":
            position += 1
            continue
        if character == '"':
            end = line.find('"', position + 1)
            if end < 0:
                raise ValueError(f"line {number}: a quote is not closed")
            yield line[position + 1 : end]
            position = end + 1
            if line[position : position + 1] not in ("", " ", "\t"):
                raise ValueError(f"line {number}: a quote within a word")
            continue
        begin = position
        while position < len(line) and line[position] not in " \t#!":
            position += 1
        word = line[begin:position]
        if '"' in word or word.endswith("\\"):
            raise ValueError(f"line {number}: a quote within a word, or a backslash")
        yield word
