"""Parse a `server` line of haproxy's configuration: a member of a pool.

The grammar is narrower than haproxy's. haproxy accepts whatever this accepts, in a configuration
and as the arguments of `add server`; and no word can be taken for more than one word.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from amphora_agent.model.addressing import format_endpoint, split_endpoint

#: haproxy's own rule for the names of sections and servers.
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
#: Milliseconds up to 2^31, with or without a unit.
_TIME = r"[1-9]\d{0,8}(?:ms)?|[1-9]\d{0,5}s|[1-9]\d{0,3}m"
_COUNT = r"[1-9]\d{0,5}"
_PORT = r"[1-9]\d{0,4}"
_WORD = r"[A-Za-z0-9_.-]{1,128}"
_PATH = r"/[A-Za-z0-9_./@+=,:-]{1,512}"
_CIPHERS = r"[A-Za-z0-9_.:!+@=-]{1,4096}"
#: Protocol names as haproxy encodes them, each at most 255 characters long.
_PROTOCOLS = r"[a-z0-9./-]{1,32}(?:,[a-z0-9./-]{1,32}){0,7}"

#: Options without a value.
_FLAGS = frozenset(
    {
        "backup", "check", "check-ssl", "disabled", "no-sslv3", "no-tlsv10", "no-tlsv11",
        "no-tlsv12", "no-tlsv13", "send-proxy", "send-proxy-v2", "send-proxy-v2-ssl",
        "send-proxy-v2-ssl-cn", "ssl",
    }
)  # fmt: skip
#: Options with a value, and its pattern.
_VALUES = {
    keyword: re.compile(pattern, re.ASCII)
    for keyword, pattern in {
        # haproxy takes the end of an IPv6 address without brackets for a port.
        "addr": r"[0-9.]{7,15}",
        "alpn": _PROTOCOLS,
        "ca-file": _PATH,
        "check-alpn": _PROTOCOLS,
        "ciphers": _CIPHERS,
        "ciphersuites": _CIPHERS,
        "cookie": _WORD,
        "crl-file": _PATH,
        "crt": _PATH,
        "downinter": _TIME,
        "fall": _COUNT,
        "fastinter": _TIME,
        "inter": _TIME,
        "port": _PORT,
        "rise": _COUNT,
        "sni": r"ssl_fc_sni",
        "verify": r"none|required",
        "weight": r"\d{1,3}",
    }.items()
}
_MAX_PORT = 65535
_MAX_WEIGHT = 256


#: Options that haproxy only takes when something else is in order: a file that it has loaded, a
#: name that its TLS library knows, a version that is left. Another member proves that it is.
_PROVEN_BY_ANOTHER = frozenset(
    {
        "ca-file", "ciphers", "ciphersuites", "crl-file", "crt", "no-sslv3", "no-tlsv10",
        "no-tlsv11", "no-tlsv12", "no-tlsv13",
    }
)  # fmt: skip


class ServerLine(NamedTuple):
    """A member. `address` is a literal IP in its canonical form; `options` are all that is not a
    field, as (keyword, value), the value "" for one that has none, in alphabetical order."""

    name: str
    address: str
    port: int
    weight: int = 1
    backup: bool = False
    check: bool = False
    cookie: str = ""
    disabled: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def endpoint(self) -> str:
        """`address:port` as haproxy reads it."""
        return format_endpoint(self.address, self.port)

    @property
    def arguments(self) -> str:
        """What follows the endpoint in its line and does not depend on where it stands: all but
        weight and `disabled`."""
        words = ["check"] if self.check else []
        words += [f"{keyword} {value}".rstrip() for keyword, value in self.options]
        words += ["cookie", self.cookie] if self.cookie else []
        words += ["backup"] if self.backup else []
        return " ".join(words)

    @property
    def unproven(self) -> frozenset[tuple[str, str]]:
        """The options that a running haproxy takes only if another member has them."""
        return frozenset(option for option in self.options if option[0] in _PROVEN_BY_ANOTHER)


class Doubtful(Exception):
    """A line that is not fully understood; the text says why."""


def is_name(text: str) -> bool:
    """Whether the name of a section or a server can be a word of a command."""
    return _NAME.fullmatch(text) is not None


def parse_server(words: Sequence[str]) -> ServerLine:
    """Parse the words of a `server` line.

    Raises:
        Doubtful: a part of it is not understood.
    """
    if len(words) < 3 or words[0] != "server":
        raise Doubtful("it is no whole server line")
    _, name, endpoint, *rest = words
    if not is_name(name):
        raise Doubtful(f"its name is {name[:40]!r}")
    address, port = _parse_endpoint(endpoint)
    options = _parse_options(rest)
    weight = int(options.pop("weight", "1"))
    if weight > _MAX_WEIGHT:
        raise Doubtful(f"its weight is {weight}")
    if "addr" in options:
        options["addr"] = _parse_address(options["addr"], options["addr"])
    if int(options.get("port", "1")) > _MAX_PORT:
        raise Doubtful("its port of the monitor is too large")
    # haproxy verifies unless it is told not to.
    verifies = {"ssl", "check-ssl"} & options.keys() and options.get("verify") != "none"
    if verifies and "ca-file" not in options:
        raise Doubtful("it verifies certificates without authorities")
    return ServerLine(
        name=name,
        address=address,
        port=port,
        weight=weight,
        backup=options.pop("backup", None) is not None,
        check=options.pop("check", None) is not None,
        cookie=options.pop("cookie", ""),
        disabled=options.pop("disabled", None) is not None,
        options=tuple(sorted(options.items())),
    )


def read_options(words: Sequence[str]) -> dict[str, str]:
    """Return the options of a `server` line by keyword, whatever they are; "there" for one without
    a value."""
    remaining = iter(words)
    return {
        keyword: next(remaining, "") if keyword in _VALUES else "there" for keyword in remaining
    }


def _parse_options(words: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    remaining = iter(words)
    for keyword in remaining:
        if keyword in options:
            raise Doubtful(f"{keyword} is there twice")
        if keyword in _FLAGS:
            options[keyword] = ""
            continue
        pattern = _VALUES.get(keyword)
        if pattern is None:
            raise Doubtful(f"{keyword[:40]!r} is not known to be safe")
        value = next(remaining, "")
        if not pattern.fullmatch(value):
            raise Doubtful(f"{keyword} is {value[:40]!r}")
        options[keyword] = value
    return options


def _parse_endpoint(text: str) -> tuple[str, int]:
    host, port = split_endpoint(text)
    if not re.fullmatch(_PORT, port, re.ASCII) or int(port) > _MAX_PORT:
        raise Doubtful(f"its address is {text[:60]!r}")
    return _parse_address(host, text), int(port)


def _parse_address(host: str, text: str) -> str:
    """Return the canonical form of a literal address that a server can have. `text` is for the
    message."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise Doubtful(f"its address is {text[:60]!r}") from None
    scoped = getattr(address, "scope_id", None) is not None
    mapped = getattr(address, "ipv4_mapped", None) is not None
    if scoped or mapped or address.is_unspecified or address.is_multicast:
        raise Doubtful(f"its address is {text[:60]!r}")
    return str(address)
