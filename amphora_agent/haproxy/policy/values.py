"""Check single words of a configuration: addresses, files, numbers."""

import ipaddress
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass

from amphora_agent.haproxy.policy import table
from amphora_agent.haproxy.policy.table import ArgumentKind
from amphora_agent.model.addressing import split_endpoint, without_brackets

#: Characters of a word that a reason repeats.
_SHOWN = 160

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

#: Characters that no line may have, but for a carriage return at its end: haproxy takes some of
#: them for the end of the line or the file, some for a blank.
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_CONTROLS_OR_NEWLINE = re.compile(r"[\0-\x08\n-\x1f\x7f]")

_HOST = r"(?:[0-9A-Za-z._*:+-]|\[[0-9A-Fa-f:.]*\])*"
#: Words that haproxy takes for a network address, and not for a file, descriptor or namespace.
STREAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?)@)?{_HOST}")
DATAGRAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?|udp[46]?)@)?{_HOST}")


class RefusedError(Exception):
    """A word is refused; the text is the reason. Each function named `check` may raise it."""


def refuse_word(word: str, why: str = "") -> RefusedError:
    """Return the refusal of a word. By default the table says why."""
    why = why or table.REFUSED.get(word, "the policy does not know it")
    return RefusedError(f"{show_word(word)} is not allowed: {why}")


def show_word(word: str) -> str:
    """Return a word as a reason repeats it: printable, of limited length."""
    plain = word.isascii() and word.isprintable() and word
    shown = word if plain else ascii(word[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def check_controls(written: str) -> None:
    """Check that a line as written has no control characters."""
    if not (written.isascii() and written.isprintable()):
        control = _CONTROLS.search(written.removesuffix("\r"))
        if control:
            raise RefusedError(f"the control character {control[0]!a} is not allowed")


def check_plain(keyword: str, arguments: Iterable[str]) -> None:
    """Check that arguments have no control characters, however they are written."""
    for word in arguments:
        if not word.isprintable() and (control := _CONTROLS_OR_NEWLINE.search(word)):
            raise RefusedError(
                f"{keyword} with the control character {control[0]!a} is not allowed"
            )


def check_one_of(keyword: str, word: str, allowed: Iterable[str]) -> None:
    if word not in allowed:
        raise refuse_word(f"{keyword} {word}", table.REFUSED.get(word, ""))


def check_exactly(keyword: str, arguments: tuple[str, ...], allowed: Set[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in allowed:
        wanted = " or ".join(sorted(allowed))
        raise refuse_word(f"{keyword} {' '.join(arguments)}".strip(), f"it can only be {wanted}")


def check_at_most(keyword: str, word: str, most: int) -> None:
    number = re.match(r"([0-9]+)([kKmMgG]?)", word)
    if number and int(number[1].lstrip("0")[:20] or 0) * _UNITS[number[2].lower()] > most:
        raise refuse_word(f"{keyword} {word}", f"at most {most} of it")


def check_log(word: str) -> None:
    """Check a network address for logs."""
    check_address("log", word, DATAGRAMS)
    host = word.rpartition("@")[2]
    for literal in (without_brackets(host), split_endpoint(host)[0]):
        try:
            ipaddress.ip_address(literal)
        except ValueError:
            continue
        return
    raise refuse_word(f"log {word}", "logs go to the amphora's syslog, or to an IP address by UDP")


def check_address(keyword: str, word: str, form: re.Pattern[str]) -> None:
    """Check a network address. `form` is STREAMS or DATAGRAMS."""
    if not form.fullmatch(word):
        raise refuse_word(f"{keyword} {word}", "it is no address of a network")


#: Functions remove these from their arguments.
QUOTING = re.compile(r"[\"'\\]")


@dataclass(frozen=True)
class Bounds:
    """Absolute paths that a configuration of one instance may name.

    `base` is the agent's base_path; `directory` and `certificates` are the instance's own.
    `agent_port` is where the agent's API listens. Each method named `check` raises RefusedError.
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

    def check_bind(self, word: str) -> None:
        """Check the addresses of a `bind` line, separated by commas."""
        for address in word.split(","):
            check_address("bind", address, STREAMS)
            host, ports = split_endpoint(address.rpartition("@")[2])
            if _has_port(ports, self.agent_port) and _is_everywhere(host):
                raise refuse_word(f"bind {address}", "the agent's own API is there")

    def check_file(self, option: str, word: str, kind: ArgumentKind) -> None:
        """Check a file that haproxy reads for TLS, of one of the three kinds."""
        if _is_below(word, self.certificates):
            return
        if kind is ArgumentKind.CERTIFICATES and word.removesuffix("/") == self.certificates:
            return
        if kind is ArgumentKind.AUTHORITY and word in table.TRUST_STORES:
            return
        raise refuse_word(f"{option} {word}", f"it is not below {self.certificates}")

    def check_answer_file(self, option: str, path: str) -> None:
        """Check a file whose content a client gets."""
        # Keys are below that directory, too, and have other names.
        if not (_is_below(path, self.base) and path.endswith(table.ANSWER_FILES)):
            endings = ", ".join(table.ANSWER_FILES)
            raise refuse_word(f"{option} {path}", f"it is no file {endings} below {self.base}")

    def check_own_file(self, option: str, path: str) -> None:
        """Check a file in which haproxy looks up values."""
        if not _is_below(path, self.directory):
            raise refuse_word(f"{option} {path}", f"it is not below {self.directory}")


def _has_port(ports: str, port: int) -> bool:
    low, _, high = ports.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        return False
    # Zeros in front are for haproxy to pass over.
    return int(low[-9:]) <= port <= int((high or low)[-9:])


def _is_everywhere(host: str) -> bool:
    """Whether a host covers the agent's addresses. VIPs are in a network namespace of their own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True  # `*`, nothing, or a name
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_unspecified or address.is_loopback


def _is_below(path: str, directory: str) -> bool:
    """Whether a path is below a directory, and plainly written: functions remove quotes from their
    arguments."""
    inside = path.removeprefix(f"{directory}/")
    return (
        inside != path
        and not QUOTING.search(inside)
        and all(part not in ("", ".", "..") for part in inside.split("/"))
    )
