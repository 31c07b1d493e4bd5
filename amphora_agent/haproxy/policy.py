"""What an uploaded configuration may contain (docs/policy.md).

The controller is trusted to configure load balancing, not to run code in the amphora: text of
tenants reaches what it sends. Everything is refused that `policy_table` does not have, before
haproxy sees it. Whether what is allowed makes sense is haproxy's to say.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from amphora_agent.haproxy import policy_table as table
from amphora_agent.haproxy.policy_table import Kind
from amphora_agent.haproxy.text import SECTIONS, Block, Directive, split

#: So many are told; who uploads nonsense need not be told all of it.
_MOST = 50

#: How much of a word a reason repeats.
_SHOWN = 160


@dataclass(frozen=True)
class Bounds:
    """What a configuration of one instance may name; absolute paths.

    `base` is the agent's base_path, `directory` and `certificates` are the instance's own.
    `agent_port` is where the agent's API listens.
    """

    base: str
    directory: str
    certificates: str
    stats_socket: str
    state_file: str
    pid_file: str
    ping_wrapper: str
    group: str
    agent_port: int


class Violation(NamedTuple):
    file: str
    line: int
    reason: str


def violations(blocks: Iterable[Block], bounds: Bounds) -> list[Violation]:
    """What of these sections an instance with these bounds may not contain, in their order.

    Each section is looked at for itself: those that have not changed need not be given.
    """
    found: list[Violation] = []
    policy = _Policy(bounds)
    for block in blocks:
        for line, reason in policy.of(block):
            found.append(Violation(block.file, line, reason))
            if len(found) == _MOST:
                return found
    return found


def crt_list_violations(file: str, text: str, bounds: Bounds) -> list[Violation]:
    """What of a crt-list an instance with these bounds may not contain: it names files, too."""
    found: list[Violation] = []
    policy = _Policy(bounds)
    for number, line in enumerate(text.split("\n"), 1):
        try:
            policy.crt_list_line(line)
        except _RefusedError as error:
            found.append(Violation(file, number, str(error)))
            if len(found) == _MOST:
                break
    return found


class _RefusedError(Exception):
    """The reason, in words. All that begins with `_check` or is of `_Policy` may raise it."""


def _refused(word: str, why: str = "") -> _RefusedError:
    why = why or table.REFUSED.get(word, "the policy does not know it")
    return _RefusedError(f"{_shown(word)} is not allowed: {why}")


def _shown(word: str) -> str:
    plain = word.isascii() and word.isprintable() and word
    shown = word if plain else ascii(word[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


#: What no line has, besides a carriage return at its end: haproxy takes some of these for the end
#: of the line or the file, some for a blank.
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\x00")
_CONTROLS_OR_NEWLINE = re.compile(r"[\0-\x08\n-\x1f\x7f]")

_BLANKS = " \t\r"
_BLANK = re.compile(rf"[{_BLANKS}]+")


def _check_controls(written: str) -> None:
    if not (written.isascii() and written.isprintable()):
        control = _CONTROLS.search(written.removesuffix("\r"))
        if control:
            raise _RefusedError(f"the control character {control[0]!a} is not allowed")


#: Directives with text in which escaped control characters mean something.
_FREE_TEXT = frozenset(
    {
        "acl", "error-log-format", "http-after-response", "http-check", "http-error",
        "http-request", "http-response", "log-format", "log-format-sd", "option", "tcp-check",
    }
)  # fmt: skip


class _Policy:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        #: Lines by kind of section that are known to be right: most are there many times.
        self._right: set[tuple[str, str]] = set()

    def of(self, block: Block) -> Iterator[tuple[int, str]]:
        """Line and reason."""
        kind = ""
        for number, written in enumerate(block.text.split("\n"), block.line):
            if (kind, written) in self._right:
                continue
            words: tuple[str, ...] = ()
            try:
                words = self._words(written)
                if words and words[0] in SECTIONS:
                    kind = words[0]
                    if kind not in table.SECTIONS:
                        raise _refused(kind)
                elif words and (not kind or kind in table.SECTIONS):
                    # In a section that is refused, nothing more is said of the lines.
                    self._directive(kind, words)
            except _RefusedError as error:
                yield number, str(error)
            else:
                if not words or words[0] != kind:
                    self._right.add((kind, written))

    def crt_list_line(self, line: str) -> None:
        """A certificate, options of `bind` for it in brackets, and names of servers."""
        _check_controls(line)
        line = line.strip(_BLANKS)
        if not line or line.startswith("#"):
            return
        path, _, behind = line.partition("[")
        options = tuple(_BLANK.split(behind.partition("]")[0].strip(_BLANKS)))
        self._options("crt-list", options if options != ("",) else (), table.BIND)
        self._value("crt-list", _BLANK.split(path)[0], Kind.CERTIFICATE)

    def _words(self, written: str) -> tuple[str, ...]:
        _check_controls(written)
        if r"\x00" in written and _ESCAPED_NUL.search(written):
            raise _RefusedError(r"\x00 is not allowed: it hides what is behind it")
        words = split(written)
        if "$" in written and Directive(0, words, written).expands:
            raise _RefusedError(
                "$ in double quotes is not allowed: haproxy would put an environment variable there"
            )
        return words

    # Directives

    def _directive(self, kind: str, words: tuple[str, ...]) -> None:
        keyword, arguments = words[0], words[1:]
        if keyword in ("no", "default") and arguments:
            keyword, arguments = arguments[0], arguments[1:]
            if keyword not in table.NEGATED:
                raise _refused(keyword, "" if keyword in table.REFUSED else "it has no opposite")
        if keyword.startswith("."):
            raise _refused(keyword, table.REFUSED[".if"])
        if keyword not in table.SECTIONS.get(kind, ()):
            if keyword in table.REFUSED:
                raise _refused(keyword)
            # In haproxy's words, as far as they go.
            where = f"in '{kind}' section" if kind else "out of section"
            raise _RefusedError(
                f"unknown keyword '{_shown(keyword)}' {where}: it is not allowed, for the policy"
                " does not know it"
            )
        self._plain(keyword, arguments)
        if keyword == "acl":
            self._acl(arguments[1:])
            return
        self._arguments(kind, keyword, arguments)
        self._expressions(arguments)

    def _plain(self, keyword: str, arguments: tuple[str, ...]) -> None:
        if keyword in _FREE_TEXT and arguments[:1] != ("redirect",):
            return
        for word in arguments:
            if not word.isprintable() and (control := _CONTROLS_OR_NEWLINE.search(word)):
                raise _RefusedError(
                    f"{keyword} with the control character {control[0]!a} is not allowed"
                )

    def _arguments(self, kind: str, keyword: str, arguments: tuple[str, ...]) -> None:
        first, second = (*arguments, "", "")[:2]
        match keyword:
            case "bind":
                self._bind(first)
                self._options(keyword, arguments[1:], table.BIND)
            case "default-bind":
                self._options(keyword, arguments, table.BIND)
            case "server" | "peer":
                # A server of a peers section that is this amphora itself has no address.
                if len(arguments) > 1:
                    self._value(keyword, second, Kind.ADDRESS)
                self._options(keyword, arguments[2:], table.SERVER)
            case "server-template":
                self._value(keyword, (*arguments, "", "", "")[2], Kind.ADDRESS)
                self._options(keyword, arguments[3:], table.SERVER)
            case "default-server":
                self._options(keyword, arguments, table.SERVER)
            case "source" | "dispatch":
                self._options(keyword, (keyword, *arguments), _SOURCE)
            case "nameserver":
                self._address(keyword, second, _DATAGRAMS)
            case "log" if arguments:
                if first != "global" and first not in table.LOG_SOCKETS:
                    self._log(first)
            case "option":
                self._one_of(keyword, first, table.OPTIONS)
            case "stats" if kind == "global":
                self._stats(arguments)
            case "stats":
                self._one_of(keyword, first, table.STATISTICS)
            case "filter":
                self._one_of(keyword, first, table.FILTERS)
            case "http-check" | "tcp-check":
                self._one_of(keyword, first, table.CHECKS)
                for option, value in pairwise(arguments):
                    if option == "addr":
                        self._value(option, value, Kind.ADDRESS)
            case "http-request" | "http-response" | "http-after-response":
                self._action(keyword, arguments)
            case "tcp-request" | "tcp-response":
                skipped = 1 if first in table.MOMENTS else 0
                self._action(keyword, arguments[skipped:])
            case "http-error":
                self._answer(arguments)
            case "errorfile":
                self._answer_file(keyword, second)
            case _:
                self._simple(kind, keyword, arguments, first)

    def _simple(self, kind: str, keyword: str, arguments: tuple[str, ...], first: str) -> None:
        bounds = self._bounds
        match (kind, keyword):
            case ("global", "user"):
                self._exactly(keyword, arguments, table.USERS)
            case ("global", "group"):
                self._exactly(keyword, arguments, table.GROUPS | {bounds.group})
            case ("global", "external-check"):
                if arguments:
                    raise _refused(f"{keyword} {first}", table.REFUSED["env"])
            case (_, "external-check"):
                if arguments[:1] != ("command",):
                    raise _refused(f"{keyword} {first}", table.REFUSED["command"])
                self._exactly(
                    f"{keyword} {first}", arguments[1:], {bounds.ping_wrapper, table.PING_WRAPPER}
                )
            case (_, "server-state-file"):
                self._exactly(keyword, arguments, {bounds.state_file})
            case (_, "pidfile"):
                self._exactly(keyword, arguments, {bounds.pid_file})
            case (_, "ssl-dh-param-file"):
                self._value(keyword, first, Kind.CERTIFICATE)
            case (_, "load-server-state-from-file"):
                self._exactly(keyword, arguments, {"global", "none"})
            case ("cache", "total-max-size"):
                self._at_most(keyword, first, table.CACHE)
            case ("global", _) if keyword in table.TUNE:
                self._at_most(keyword, first, table.TUNE[keyword])

    def _one_of(self, keyword: str, word: str, allowed: Iterable[str]) -> None:
        if word not in allowed:
            raise _refused(f"{keyword} {word}", table.REFUSED.get(word, ""))

    def _exactly(self, keyword: str, arguments: tuple[str, ...], allowed: Set[str]) -> None:
        if len(arguments) != 1 or arguments[0] not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise _refused(f"{keyword} {' '.join(arguments)}".strip(), f"it can only be {wanted}")

    def _at_most(self, keyword: str, word: str, most: int) -> None:
        number = re.match(r"([0-9]+)([kKmMgG]?)", word)
        if number and int(number[1].lstrip("0")[:20] or 0) * _UNITS[number[2].lower()] > most:
            raise _refused(f"{keyword} {word}", f"at most {most} of it")

    # Addresses

    def _bind(self, word: str) -> None:
        for address in word.split(","):
            self._address("bind", address, _STREAMS)
            host, _, ports = address.rpartition("@")[2].rpartition(":")
            if _has_port(ports, self._bounds.agent_port) and _is_everywhere(host):
                raise _refused(f"bind {address}", "the agent's own API is there")

    def _log(self, word: str) -> None:
        self._address("log", word, _DATAGRAMS)
        host = word.rpartition("@")[2]
        for literal in (host, host.rpartition(":")[0]):
            try:
                ipaddress.ip_address(literal.strip("[]"))
            except ValueError:
                continue
            return
        raise _refused(f"log {word}", "logs go to the amphora's syslog, or to an IP address by UDP")

    def _address(self, keyword: str, word: str, form: re.Pattern[str]) -> None:
        if not form.fullmatch(word):
            raise _refused(f"{keyword} {word}", "it is no address of a network")

    # Options of a line

    def _options(self, keyword: str, words: tuple[str, ...], options: Mapping[str, Kind]) -> None:
        position = 0
        while position < len(words):
            option = words[position]
            position += 1
            kind = options.get(option)
            if kind is None:
                raise _refused(f"{keyword} ... {option}", table.REFUSED.get(option, ""))
            if kind is not Kind.NONE:
                self._value(option, words[position] if position < len(words) else "", kind)
                position += 1

    def _value(self, option: str, word: str, kind: Kind) -> None:
        bounds = self._bounds
        match kind:
            case Kind.ADDRESS:
                self._address(option, word, _STREAMS)
                return
            case Kind.EXPRESSION:
                _check_expression(word)
                return
            case Kind.CERTIFICATE | Kind.CERTIFICATES | Kind.AUTHORITY:
                if _is_below(word, bounds.certificates):
                    return
            case _:
                return
        if kind is Kind.CERTIFICATES and word.removesuffix("/") == bounds.certificates:
            return
        if kind is Kind.AUTHORITY and word in table.TRUST_STORES:
            return
        raise _refused(f"{option} {word}", f"it is not below {bounds.certificates}")

    def _stats(self, arguments: tuple[str, ...]) -> None:
        """`stats` in the section `global`."""
        if arguments[:1] in (("maxconn",), ("timeout",)):
            return
        if arguments[:2] != ("socket", self._bounds.stats_socket):
            raise _refused(
                f"stats {' '.join(arguments[:2])}",
                f"it can only be the socket {self._bounds.stats_socket}",
            )
        options = dict(zip(arguments[2::2], arguments[3::2], strict=False))
        if len(arguments) % 2 or options.pop("level", None) != "user":
            raise _refused("stats socket", "without `level user` it can do more than tell")
        if options.pop("mode", "0666") not in table.SOCKET_MODES or options:
            raise _refused(f"stats socket ... {' '.join(arguments[2:])}")

    # Rules

    def _action(self, keyword: str, arguments: tuple[str, ...]) -> None:
        word = arguments[0] if arguments else ""
        action, parenthesis, inside = word.partition("(")
        if action not in table.ACTIONS:
            raise _refused(f"{keyword} {action}", table.REFUSED.get(action, ""))
        if action == "use-service":
            self._one_of(action, (*arguments, "")[1], table.SERVICES)
        if parenthesis and action in table.FILE_ACTIONS:
            self._own_file(action, inside.rpartition(")")[0])
        self._answer(arguments[1:])

    def _answer(self, words: tuple[str, ...]) -> None:
        """The files of which a client gets the content."""
        for option, value in pairwise(words):
            if option in table.ANSWERS:
                self._answer_file(option, value)

    def _answer_file(self, option: str, path: str) -> None:
        # Keys are below that directory, too, and have other names.
        if not (_is_below(path, self._bounds.base) and path.endswith(table.ANSWER_FILES)):
            endings = ", ".join(table.ANSWER_FILES)
            raise _refused(f"{option} {path}", f"it is no file {endings} below {self._bounds.base}")

    def _own_file(self, option: str, path: str) -> None:
        if not _is_below(path, self._bounds.directory):
            raise _refused(f"{option} {path}", f"it is not below {self._bounds.directory}")

    # Expressions

    def _acl(self, words: tuple[str, ...]) -> None:
        """An ACL from its expression on. Its patterns are taken as they are."""
        if not words:
            return
        self._functions(words[0])
        _check_expression(words[0])
        position = 1
        while position < len(words) and words[position].startswith("-"):
            flag = words[position]
            if flag == "--":
                return
            if flag == "-f":
                self._own_file(flag, (*words, "")[position + 1])
            # Any other flag is haproxy's to refuse.
            position += 1 + table.ACL_FLAGS.get(flag, 0)

    def _expressions(self, words: tuple[str, ...]) -> None:
        """All of a line that is not an ACL: formats with `%[…]`, conditions, functions."""
        position = 0
        condition = False
        while position < len(words):
            word = words[position]
            position += 1
            if condition and word.lstrip("!") == "{":
                end = next((i for i in range(position, len(words)) if words[i] == "}"), len(words))
                self._acl(words[position:end])
                position = end
                continue
            condition = condition or word in ("if", "unless")
            if "(" in word or "_" in word:
                self._functions(word)
            if "%" in word:
                for found in _FORMATTED.finditer(word):
                    _check_expression(word[found.end() :], end="]")

    def _functions(self, word: str) -> None:
        """Those that reach beyond the connection, wherever they stand in a word."""
        for found in _FAR.finditer(word):
            name = found[1]
            if name == "env":
                raise _refused("env()", table.REFUSED["env"])
            if name.endswith("_key"):
                raise _refused(name, "it tells the keys of connections")
            inside = word[found.end() + 1 :].partition(")")[0].split(",")
            if name.startswith("map"):
                self._own_file(f"{name}()", inside[0])
                continue
            # jwt_verify(algorithm,key): a secret, or the file of one.
            if _QUOTING.search(word, found.end()):
                raise _refused(f"{name}() with quotes")
            for argument in inside[1:]:
                if "/" in argument:
                    self._value(f"{name}()", argument, Kind.CERTIFICATE)


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

_HOST = r"(?:[0-9A-Za-z._*:+-]|\[[0-9A-Fa-f:.]*\])*"
#: What haproxy takes for an address of a network, and for no file, descriptor or namespace.
_STREAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?)@)?{_HOST}")
_DATAGRAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?|udp[46]?)@)?{_HOST}")

_SOURCE = {"source": Kind.ADDRESS, "dispatch": Kind.ADDRESS, "interface": Kind.ANY}

#: Where an expression begins in a format.
_FORMATTED = re.compile(r"(?<!%)(?:%%)*%(?:\([^)]*\))?(?:\{[^}]*\})?\[")
_QUOTING = re.compile(r"[\"'\\]")
_NAME = re.compile(r"[\w.+-]+")
#: Functions that reach beyond the connection.
_FAR = re.compile(r"(?<![\w.])((?:env|map(?:_\w+)?|jwt_verify)(?=\()|ssl_[fb]c_session_key)")


def _has_port(ports: str, port: int) -> bool:
    low, _, high = ports.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        return False
    # Zeros in front are for haproxy to pass over.
    return int(low[-9:]) <= port <= int((high or low)[-9:])


def _is_everywhere(host: str) -> bool:
    """Whether it is any address, or might be. An address of a VIP is in a namespace of its own."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True  # `*`, nothing, or a name
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_unspecified or address.is_loopback


def _is_below(path: str, directory: str) -> bool:
    """Whether it is a file below the directory, written in the one plain way: functions take
    quotes out of their arguments."""
    inside = path.removeprefix(f"{directory}/")
    return (
        inside != path
        and not _QUOTING.search(inside)
        and all(part not in ("", ".", "..") for part in inside.split("/"))
    )


def _check_expression(text: str, end: str = "") -> None:
    """Whether a sample expression consists of known fetches and converters."""
    known = table.FETCHES
    position = 0
    while position < len(text) and not (end and text[position] == end):
        name = _NAME.match(text, position)
        if name is None or name[0] not in known:
            word = name[0] if name else text[position:]
            raise _refused(
                word, table.REFUSED.get(word, "the policy does not know this expression")
            )
        position = name.end()
        if text[position : position + 1] == "(":
            position = _closed(text, position + 1)
        if text[position : position + 1] == ",":
            position += 1
        known = table.CONVERTERS


def _closed(text: str, position: int) -> int:
    """Behind the parenthesis that ends what began at `position`."""
    quote = ""
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and quote != "'":
            position += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == ")":
            break
    return position
