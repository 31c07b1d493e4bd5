"""The forms of values in the table of what keepalived's configurations may contain.

A form takes a word as keepalived reads it, and returns it as keepalived shall read it. It raises
ValueError with what is expected, without the value: that may be a password.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

Form = Callable[[str], str]

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,254}")
_INTERFACE = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,14}")
_HOST = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,254}(:[0-9]{1,5})?")
_NETWORK = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")
_DIGITS = re.compile(r"[0-9]{1,19}")
_STATUSES = re.compile(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?")
#: The path of a URL (RFC 3986), and what else Octavia accepts. keepalived's own macros have names
#: that begin with an underscore.
_URL = re.compile(r"/(?:[!#%&'()*+,\-./:;<=>?@\[\]^_`{|}~0-9A-Za-z\x80-\xff]|\$(?![_{]))*")
_PASSWORD = re.compile(r"[!#%-\[\]-~]+")
_PATH = re.compile(r"/[0-9A-Za-z_./+,=@%:~-]*")
_BLANK = re.compile(r"[ \t\f\r\v]+")

#: The program of SCTP checks, found on the PATH.
HEALTH_CHECKER = "amphora-health-checker"


def name(word: str) -> str:
    """A name that the configuration gives."""
    return _require_match(word, _NAME, "a name")


def interface(word: str) -> str:
    """The name of a network interface."""
    return _require_match(word, _INTERFACE, "the name of an interface")


def host(word: str) -> str:
    """A name of a host for HTTP, with or without a port."""
    return _require_match(word, _HOST, "the name of a host")


def password(word: str) -> str:
    """Printable characters except quotes, `$` and backslash."""
    return _require_match(word, _PASSWORD, "a password of printable characters")


def url(word: str) -> str:
    """The path of a URL, from its slash on."""
    return _require_match(word, _URL, "the path of a URL")


def parse_address(word: str) -> IPv4Address | IPv6Address:
    """Return an IP address without a scope.

    Raises:
        ValueError
    """
    try:
        if "%" not in word:
            return ip_address(word)
    except ValueError:
        pass
    raise ValueError("an IP address is expected")


def address(word: str) -> str:
    """An IP address, in its shortest form."""
    return str(parse_address(word))


def prefixed_address(word: str) -> str:
    """An IP address, with or without the length of its prefix."""
    try:
        if _NETWORK.fullmatch(word):
            given = ip_interface(word)
            return given.with_prefixlen if "/" in word else str(given.ip)
    except ValueError:
        pass
    raise ValueError("an IP address is expected, with or without a prefix")


def network(word: str) -> str:
    """A network, or the address of one host."""
    try:
        if _NETWORK.fullmatch(word):
            return ip_interface(word).network.with_prefixlen
    except ValueError:
        pass
    raise ValueError("a network is expected")


def granularity(word: str) -> str:
    """The part of an address that makes one client: an IPv4 mask, or the length of a prefix."""
    if _DIGITS.fullmatch(word) and 1 <= int(word) <= 128:
        return str(int(word))
    try:
        return str(IPv4Address(word))
    except ValueError:
        raise ValueError("a netmask or the length of a prefix is expected") from None


def statuses(word: str) -> str:
    """A status code of HTTP, or a range of them."""
    matched = _STATUSES.fullmatch(word)
    if matched is None or (matched[2] and matched[1] > matched[2]):
        raise ValueError("a status code of HTTP is expected, or a range")
    return word


def number(least: int, most: int) -> Form:
    """A whole number in a range."""

    def check(word: str) -> str:
        if not _DIGITS.fullmatch(word) or not least <= int(word) <= most:
            raise ValueError(f"a number from {least} to {most} is expected")
        return str(int(word))

    return check


def nearest(least: int, most: int) -> Form:
    """A whole number, moved into the range: Octavia allows some that keepalived refuses."""

    def check(word: str) -> str:
        if not _DIGITS.fullmatch(word):
            raise ValueError("a whole number is expected")
        return str(min(max(int(word), least), most))

    return check


def one_of(*words: str) -> Form:
    """One of these words."""

    def check(word: str) -> str:
        if word not in words:
            raise ValueError(f"it can only be {', '.join(words)}")
        return word

    return check


def protocol(word: str) -> str:
    """UDP or SCTP, in capital or small letters."""
    return one_of("UDP", "SCTP")(word.upper())


def program(path: str) -> Form:
    """The path of the one program that may be named, without arguments."""

    def check(word: str) -> str:
        if word != path or not _PATH.fullmatch(path):
            raise ValueError(f"this program is not allowed: it can only be {path}")
        return path

    return check


def member_check(udp_check: str) -> Form:
    """A command that checks a member: one of two programs, with typed arguments."""

    def check(word: str) -> str:
        match _BLANK.split(word.strip(" \t\f\r\v")):
            case [path, member, port] if path == udp_check and _PATH.fullmatch(path):
                return f"{path} {address(member)} {_port(port)}"
            case [path, "sctp", "-t", seconds, member, port] if path == HEALTH_CHECKER:
                return f"{path} sctp -t {_seconds(seconds)} {address(member)} {_port(port)}"
        raise ValueError(
            "this program is not allowed: it can only be"
            f" `{udp_check} ADDRESS PORT` or `{HEALTH_CHECKER} sctp -t SECONDS ADDRESS PORT`"
        )

    return check


_port = number(1, 65535)
_seconds = nearest(0, 2**31 - 1)


def _require_match(word: str, pattern: re.Pattern[str], expected: str) -> str:
    if not pattern.fullmatch(word):
        raise ValueError(f"{expected} is expected")
    return word
