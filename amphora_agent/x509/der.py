"""Read a few fields at known places of DER (X.690)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

INTEGER, UTC_TIME, GENERALIZED_TIME, SEQUENCE = 0x02, 0x17, 0x18, 0x30
#: The version of a certificate, which one of version 1 does not have.
VERSION = 0xA0


class Unreadable(ValueError):
    """The bytes are not what they should be; the text says what is wrong."""


def read_elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
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


def read_content(encoded: bytes, kind: int) -> bytes:
    """Return the content of the first element, which must be of this kind.

    Raises:
        Unreadable
    """
    first_kind, value = next(read_elements(encoded), (None, b""))
    if first_kind != kind:
        raise Unreadable("it is not DER")
    return value


def read_fields(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the fields of what is signed in a certificate or a revocation list (RFC 5280, 4.1 and
    5.1).

    Raises:
        Unreadable
    """
    return read_elements(read_content(read_content(encoded, SEQUENCE), SEQUENCE))


def read_time(kind: int, value: bytes) -> datetime:
    """Return a time, whichever of the two kinds it is.

    Raises:
        Unreadable
    """
    text = value.decode("ascii", errors="replace")
    if kind == UTC_TIME:
        # Two digits of the year: 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
    elif kind != GENERALIZED_TIME:
        raise Unreadable("its time is no time")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Unreadable("its time is no time") from None


#: 2.5.29.37
_EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
_OBJECT_IDENTIFIER, _EXTENSIONS = 0x06, 0xA3


class Identity(NamedTuple):
    """Issuer (DER) and serial number, by which revocation lists name a certificate. `says_use`: it
    has an extended key usage."""

    issuer: bytes
    serial: int
    says_use: bool


def identify(encoded: bytes) -> Identity:
    """Read a certificate (DER).

    Raises:
        ValueError: it cannot be read.
    """
    fields = list(read_fields(encoded))
    if fields[0][0] == VERSION:
        fields = fields[1:]
    if len(fields) < 6:
        raise ValueError("it is no certificate")
    # serial number, signature algorithm, issuer, validity, subject, key
    (_, serial), _, (_, issuer) = fields[:3]
    extensions = b"".join(content for kind, content in fields[6:] if kind == _EXTENSIONS)
    return Identity(issuer, int.from_bytes(serial, signed=True), _says_use(extensions))


def read_list_issuer(encoded: bytes) -> bytes:
    """Return the issuer of a revocation list (DER), as `Identity.issuer` has it.

    Raises:
        ValueError: it cannot be read.
    """
    fields = list(read_fields(encoded))
    # version (if it is not 1), signature algorithm, issuer
    return fields[2 if fields[0][0] == INTEGER else 1][1]


def _says_use(extensions: bytes) -> bool:
    if not extensions:
        return False
    return any(
        next(read_elements(extension)) == (_OBJECT_IDENTIFIER, _EXTENDED_KEY_USAGE)
        for _, extension in read_elements(read_content(extensions, SEQUENCE))
    )
