"""PEM files: what is in them, without the libraries that know all of X.509.

Those are 10 MB in a process that is always there. What is needed is little and at fixed places
(RFC 5280, 4.1 and 5.1): serial numbers, and the times of revocation lists.
"""

import binascii
import hashlib
import re
from typing import NamedTuple

from amphora_agent import der
from amphora_agent.der import Unreadable

__all__ = ["CERTIFICATE", "REVOCATIONS", "Block", "Revocations", "Unreadable"]

_BLOCK = re.compile(
    r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----[ \t\r]*\n"
    r"(?P<body>(?:[A-Za-z0-9+/=]+[ \t\r]*\n)*?)"
    r"-----END (?P=label)-----"
)
#: As OpenSSL writes them, whatever the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

CERTIFICATE = "CERTIFICATE"
REVOCATIONS = "X509 CRL"


class Block(NamedTuple):
    """One thing in a PEM file: what it says it is, and its content."""

    label: str
    content: bytes

    @property
    def text(self) -> str:
        """As PEM, with lines of one length and none blank."""
        body = binascii.b2a_base64(self.content, newline=False).decode()
        lines = (body[at : at + 64] for at in range(0, len(body), 64))
        return "\n".join((f"-----BEGIN {self.label}-----", *lines, f"-----END {self.label}-----\n"))

    @property
    def fingerprint(self) -> str:
        """The SHA-1 of the content, in hexadecimal: what haproxy shows of a certificate."""
        return hashlib.sha1(self.content, usedforsecurity=False).hexdigest()


class Revocations(NamedTuple):
    """A revocation list. `made` is when, as OpenSSL prints it."""

    made: str
    serials: frozenset[int]


def blocks(text: str) -> tuple[Block, ...]:
    """What is in a PEM file, in order; what stands around is left out, as by all who read PEM.

    Raises:
        Unreadable: something in it has no end, or is not base64 (as keys that need a passphrase).
    """
    found = []
    for block in _BLOCK.finditer(text):
        try:
            content = binascii.a2b_base64("".join(block["body"].split()), strict_mode=True)
        except binascii.Error as error:
            raise Unreadable(f"its {block['label']} is not base64: {error}") from None
        found.append(Block(block["label"], content))
    if len(found) != text.count("-----BEGIN ") or len(found) != text.count("-----END "):
        raise Unreadable("something in it is not whole")
    return tuple(found)


def serial(certificate: bytes) -> int:
    """The serial number of a certificate (DER).

    Raises:
        Unreadable
    """
    try:
        fields = der.elements(der.content(der.content(certificate, der.SEQUENCE), der.SEQUENCE))
        kind, value = next(fields)
        if kind == der.VERSION:
            kind, value = next(fields)
        if kind != der.INTEGER:
            raise Unreadable("it has no serial number")
        return int.from_bytes(value, signed=True)
    except (IndexError, StopIteration):
        raise Unreadable("it is no certificate") from None


def revocations(encoded: bytes) -> Revocations:
    """What a revocation list (DER) says.

    Raises:
        Unreadable
    """
    try:
        fields = list(der.elements(der.content(der.content(encoded, der.SEQUENCE), der.SEQUENCE)))
        # version (if it is not 1), signature algorithm, issuer, this update, next update (if any),
        # the revoked certificates (if any), extensions
        if fields[0][0] == der.INTEGER:
            del fields[0]
        made, rest = fields[2], fields[3:]
        if rest and rest[0][0] in (der.UTC_TIME, der.GENERALIZED_TIME):
            del rest[0]
        revoked = rest[0][1] if rest and rest[0][0] == der.SEQUENCE else b""
        serials = frozenset(
            int.from_bytes(next(der.elements(entry))[1], signed=True)
            for _, entry in der.elements(revoked)
        )
        return Revocations(_printed(*made), serials)
    except (IndexError, StopIteration):
        raise Unreadable("it is no revocation list") from None


def _printed(kind: int, value: bytes) -> str:
    time = der.time(kind, value)
    return f"{_MONTHS[time.month - 1]} {time.day} {time:%H:%M:%S} {time.year} GMT"
