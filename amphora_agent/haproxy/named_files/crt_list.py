"""Parse and check crt-lists: the certificates that a `bind` line serves (haproxy's manual,
`crt-list`).

They name files, so a table says what may be in one, as for configurations. Pure.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from amphora_agent.haproxy.policy.table import ArgumentKind
from amphora_agent.haproxy.policy.values import Bounds, RefusedError, refuse_word, show_word
from amphora_agent.x509 import pem

#: Characters and words of a line. haproxy reads 64 KiB and 2,048 words at most.
_LONGEST, _MOST_WORDS = 32768, 1024
#: `isspace` in C: bytes beyond ASCII belong to words.
_WORD = re.compile(r"[\[\]]|[^ \t\n\v\f\r\[\]]+")

#: Options that haproxy 2.6 knows in a crt-list, and their values. A value must be certain to make
#: sense: haproxy does not start with a wrong one.
_FLAGS = frozenset({"allow-0rtt", "no-ca-names"})
_FILES = frozenset({"ca-file", "ca-verify-file", "crl-file"})
_SUITE = "TLS_(AES_128_GCM_SHA256|AES_256_GCM_SHA384|CHACHA20_POLY1305_SHA256)"
_CIPHER = "(ECDHE-(ECDSA|RSA)|DHE-RSA)-(AES(128-GCM-SHA256|256-GCM-SHA384)|CHACHA20-POLY1305)"
_CURVE = "(P-256|P-384|P-521|X25519)"
_VALUES = {
    "alpn": r"[a-z0-9][a-z0-9./-]{0,31}(,[a-z0-9][a-z0-9./-]{0,31}){0,7}",
    "ciphers": f"{_CIPHER}(:{_CIPHER})*",
    "ciphersuites": f"{_SUITE}(:{_SUITE})*",
    "curves": f"{_CURVE}(:{_CURVE})*",
    "ecdhe": "prime256v1|secp384r1|secp521r1",
    # Older versions are off, and a range without any is refused.
    "ssl-min-ver": r"TLSv1\.[012]",
    "ssl-max-ver": r"TLSv1\.[23]",
    "verify": "none|optional|required",
}
#: Names of servers: one, or all below one; `!` excludes one.
_FILTER = re.compile(r"!?(\*|(\*\.)?[A-Za-z0-9_-][A-Za-z0-9._-]{0,254})")


class CrtListEntry(NamedTuple):
    """One line: the path of a certificate, options of `bind` for it, and names of servers."""

    path: str
    options: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the line has only a path, as in all lists that Octavia writes."""
        return not self.options and not self.filters

    @property
    def text(self) -> str:
        options = (f"[{' '.join(self.options)}]",) if self.options else ()
        return " ".join((self.path, *options, *self.filters)) + "\n"

    @property
    def files(self) -> tuple[str, ...]:
        """The files beside the certificate."""
        pairs = zip(self.options, self.options[1:], strict=False)
        return tuple(value for option, value in pairs if option in _FILES)


def read_entries(data: bytes) -> tuple[CrtListEntry, ...]:
    """Return the entries of an accepted list."""
    return tuple(entry for _, entry in parse_lines(data) if isinstance(entry, CrtListEntry))


def parse_lines(data: bytes) -> Iterator[tuple[int, CrtListEntry | RefusedError]]:
    """Yield the number of each line with its entry, or with the reason why it is none."""
    for number, line in pem.split_lines(data):
        if line and not line.startswith(b"#"):
            try:
                yield number, _parse_line(line.decode(errors="surrogateescape"))
            except RefusedError as error:
                yield number, error


def check_entry(entry: CrtListEntry, bounds: Bounds) -> None:
    """Check that an entry names only files of an instance with these bounds, and that every
    version of haproxy loads it.

    Raises:
        RefusedError
    """
    for word in (entry.path, *entry.options, *entry.filters):
        if not (word.isascii() and word.isprintable()):
            raise RefusedError("crt-list: there are other characters than plain ones")
    try:
        bounds.check_file("crt-list", entry.path, ArgumentKind.CERTIFICATE)
    except RefusedError:
        # No message repeats the path: it may be a part of a damaged key.
        raise RefusedError(f"crt-list: the path is not below {bounds.certificates}") from None
    given: dict[str, str] = {}
    words = iter(entry.options)
    for option in words:
        value = "" if option in _FLAGS else next(words, "")
        if option in given:
            raise RefusedError(f"crt-list ... {option} is there twice")
        given[option] = value
        _check_option(option, value, bounds)
    if given.get("verify", "none") != "none" and "ca-file" not in given:
        raise RefusedError("crt-list ... verify needs a ca-file beside it")
    for name in entry.filters:
        if not _FILTER.fullmatch(name):
            raise RefusedError(f"crt-list: {show_word(name)} is not the name of a server")


def _check_option(option: str, value: str, bounds: Bounds) -> None:
    if option in _FLAGS:
        return
    if option in _FILES:
        bounds.check_file(option, value, ArgumentKind.CERTIFICATE)
    elif option not in _VALUES:
        raise refuse_word(f"crt-list ... {option}")
    elif not re.fullmatch(_VALUES[option], value):
        raise RefusedError(f"crt-list ... {option} {show_word(value)} is not allowed")


def _parse_line(line: str) -> CrtListEntry:
    """Parse a line that is not blank.

    Raises:
        RefusedError
    """
    words = _WORD.findall(line)
    if len(line) > _LONGEST or len(words) > _MOST_WORDS:
        raise RefusedError("crt-list: the line is too long")
    if words.count("[") != words.count("]") or words.count("[") > 1:
        raise RefusedError("crt-list: brackets do not match")
    if "[" not in words:
        return CrtListEntry(words[0], (), tuple(words[1:]))
    if words[1] != "[":
        raise RefusedError("crt-list: options must come after the path of a certificate")
    end = words.index("]")
    return CrtListEntry(words[0], tuple(words[2:end]), tuple(words[end + 1 :]))
