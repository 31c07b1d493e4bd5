"""DER, as much as is needed to find a few fields at known places (X.690)."""

from collections.abc import Iterator
from datetime import UTC, datetime

INTEGER, UTC_TIME, GENERALIZED_TIME, SEQUENCE = 0x02, 0x17, 0x18, 0x30
#: The version of a certificate, which one of version 1 does not have.
VERSION = 0xA0


class Unreadable(ValueError):
    """It is not what it should be; the text says what is wrong with it."""


def elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the content of each element.

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


def content(encoded: bytes, kind: int) -> bytes:
    """What is in the first element, which must be of this kind.

    Raises:
        Unreadable
    """
    found, inside = next(elements(encoded), (None, b""))
    if found != kind:
        raise Unreadable("it is not DER")
    return inside


def time(kind: int, value: bytes) -> datetime:
    """A time of either kind.

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
