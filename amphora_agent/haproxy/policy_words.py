"""Single words of a configuration, and why one may not be there."""

import ipaddress
import re
from collections.abc import Iterable, Set

from amphora_agent.haproxy import policy_table as table

#: How much of a word a reason repeats.
_SHOWN = 160

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

#: What no line has, besides a carriage return at its end: haproxy takes some of these for the end
#: of the line or the file, some for a blank.
_CONTROLS = re.compile(r"[\0-\x08\x0b-\x1f\x7f]")
_CONTROLS_OR_NEWLINE = re.compile(r"[\0-\x08\n-\x1f\x7f]")

_HOST = r"(?:[0-9A-Za-z._*:+-]|\[[0-9A-Fa-f:.]*\])*"
#: What haproxy takes for an address of a network, and for no file, descriptor or namespace.
STREAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?)@)?{_HOST}")
DATAGRAMS = re.compile(rf"(?:(?:ipv[46]|tcp[46]?|udp[46]?)@)?{_HOST}")


class RefusedError(Exception):
    """The reason, in words. All that begins with `check` may raise it."""


def refused(word: str, why: str = "") -> RefusedError:
    """`why` is by default what the table says, or that it does not have the word."""
    why = why or table.REFUSED.get(word, "the policy does not know it")
    return RefusedError(f"{shown(word)} is not allowed: {why}")


def shown(word: str) -> str:
    """A word as a reason repeats it: printable, and not for ever."""
    plain = word.isascii() and word.isprintable() and word
    shown = word if plain else ascii(word[: _SHOWN + 1])
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def check_controls(written: str) -> None:
    """The control characters of a line as it is written."""
    if not (written.isascii() and written.isprintable()):
        control = _CONTROLS.search(written.removesuffix("\r"))
        if control:
            raise RefusedError(f"the control character {control[0]!a} is not allowed")


def check_plain(keyword: str, arguments: Iterable[str]) -> None:
    """Arguments that may not have control characters, however they are written."""
    for word in arguments:
        if not word.isprintable() and (control := _CONTROLS_OR_NEWLINE.search(word)):
            raise RefusedError(
                f"{keyword} with the control character {control[0]!a} is not allowed"
            )


def check_one_of(keyword: str, word: str, allowed: Iterable[str]) -> None:
    if word not in allowed:
        raise refused(f"{keyword} {word}", table.REFUSED.get(word, ""))


def check_exactly(keyword: str, arguments: tuple[str, ...], allowed: Set[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in allowed:
        wanted = " or ".join(sorted(allowed))
        raise refused(f"{keyword} {' '.join(arguments)}".strip(), f"it can only be {wanted}")


def check_at_most(keyword: str, word: str, most: int) -> None:
    number = re.match(r"([0-9]+)([kKmMgG]?)", word)
    if number and int(number[1].lstrip("0")[:20] or 0) * _UNITS[number[2].lower()] > most:
        raise refused(f"{keyword} {word}", f"at most {most} of it")


def check_log(word: str) -> None:
    """Where logs go to over the network."""
    check_address("log", word, DATAGRAMS)
    host = word.rpartition("@")[2]
    for literal in (host, host.rpartition(":")[0]):
        try:
            ipaddress.ip_address(literal.strip("[]"))
        except ValueError:
            continue
        return
    raise refused(f"log {word}", "logs go to the amphora's syslog, or to an IP address by UDP")


def check_address(keyword: str, word: str, form: re.Pattern[str]) -> None:
    """`form` is STREAMS or DATAGRAMS."""
    if not form.fullmatch(word):
        raise refused(f"{keyword} {word}", "it is no address of a network")
