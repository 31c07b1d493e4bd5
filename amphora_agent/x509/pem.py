"""Read PEM files as strictly as OpenSSL does, and write them in one form.

The libraries for X.509 would take 10 MB of a process that is always there. The few fields that the
agent needs are at fixed places (RFC 5280, 4.1 and 5.1).
"""

import binascii
import contextlib
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

CERTIFICATE = "CERTIFICATE"
REVOCATIONS = "X509 CRL"
#: Other labels, and those that the agent uses.
_SYNONYMS = {"X509 CERTIFICATE": CERTIFICATE}

#: Any line end, and those that a transfer as text makes of it.
_LINE_END = re.compile(rb"\r*\n|\r")
_BLANKS = b" \t\v\f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIMITER = re.compile(rb"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 .]*)-----")
#: Some programs join files whose last line does not end.
_JOINED = re.compile(rb"(-----END [A-Z0-9 .]+-----)(-----BEGIN [A-Z0-9 .]+-----)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
#: Of a line that can only be meant as a delimiter.
_MARKS = (b"-----BEGIN", b"-----END")

#: As OpenSSL writes them, whatever the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# DER
_INTEGER, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE = 0x02, 0x17, 0x18, 0x30
#: The version of a certificate, which one of version 1 does not have.
_VERSION = 0xA0
#: 2.5.29.37
_EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
_OBJECT_IDENTIFIER, _EXTENSIONS = 0x06, 0xA3


#: Kind and content.
_Element = tuple[int, bytes]


class Unreadable(ValueError):
    """The bytes are not what they should be; the text says what is wrong."""


class Block(NamedTuple):
    """One object in a PEM file: its label, and its content (DER)."""

    label: str
    content: bytes

    @property
    def text(self) -> str:
        """The PEM, with lines of one length and none blank."""
        body = binascii.b2a_base64(self.content, newline=False).decode()
        lines = (body[at : at + 64] for at in range(0, len(body), 64))
        return "\n".join((f"-----BEGIN {self.label}-----", *lines, f"-----END {self.label}-----\n"))

    @property
    def fingerprint(self) -> str:
        """The SHA-1 of the content, in hexadecimal, as haproxy shows it."""
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()


class Pem(NamedTuple):
    """A PEM file: its blocks in order, and the lines around them by number, blank ones left out."""

    blocks: tuple[Block, ...]
    around: tuple[tuple[int, bytes], ...]


class Revocations(NamedTuple):
    """The content of a revocation list. `made` is its time, as OpenSSL prints it."""

    made: str
    serials: frozenset[int]


class Identity(NamedTuple):
    """Issuer (DER) and serial number, by which revocation lists name a certificate. `says_use`: it
    has an extended key usage."""

    issuer: bytes
    serial: int
    says_use: bool


def split_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file with their numbers, whatever ends them, without blanks around.
    Byte order marks are removed from any line: files that begin with one are joined, too."""
    for number, line in enumerate(_LINE_END.split(data), 1):
        yield number, line.removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)


def is_pem(data: bytes) -> bool:
    """Return whether a line begins as a delimiter of PEM does. Comments that mention one do not
    count."""
    return any(mark in data for mark in _MARKS) and any(
        line.startswith(_MARKS) for _, line in split_lines(data)
    )


def count_blocks(data: bytes, label: str) -> int:
    """Return how many blocks of this label begin in a file."""
    return data.count(f"-----BEGIN {label}-----".encode())


def find_blocks(data: bytes, label: str) -> list[bytes]:
    """Return the blocks of a file as they are written, unread. `label` is a regular expression."""
    pattern = rf"-----BEGIN (?:{label})-----.*?-----END (?:{label})-----"
    return re.findall(pattern.encode(), data, re.DOTALL)


def parse_pem(data: bytes) -> Pem:
    """Read a PEM file.

    Line ends may be of any kind, lines indented, and a block may begin in the line in which another
    one ends. Everything else is as OpenSSL wants it, and each block has one DER element.

    Raises:
        Unreadable: the text has the number of the line, and never what is in it.
    """
    if b"\0" in data:
        raise Unreadable("it has a NUL byte")
    blocks: list[Block] = []
    around: list[tuple[int, bytes]] = []
    label: bytes | None = None
    body: list[bytes] = []
    for number, line in split_lines(data):
        for part in _JOINED.sub(rb"\1\n\2", line).split(b"\n"):
            delimiter = _DELIMITER.fullmatch(part)
            if label is None:
                label = _begin(number, delimiter, part)
                if label is None and part:
                    around.append((number, part))
            elif delimiter is None:
                body.append(_check_line(number, label.decode(), part))
            elif delimiter.groups() == (b"END", label):
                blocks.append(_make_block(number, label.decode(), b"".join(body)))
                label, body = None, []
            else:
                raise Unreadable(f"line {number}: {label.decode()} has no end")
    if label is not None:
        raise Unreadable(f"it is cut off: {label.decode()} has no end")
    return Pem(tuple(blocks), tuple(around))


def _begin(number: int, delimiter: re.Match[bytes] | None, line: bytes) -> bytes | None:
    """Return the label of the block that begins in a line, if one does."""
    if delimiter is None:
        if any(mark in line for mark in _MARKS):
            raise Unreadable(f"line {number}: a delimiter of PEM must be alone in its line")
        return None
    if delimiter[1] == b"END":
        raise Unreadable(f"line {number}: {delimiter[2].decode()} ends and has not begun")
    return delimiter[2]


def _check_line(number: int, label: str, line: bytes) -> bytes:
    """Check a line in a block."""
    if _BASE64.fullmatch(line):
        return line
    if b"ENCRYPTED" in line:
        raise Unreadable(f"line {number}: the {label} needs a passphrase")
    if b":" in line:
        raise Unreadable(f"line {number}: the {label} has a header")
    raise Unreadable(f"line {number}: {'not base64' if line else 'a blank line'} in {label}")


def _make_block(number: int, label: str, body: bytes) -> Block:
    try:
        content = binascii.a2b_base64(body, strict_mode=True)
    except binascii.Error:
        raise Unreadable(f"line {number}: the {label} before is not base64") from None
    label = _SYNONYMS.get(label, label)
    if label == "ENCRYPTED PRIVATE KEY":
        raise Unreadable(f"line {number}: the private key before needs a passphrase")
    with contextlib.suppress(Unreadable):
        if len(list(_read_elements(content))) == 1:
            return Block(label, content)
    raise Unreadable(f"line {number}: the {label} before is not one DER element")


def read_serial(certificate: bytes) -> int:
    """Return the serial number of a certificate (DER).

    Raises:
        Unreadable
    """
    (_, serial), *_ = _read_certificate(certificate)
    return int.from_bytes(serial, signed=True)


def read_expiry(block: Block) -> datetime | None:
    """Return when a certificate or a revocation list expires; None if it does not say so.

    Raises:
        Unreadable
    """
    try:
        if block.label == CERTIFICATE:
            _, _, _, (_, validity), *_ = _read_certificate(block.content)
            until: _Element | None
            _, until = _read_elements(validity)
        else:
            _, until, _ = _split_times(list(_read_fields(block.content)))
        return until and _read_time(*until)
    except (IndexError, ValueError):
        raise Unreadable(f"the {block.label} has no time where it should be") from None


def read_revocations(encoded: bytes) -> Revocations:
    """Return the content of a revocation list (DER).

    Raises:
        Unreadable
    """
    fields = list(_read_fields(encoded))
    try:
        made, _, rest = _split_times(fields)
        revoked = rest[0][1] if rest and rest[0][0] == _SEQUENCE else b""
        serials = frozenset(
            int.from_bytes(next(_read_elements(entry))[1], signed=True)
            for _, entry in _read_elements(revoked)
        )
        return Revocations(_format_as_openssl(*made), serials)
    except (IndexError, StopIteration):
        raise Unreadable("it is no revocation list") from None


def _split_times(fields: list[_Element]) -> tuple[_Element, _Element | None, list[_Element]]:
    """Return this update, next update (if any) of a revocation list, and what follows."""
    # version (if it is not 1), signature algorithm, issuer, this update, next update (if any),
    # the revoked certificates (if any), extensions
    at = 3 if fields[0][0] == _INTEGER else 2
    made, rest = fields[at], fields[at + 1 :]
    if rest and rest[0][0] in (_UTC_TIME, _GENERALIZED_TIME):
        return made, rest[0], rest[1:]
    return made, None, rest


def _format_as_openssl(kind: int, value: bytes) -> str:
    time = _read_time(kind, value)
    return f"{_MONTHS[time.month - 1]} {time.day} {time:%H:%M:%S} {time.year} GMT"


def identify(encoded: bytes) -> Identity:
    """Read a certificate (DER).

    Raises:
        ValueError: it cannot be read.
    """
    (_, serial), _, (_, issuer), _, _, _, *rest = _read_certificate(encoded)
    extensions = b"".join(content for kind, content in rest if kind == _EXTENSIONS)
    return Identity(issuer, int.from_bytes(serial, signed=True), _says_use(extensions))


def _read_certificate(encoded: bytes) -> list[_Element]:
    """Return serial number, signature algorithm, issuer, validity, subject and key of a certificate
    (DER), and what follows them.

    Raises:
        Unreadable
    """
    fields = list(_read_fields(encoded))
    if fields and fields[0][0] == _VERSION:
        fields = fields[1:]
    if len(fields) < 6 or fields[0][0] != _INTEGER:
        raise Unreadable("it is no certificate")
    return fields


def read_list_issuer(encoded: bytes) -> bytes:
    """Return the issuer of a revocation list (DER), as `Identity.issuer` has it.

    Raises:
        ValueError: it cannot be read.
    """
    fields = list(_read_fields(encoded))
    # version (if it is not 1), signature algorithm, issuer
    return fields[2 if fields[0][0] == _INTEGER else 1][1]


def _says_use(extensions: bytes) -> bool:
    listed = _read_elements(_read_content(extensions, _SEQUENCE)) if extensions else ()
    usage = _OBJECT_IDENTIFIER, _EXTENDED_KEY_USAGE
    return any(next(_read_elements(extension)) == usage for _, extension in listed)


# DER (X.690)


def _read_elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the content of each element.

    Raises:
        Unreadable: it is cut off.
    """
    at = 0
    while at < len(encoded):
        try:
            kind, length, at = encoded[at], encoded[at + 1], at + 2
        except IndexError:
            raise Unreadable("it is cut off") from None
        if length & 0x80:
            digits = length & 0x7F
            length, at = int.from_bytes(encoded[at : at + digits]), at + digits
        if at + length > len(encoded):
            raise Unreadable("it is cut off")
        yield kind, encoded[at : at + length]
        at += length


def _read_content(encoded: bytes, kind: int) -> bytes:
    """Return the content of the first element, which must be of this kind.

    Raises:
        Unreadable
    """
    first_kind, value = next(_read_elements(encoded), (None, b""))
    if first_kind != kind:
        raise Unreadable("it is not DER")
    return value


def _read_fields(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the fields of what is signed in a certificate or a revocation list (RFC 5280, 4.1 and
    5.1).

    Raises:
        Unreadable
    """
    return _read_elements(_read_content(_read_content(encoded, _SEQUENCE), _SEQUENCE))


def _read_time(kind: int, value: bytes) -> datetime:
    """Return a time, whichever of the two kinds it is.

    Raises:
        Unreadable
    """
    text = value.decode("ascii", errors="replace")
    if kind == _UTC_TIME:
        # Two digits of the year: 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise Unreadable("its time is no time")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Unreadable("its time is no time") from None
