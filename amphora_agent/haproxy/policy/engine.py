"""Judge a configuration by the allow-list (docs/policy.md).

The controller is trusted to configure load balancing, not to run code in the amphora: text of
tenants reaches what it sends. Everything that `table` does not have is refused before haproxy sees
it. Whether what is allowed makes sense is for haproxy to say.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import SECTIONS, Directive, SectionText, split_words
from amphora_agent.haproxy.policy import table, values
from amphora_agent.haproxy.policy.table import ArgumentKind
from amphora_agent.haproxy.policy.values import Bounds, RefusedError, refuse_word

#: Violations that are told; a text with more of them is nonsense.
_MOST = 50

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\x00")
#: Where an expression begins in a format.
_FORMATTED = re.compile(r"(?<!%)(?:%%)*%(?:\([^)]*\))?(?:\{[^}]*\})?\[")
_NAME = re.compile(r"[\w.+-]+")
#: Functions that reach beyond the connection.
_FAR = re.compile(r"(?<![\w.])((?:env|map(?:_\w+)?|jwt_verify)(?=\()|ssl_[fb]c_session_key)")

#: Directives with text in which escaped control characters mean something.
_FREE_TEXT = frozenset(
    {
        "acl", "error-log-format", "http-after-response", "http-check", "http-error",
        "http-request", "http-response", "log-format", "log-format-sd", "option", "tcp-check",
    }
)  # fmt: skip
_FIRST_WORDS = {
    "filter": table.FILTERS,
    "http-check": table.CHECKS,
    "option": table.OPTIONS,
    "tcp-check": table.CHECKS,
}
#: Directives with options: how many arguments come before these, and which options there are.
_OPTIONS = {
    "bind": (1, table.BIND),
    "default-bind": (0, table.BIND),
    "default-server": (0, table.SERVER),
    "peer": (2, table.SERVER),
    "server": (2, table.SERVER),
    "server-template": (3, table.SERVER),
}
_SOURCE = {
    "source": ArgumentKind.ADDRESS,
    "dispatch": ArgumentKind.ADDRESS,
    "interface": ArgumentKind.ANY,
}
_GREATEST = {**table.TUNE, "total-max-size": table.CACHE}


class Violation(NamedTuple):
    """A line that is refused, and the reason."""

    file: str
    line: int
    reason: str


def find_violations(blocks: Iterable[SectionText], bounds: Bounds) -> list[Violation]:
    """Return what an instance with these bounds may not have in these sections, in their order.

    Each section is judged by itself: sections that have not changed need not be given.
    """
    violations: list[Violation] = []
    policy = _Policy(bounds)
    for block in blocks:
        for line, reason in policy.judge(block):
            violations.append(Violation(block.file, line, reason))
            if len(violations) == _MOST:
                return violations
    return violations


class _Policy:
    """Judges lines and their parts. Whatever is named `check` raises RefusedError."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        #: Lines, by kind of section, that are allowed: most of them are there many times.
        self._allowed: set[tuple[str, str]] = set()
        self._exact = {
            "group": table.GROUPS | {bounds.group},
            "load-server-state-from-file": frozenset({"global", "none"}),
            "pidfile": frozenset({bounds.pid_file}),
            "server-state-file": frozenset({bounds.state_file}),
            "user": frozenset({table.USER}),
        }

    def judge(self, block: SectionText) -> Iterator[tuple[int, str]]:
        """Yield the number of each line that is refused, and the reason."""
        kind = ""
        for number, written in enumerate(block.text.split("\n"), block.line):
            if (kind, written) in self._allowed:
                continue
            words: tuple[str, ...] = ()
            try:
                words = _split(written)
                if words and words[0] in SECTIONS:
                    kind = words[0]
                    if kind not in table.SECTIONS:
                        raise refuse_word(kind)
                elif words and (not kind or kind in table.SECTIONS):
                    # Lines of a section that is refused are not judged.
                    self._check_directive(kind, words)
            except RefusedError as error:
                yield number, str(error)
            else:
                if not words or words[0] != kind:
                    self._allowed.add((kind, written))

    def _check_directive(self, kind: str, words: tuple[str, ...]) -> None:
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
            # It begins with haproxy's own words.
            where = f"in '{kind}' section" if kind else "out of section"
            raise RefusedError(
                f"unknown keyword '{values.show_word(keyword)}' {where}: it is not allowed, for the"
                " policy does not know it"
            )
        if keyword not in _FREE_TEXT or arguments[:1] == ("redirect",):
            values.check_plain(keyword, arguments)
        if keyword == "acl":
            self._check_acl(arguments[1:])
            return
        if keyword in _FIRST_WORDS:
            values.check_one_of(keyword, (*arguments, "")[0], _FIRST_WORDS[keyword])
        if keyword in self._exact and kind != "userlist":
            values.check_exactly(keyword, arguments, self._exact[keyword])
        if keyword in _GREATEST:
            values.check_at_most(keyword, (*arguments, "")[0], _GREATEST[keyword])
        self._check_arguments(kind, keyword, arguments)
        if keyword in _OPTIONS:
            skipped, options = _OPTIONS[keyword]
            self._check_options(keyword, arguments[skipped:], options)
        self._check_expressions(arguments)

    def _check_arguments(self, kind: str, keyword: str, arguments: tuple[str, ...]) -> None:
        bounds = self._bounds
        first, second, third = (*arguments, "", "", "")[:3]
        match keyword:
            case "bind":
                bounds.check_bind(first)
            case "server" | "peer":
                values.check_address(keyword, second, values.STREAMS)
            case "server-template":
                values.check_address(keyword, third, values.STREAMS)
            case "source" | "dispatch":
                self._check_options(keyword, (keyword, *arguments), _SOURCE)
            case "nameserver":
                values.check_address(keyword, second, values.DATAGRAMS)
            case "log" if arguments and first != "global" and first not in table.LOG_SOCKETS:
                values.check_log(first)
            case "stats" if kind == "global":
                self._check_stats(arguments)
            case "stats":
                values.check_one_of(keyword, first, table.STATISTICS)
            case "http-check" | "tcp-check":
                for option, value in pairwise(arguments):
                    if option == "addr":
                        values.check_address(option, value, values.STREAMS)
            case "http-request" | "http-response" | "http-after-response":
                self._check_action(keyword, arguments)
            case "tcp-request" | "tcp-response":
                self._check_action(keyword, arguments[1 if first in table.MOMENTS else 0 :])
            case "http-error":
                self._check_answer(arguments)
            case "errorfile":
                bounds.check_answer_file(keyword, second)
            case "external-check":
                self._check_external_check(kind, arguments)
            case "ssl-dh-param-file":
                bounds.check_file(keyword, first, ArgumentKind.CERTIFICATE)
            case _:
                pass  # any argument is allowed

    def _check_options(
        self, keyword: str, words: tuple[str, ...], options: Mapping[str, ArgumentKind]
    ) -> None:
        remaining = iter(words)
        for option in remaining:
            kind = options.get(option)
            if kind is None:
                raise refuse_word(f"{keyword} ... {option}", table.REFUSED.get(option, ""))
            value = "" if kind is ArgumentKind.NONE else next(remaining, "")
            match kind:
                case ArgumentKind.ADDRESS:
                    values.check_address(option, value, values.STREAMS)
                case ArgumentKind.EXPRESSION:
                    check_expression(value)
                case ArgumentKind.CERTIFICATE | ArgumentKind.CERTIFICATES | ArgumentKind.AUTHORITY:
                    self._bounds.check_file(option, value, kind)
                case ArgumentKind.NONE | ArgumentKind.ANY:
                    pass

    def _check_external_check(self, kind: str, arguments: tuple[str, ...]) -> None:
        name = " ".join(("external-check", *arguments[:1]))
        if kind == "global":
            if arguments:
                raise refuse_word(name, table.REFUSED["env"])
        elif arguments[:1] != ("command",):
            raise refuse_word(name, table.REFUSED["command"])
        else:
            values.check_exactly(
                name, arguments[1:], {self._bounds.ping_wrapper, table.PING_WRAPPER}
            )

    def _check_stats(self, arguments: tuple[str, ...]) -> None:
        """Check `stats` in the section `global`."""
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

    def _check_action(self, keyword: str, arguments: tuple[str, ...]) -> None:
        action, parenthesis, inside = (*arguments, "")[0].partition("(")
        if action not in table.ACTIONS:
            raise refuse_word(f"{keyword} {action}", table.REFUSED.get(action, ""))
        if action == "use-service":
            values.check_one_of(action, (*arguments, "")[1], table.SERVICES)
        if parenthesis and action in table.FILE_ACTIONS:
            self._bounds.check_own_file(action, inside.rpartition(")")[0])
        self._check_answer(arguments[1:])

    def _check_answer(self, words: tuple[str, ...]) -> None:
        """Check files whose content a client gets."""
        for option, value in pairwise(words):
            if option in table.ANSWERS:
                self._bounds.check_answer_file(option, value)

    def _check_acl(self, words: tuple[str, ...]) -> None:
        """Check an ACL from its expression on. Its patterns may be anything."""
        if not words:
            return
        self._check_functions(words[0])
        check_expression(words[0])
        remaining = iter(words[1:])
        for flag in remaining:
            if flag == "--" or not flag.startswith("-"):
                return
            # An unknown flag is for haproxy to refuse.
            arguments = [next(remaining, "") for _ in range(table.ACL_FLAGS.get(flag, 0))]
            if flag == "-f":
                self._bounds.check_own_file(flag, arguments[0])

    def _check_expressions(self, words: tuple[str, ...]) -> None:
        """Check a line that is no ACL: formats with `%[…]`, conditions, functions."""
        position = 0
        condition = False
        while position < len(words):
            word = words[position]
            position += 1
            if condition and word.lstrip("!") == "{":
                end = next((i for i in range(position, len(words)) if words[i] == "}"), len(words))
                self._check_acl(words[position:end])
                position = end
                continue
            condition = condition or word in ("if", "unless")
            if "(" in word or "_" in word:
                self._check_functions(word)
            if "%" in word:
                for found in _FORMATTED.finditer(word):
                    check_expression(word[found.end() :], end="]")

    def _check_functions(self, word: str) -> None:
        """Check functions that reach beyond the connection, wherever they stand in a word."""
        for found in _FAR.finditer(word):
            name = found[1]
            if name == "env":
                raise refuse_word("env()", table.REFUSED["env"])
            if name.endswith("_key"):
                raise refuse_word(name, "it tells the keys of connections")
            inside = word[found.end() + 1 :].partition(")")[0].split(",")
            if name.startswith("map"):
                self._bounds.check_own_file(f"{name}()", inside[0])
                continue
            # jwt_verify(algorithm,key): a secret, or the file of one.
            if values.QUOTING.search(word, found.end()):
                raise refuse_word(f"{name}() with quotes")
            for argument in inside[1:]:
                if "/" in argument:
                    self._bounds.check_file(f"{name}()", argument, ArgumentKind.CERTIFICATE)


def _split(written: str) -> tuple[str, ...]:
    """Return the words of a line.

    Raises:
        RefusedError: haproxy might read another line than what is written.
    """
    values.check_controls(written)
    if r"\x00" in written and _ESCAPED_NUL.search(written):
        raise RefusedError(r"\x00 is not allowed: it hides what is behind it")
    words = split_words(written)
    if "$" in written and Directive(0, words, written).expands:
        raise RefusedError(
            "$ in double quotes is not allowed: haproxy would put an environment variable there"
        )
    return words


def check_expression(text: str, end: str = "") -> None:
    """Check that a sample expression, up to `end`, has known fetches and converters only."""
    known = table.FETCHES
    position = 0
    while position < len(text) and not (end and text[position] == end):
        name = _NAME.match(text, position)
        if name is None or name[0] not in known:
            word = name[0] if name else text[position:]
            reason = table.REFUSED.get(word, "the policy does not know this expression")
            raise refuse_word(word, reason)
        position = name.end()
        if text[position : position + 1] == "(":
            position = _find_end(text, position + 1)
        if text[position : position + 1] == ",":
            position += 1
        known = table.CONVERTERS


def _find_end(text: str, position: int) -> int:
    """Return the place behind the parenthesis that closes what began at `position`."""
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
