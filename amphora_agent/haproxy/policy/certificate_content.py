"""Parse a certificate file or a crt-list, and render it in the one form in which it is kept.

Controllers join what tenants gave them, and haproxy refuses to start over one blank too many. So a
file is parsed and written again: its blocks, or the entries of a crt-list, and a comment with the
MD5 of what was sent, by which the controller knows the file. The MD5 is in the file so that a
rollback restores both.

A crt-list has the certificates that a `bind` line serves (haproxy's manual, `crt-list`). It names
files, so a table says what may be in one, as for configurations.

`validate/openssl.py` checks that OpenSSL can use the blocks.
"""

import enum
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from amphora_agent.haproxy.policy.table import ArgumentKind
from amphora_agent.haproxy.policy.values import Bounds, RefusedError, refuse_word, show_word
from amphora_agent.x509 import pem
from amphora_agent.x509.pem import Block

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


_Item = TypeVar("_Item")

_KEYS = frozenset({"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"})
_PARAMETERS = "DH PARAMETERS"
#: The key has them, too.
_NEEDLESS = "EC PARAMETERS"
_KNOWN = _KEYS | {pem.CERTIFICATE, pem.REVOCATIONS, _PARAMETERS, _NEEDLESS}
#: Certificates beside a key; each of them is tried with it.
_MOST_BESIDE_A_KEY = 100

_SENT = b"#amphora-agent: md5 of what was sent: "
_SENT_LINE = re.compile(re.escape(_SENT) + rb"([0-9a-f]{32})\n\Z")


class FileKind(enum.Enum):
    """The kind of a file; the value is its name in messages."""

    CERTIFICATE = "a certificate with its key"
    AUTHORITIES = "certificates without a key"
    REVOCATIONS = "revocation lists"
    PARAMETERS = "DH parameters"
    CRT_LIST = "a crt-list"


class Content(NamedTuple):
    """The parts of a file. Beside a key, haproxy serves the first of `certificates`."""

    key: Block | None = None
    certificates: tuple[Block, ...] = ()
    revocations: tuple[Block, ...] = ()
    parameters: tuple[Block, ...] = ()
    entries: tuple[CrtListEntry, ...] = ()

    @property
    def kind(self) -> FileKind:
        if self.entries:
            return FileKind.CRT_LIST
        if self.key:
            return FileKind.CERTIFICATE
        if self.certificates:
            return FileKind.AUTHORITIES
        return FileKind.REVOCATIONS if self.revocations else FileKind.PARAMETERS

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in the order in which they are written."""
        leaf, chain = self.certificates[:1], self.certificates[1:]
        key = (self.key,) if self.key else ()
        return (*leaf, *key, *chain, *self.revocations, *self.parameters)

    @property
    def text(self) -> bytes:
        """The file without the MD5."""
        blocks = [block.text for block in self.blocks]
        return "".join([*blocks, *(entry.text for entry in self.entries)]).encode()


class UnusableFile(Exception):
    """A file that haproxy cannot use; the text says why."""


def parse_file(sent: bytes, check_entry: Callable[[CrtListEntry], None]) -> Content:
    """Parse a PEM file or a crt-list. `check_entry` raises RefusedError for a refused entry.

    Raises:
        UnusableFile: it is neither, or has a part that no such file may have.
    """
    return parse_pem_file(sent) if pem.is_pem(sent) else _parse_list(sent, check_entry)


def parse_pem_file(sent: bytes) -> Content:
    """Parse a PEM file.

    Raises:
        UnusableFile
    """
    try:
        return _sort_blocks(pem.parse_pem(sent))
    except pem.Unreadable as reason:
        raise UnusableFile(str(reason)) from None


def render_kept_file(content: Content, sent: bytes) -> bytes:
    """Return the bytes to keep of a file that was sent as `sent`."""
    text = content.text
    if text == sent:
        return text
    return text + _SENT + hashlib.md5(sent, usedforsecurity=False).hexdigest().encode() + b"\n"


def is_kept_form(data: bytes) -> bool:
    """Whether a file has a comment with the MD5 of what was sent."""
    return _SENT_LINE.search(data) is not None


def read_sent_md5(data: bytes) -> str:
    """Return the hexadecimal MD5 of what was sent for a file as it is kept."""
    comment = _SENT_LINE.search(data)
    return comment[1].decode() if comment else hashlib.md5(data, usedforsecurity=False).hexdigest()


def holds_key(data: bytes) -> bool:
    """Whether a file as it is kept has a private key."""
    return b" PRIVATE KEY-----" in data or b"-----BEGIN PRIVATE KEY-----" in data


def find_entry_violations(
    data: bytes, check_entry: Callable[[CrtListEntry], None]
) -> list[tuple[int, str]]:
    """Return the refused lines of a crt-list, with reasons; fifty at most."""
    if pem.is_pem(data):
        return [(1, "it is PEM, and no crt-list")]
    violations = []
    for number, entry in parse_lines(data):
        try:
            if isinstance(entry, RefusedError):
                raise entry
            check_entry(entry)
        except RefusedError as error:
            violations.append((number, str(error)))
            if len(violations) == 50:
                break
    return violations


def _parse_list(sent: bytes, check_entry: Callable[[CrtListEntry], None]) -> Content:
    if b"\0" in sent:
        raise UnusableFile("it has a NUL byte")
    if violations := find_entry_violations(sent, check_entry):
        raise UnusableFile("\n".join(f"line {number}: {reason}" for number, reason in violations))
    entries = _drop_repeated(read_entries(sent))
    if not entries:
        raise UnusableFile("there is neither a PEM block nor the path of a certificate in it")
    return Content(entries=entries)


def _sort_blocks(file: pem.Pem) -> Content:
    if paths := [number for number, line in file.around if line.startswith(b"/")]:
        raise UnusableFile(f"line {paths[0]}: a path among PEM blocks: a file is PEM or a crt-list")
    for block in file.blocks:
        if block.label not in _KNOWN:
            raise UnusableFile(f"{block.label.lower()} has no use in it")
    keys = _drop_repeated(block for block in file.blocks if block.label in _KEYS)
    certificates = _find_blocks(file, pem.CERTIFICATE)
    revocations = _find_blocks(file, pem.REVOCATIONS)
    parameters = _find_blocks(file, _PARAMETERS)
    if not (keys or certificates or revocations or parameters):
        raise UnusableFile("there is nothing in it that haproxy could use")
    if len(keys) > 1:
        raise UnusableFile(f"there are {len(keys)} private keys in it")
    if len(parameters) > 1:
        raise UnusableFile(f"there are {len(parameters)} sets of DH parameters in it")
    if keys and not certificates:
        raise UnusableFile("there is a private key in it, and no certificate")
    if keys and len(certificates) > _MOST_BESIDE_A_KEY:
        raise UnusableFile(f"there are {len(certificates)} certificates beside its private key")
    if revocations and (keys or parameters):
        raise UnusableFile("there are revocation lists in it beside something else")
    if parameters and certificates and not keys:
        raise UnusableFile("there are DH parameters in it, and no private key")
    return Content(keys[0] if keys else None, certificates, revocations, parameters)


def _find_blocks(file: pem.Pem, label: str) -> tuple[Block, ...]:
    return _drop_repeated(block for block in file.blocks if block.label == label)


def _drop_repeated(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))
