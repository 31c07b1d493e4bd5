"""Judge an uploaded configuration by the allow-list (docs/policy.md).

The controller is trusted to configure load balancing, not to run code in the amphora: text of
tenants reaches what it sends. Everything is refused that `table` does not have, before
haproxy sees it. Whether what is allowed makes sense is haproxy's to say.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import SECTIONS, Directive, SectionText, split_words
from amphora_agent.haproxy.policy import table as table
from amphora_agent.haproxy.policy.table import ArgumentKind
from amphora_agent.haproxy.policy.values import (
    DATAGRAMS,
    QUOTING,
    STREAMS,
    Bounds,
    RefusedError,
    check_address,
    check_at_most,
    check_controls,
    check_exactly,
    check_log,
    check_one_of,
    check_plain,
    refuse_word,
    show_word,
)

#: Where an expression begins in a format.
_FORMATTED = re.compile(r"(?<!%)(?:%%)*%(?:\([^)]*\))?(?:\{[^}]*\})?\[")
_NAME = re.compile(r"[\w.+-]+")
#: Functions that reach beyond the connection.
_FAR = re.compile(r"(?<![\w.])((?:env|map(?:_\w+)?|jwt_verify)(?=\()|ssl_[fb]c_session_key)")


def check_acl(words: tuple[str, ...], bounds: Bounds) -> None:
    """An ACL from its expression on. Its patterns are taken as they are."""
    if not words:
        return
    _check_functions(words[0], bounds)
    check_expression(words[0])
    position = 1
    while position < len(words) and words[position].startswith("-"):
        flag = words[position]
        if flag == "--":
            return
        if flag == "-f":
            bounds.check_own_file(flag, (*words, "")[position + 1])
        # Any other flag is haproxy's to refuse.
        position += 1 + table.ACL_FLAGS.get(flag, 0)


def check_expressions(words: tuple[str, ...], bounds: Bounds) -> None:
    """All of a line that is not an ACL: formats with `%[…]`, conditions, functions."""
    position = 0
    condition = False
    while position < len(words):
        word = words[position]
        position += 1
        if condition and word.lstrip("!") == "{":
            end = next((i for i in range(position, len(words)) if words[i] == "}"), len(words))
            check_acl(words[position:end], bounds)
            position = end
            continue
        condition = condition or word in ("if", "unless")
        if "(" in word or "_" in word:
            _check_functions(word, bounds)
        if "%" in word:
            for found in _FORMATTED.finditer(word):
                check_expression(word[found.end() :], end="]")


def _check_functions(word: str, bounds: Bounds) -> None:
    """Those that reach beyond the connection, wherever they stand in a word."""
    for found in _FAR.finditer(word):
        name = found[1]
        if name == "env":
            raise refuse_word("env()", table.REFUSED["env"])
        if name.endswith("_key"):
            raise refuse_word(name, "it tells the keys of connections")
        inside = word[found.end() + 1 :].partition(")")[0].split(",")
        if name.startswith("map"):
            bounds.check_own_file(f"{name}()", inside[0])
            continue
        # jwt_verify(algorithm,key): a secret, or the file of one.
        if QUOTING.search(word, found.end()):
            raise refuse_word(f"{name}() with quotes")
        for argument in inside[1:]:
            if "/" in argument:
                bounds.check_file(f"{name}()", argument, ArgumentKind.CERTIFICATE)


def check_expression(text: str, end: str = "") -> None:
    """Whether a sample expression consists of known fetches and converters."""
    known = table.FETCHES
    position = 0
    while position < len(text) and not (end and text[position] == end):
        name = _NAME.match(text, position)
        if name is None or name[0] not in known:
            word = name[0] if name else text[position:]
            raise refuse_word(
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


#: So many are told; who uploads nonsense need not be told all of it.
_MOST = 50


class Violation(NamedTuple):
    file: str
    line: int
    reason: str


def find_violations(blocks: Iterable[SectionText], bounds: Bounds) -> list[Violation]:
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


_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\x00")

#: Directives with text in which escaped control characters mean something.
_FREE_TEXT = frozenset(
    {
        "acl", "error-log-format", "http-after-response", "http-check", "http-error",
        "http-request", "http-response", "log-format", "log-format-sd", "option", "tcp-check",
    }
)  # fmt: skip

_SOURCE = {
    "source": ArgumentKind.ADDRESS,
    "dispatch": ArgumentKind.ADDRESS,
    "interface": ArgumentKind.ANY,
}


class _Policy:
    """Judges lines and their parts by raising RefusedError; so does all that is called check."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        #: Lines by kind of section that are known to be right: most are there many times.
        self._right: set[tuple[str, str]] = set()

    def of(self, block: SectionText) -> Iterator[tuple[int, str]]:
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
                        raise refuse_word(kind)
                elif words and (not kind or kind in table.SECTIONS):
                    # In a section that is refused, nothing more is said of the lines.
                    self._directive(kind, words)
            except RefusedError as error:
                yield number, str(error)
            else:
                if not words or words[0] != kind:
                    self._right.add((kind, written))

    def _words(self, written: str) -> tuple[str, ...]:
        check_controls(written)
        if r"\x00" in written and _ESCAPED_NUL.search(written):
            raise RefusedError(r"\x00 is not allowed: it hides what is behind it")
        words = split_words(written)
        if "$" in written and Directive(0, words, written).expands:
            raise RefusedError(
                "$ in double quotes is not allowed: haproxy would put an environment variable there"
            )
        return words

    # Directives

    def _directive(self, kind: str, words: tuple[str, ...]) -> None:
        keyword, arguments = words[0], words[1:]
        if keyword in ("no", "default") and arguments:
            keyword, arguments = arguments[0], arguments[1:]
            if keyword not in table.NEGATED:
                raise refuse_word(keyword, "" if keyword in table.REFUSED else "it has no opposite")
        if keyword.startswith("."):
            raise refuse_word(keyword, table.REFUSED[".if"])
        if keyword not in table.SECTIONS.get(kind, ()):
            if keyword in table.REFUSED:
                raise refuse_word(keyword)
            # In haproxy's words, as far as they go.
            where = f"in '{kind}' section" if kind else "out of section"
            raise RefusedError(
                f"unknown keyword '{show_word(keyword)}' {where}: it is not allowed, for the policy"
                " does not know it"
            )
        if keyword not in _FREE_TEXT or arguments[:1] == ("redirect",):
            check_plain(keyword, arguments)
        if keyword == "acl":
            check_acl(arguments[1:], self._bounds)
            return
        self._arguments(kind, keyword, arguments)
        check_expressions(arguments, self._bounds)

    def _arguments(self, kind: str, keyword: str, arguments: tuple[str, ...]) -> None:
        first, second = (*arguments, "", "")[:2]
        match keyword:
            case "bind":
                self._bounds.check_bind(first)
                self._options(keyword, arguments[1:], table.BIND)
            case "default-bind":
                self._options(keyword, arguments, table.BIND)
            case "server" | "peer":
                # A server of a peers section that is this amphora itself has no address.
                if len(arguments) > 1:
                    self._value(keyword, second, ArgumentKind.ADDRESS)
                self._options(keyword, arguments[2:], table.SERVER)
            case "server-template":
                self._value(keyword, (*arguments, "", "", "")[2], ArgumentKind.ADDRESS)
                self._options(keyword, arguments[3:], table.SERVER)
            case "default-server":
                self._options(keyword, arguments, table.SERVER)
            case "source" | "dispatch":
                self._options(keyword, (keyword, *arguments), _SOURCE)
            case "nameserver":
                check_address(keyword, second, DATAGRAMS)
            case "log" if arguments:
                if first != "global" and first not in table.LOG_SOCKETS:
                    check_log(first)
            case "option":
                check_one_of(keyword, first, table.OPTIONS)
            case "stats" if kind == "global":
                self._stats(arguments)
            case "stats":
                check_one_of(keyword, first, table.STATISTICS)
            case "filter":
                check_one_of(keyword, first, table.FILTERS)
            case "http-check" | "tcp-check":
                check_one_of(keyword, first, table.CHECKS)
                for option, value in pairwise(arguments):
                    if option == "addr":
                        self._value(option, value, ArgumentKind.ADDRESS)
            case "http-request" | "http-response" | "http-after-response":
                self._action(keyword, arguments)
            case "tcp-request" | "tcp-response":
                skipped = 1 if first in table.MOMENTS else 0
                self._action(keyword, arguments[skipped:])
            case "http-error":
                self._answer(arguments)
            case "errorfile":
                self._bounds.check_answer_file(keyword, second)
            case _:
                self._simple(kind, keyword, arguments, first)

    def _simple(self, kind: str, keyword: str, arguments: tuple[str, ...], first: str) -> None:
        bounds = self._bounds
        match (kind, keyword):
            case ("global", "user"):
                check_exactly(keyword, arguments, {table.USER})
            case ("global", "group"):
                check_exactly(keyword, arguments, table.GROUPS | {bounds.group})
            case ("global", "external-check"):
                if arguments:
                    raise refuse_word(f"{keyword} {first}", table.REFUSED["env"])
            case (_, "external-check"):
                if arguments[:1] != ("command",):
                    raise refuse_word(f"{keyword} {first}", table.REFUSED["command"])
                check_exactly(
                    f"{keyword} {first}", arguments[1:], {bounds.ping_wrapper, table.PING_WRAPPER}
                )
            case (_, "server-state-file"):
                check_exactly(keyword, arguments, {bounds.state_file})
            case (_, "pidfile"):
                check_exactly(keyword, arguments, {bounds.pid_file})
            case (_, "ssl-dh-param-file"):
                self._value(keyword, first, ArgumentKind.CERTIFICATE)
            case (_, "load-server-state-from-file"):
                check_exactly(keyword, arguments, {"global", "none"})
            case ("cache", "total-max-size"):
                check_at_most(keyword, first, table.CACHE)
            case ("global", _) if keyword in table.TUNE:
                check_at_most(keyword, first, table.TUNE[keyword])

    # Options of a line

    def _options(
        self, keyword: str, words: tuple[str, ...], options: Mapping[str, ArgumentKind]
    ) -> None:
        position = 0
        while position < len(words):
            option = words[position]
            position += 1
            kind = options.get(option)
            if kind is None:
                raise refuse_word(f"{keyword} ... {option}", table.REFUSED.get(option, ""))
            if kind is not ArgumentKind.NONE:
                self._value(option, words[position] if position < len(words) else "", kind)
                position += 1

    def _value(self, option: str, word: str, kind: ArgumentKind) -> None:
        match kind:
            case ArgumentKind.ADDRESS:
                check_address(option, word, STREAMS)
            case ArgumentKind.EXPRESSION:
                check_expression(word)
            case ArgumentKind.CERTIFICATE | ArgumentKind.CERTIFICATES | ArgumentKind.AUTHORITY:
                self._bounds.check_file(option, word, kind)
            case ArgumentKind.NONE | ArgumentKind.ANY:
                pass

    def _stats(self, arguments: tuple[str, ...]) -> None:
        """`stats` in the section `global`."""
        if arguments[:1] in (("maxconn",), ("timeout",)):
            return
        if arguments[:2] != ("socket", self._bounds.stats_socket):
            raise refuse_word(
                f"stats {' '.join(arguments[:2])}",
                f"it can only be the socket {self._bounds.stats_socket}",
            )
        options = dict(zip(arguments[2::2], arguments[3::2], strict=False))
        if len(arguments) % 2 or options.pop("level", None) != "user":
            raise refuse_word("stats socket", "without `level user` it can do more than tell")
        if options.pop("mode", "0666") not in table.SOCKET_MODES or options:
            raise refuse_word(f"stats socket ... {' '.join(arguments[2:])}")

    # Rules

    def _action(self, keyword: str, arguments: tuple[str, ...]) -> None:
        word = arguments[0] if arguments else ""
        action, parenthesis, inside = word.partition("(")
        if action not in table.ACTIONS:
            raise refuse_word(f"{keyword} {action}", table.REFUSED.get(action, ""))
        if action == "use-service":
            check_one_of(action, (*arguments, "")[1], table.SERVICES)
        if parenthesis and action in table.FILE_ACTIONS:
            self._bounds.check_own_file(action, inside.rpartition(")")[0])
        self._answer(arguments[1:])

    def _answer(self, words: tuple[str, ...]) -> None:
        """The files of which a client gets the content."""
        for option, value in pairwise(words):
            if option in table.ANSWERS:
                self._bounds.check_answer_file(option, value)
