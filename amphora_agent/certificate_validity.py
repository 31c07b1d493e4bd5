"""Until when a certificate is valid, without the libraries that know all of X.509.

They are 10 MB, and this is one field at a place that never changes (RFC 5280, 4.1): the second
time of the fifth or fourth element of the certificate's first.
"""

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def expiry(pem: str) -> datetime:
    """When the first certificate of a PEM expires.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    found = _FIRST.search(pem)
    if found is None:
        raise ValueError("there is no certificate in it")
    try:
        certificate = _content(ssl.PEM_cert_to_DER_cert(found[0]), _SEQUENCE)
        fields = list(_elements(_content(certificate, _SEQUENCE)))
        # version (if it is not 1), serial number, signature algorithm, issuer, validity
        kind, validity = fields[4 if fields[0][0] == _VERSION else 3]
        (_, _), (kind, after) = _elements(validity)
        return _time(kind, after.decode("ascii"))
    except (IndexError, ValueError) as error:
        raise ValueError(f"the certificate cannot be read: {error}") from None


def _time(kind: int, text: str) -> datetime:
    if kind == _UTC_TIME:
        # Two digits of the year: 1950 to 2049.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("its validity is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(encoded: bytes, kind: int) -> bytes:
    """What is in the first element, which must be of this kind."""
    found, content = next(_elements(encoded), (None, b""))
    if found != kind:
        raise ValueError("it is not DER")
    return content


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the content of each element."""
    at = 0
    while at < len(encoded):
        kind, length, at = encoded[at], encoded[at + 1], at + 2
        if length & 0x80:
            digits = length & 0x7F
            length, at = int.from_bytes(encoded[at : at + digits]), at + digits
        if at + length > len(encoded):
            raise ValueError("it is cut off")
        yield kind, encoded[at : at + length]
        at += length
