"""Versions, bodies and answers of requests of API 1.0."""

import hashlib

from flask import request

from amphora_agent.errors import InvalidRequest, TooLarge

CURRENT = "1.0"
#: Controllers before 4.1 know no other.
LEGACY = "0.5"


def find_version() -> str | None:
    """Return the API version of the present request; None if its path has none."""
    first = request.path.split("/", 2)[1]
    return first if first in (CURRENT, LEGACY) else None


#: The largest body of each kind, in bytes. A configuration of 5,000 listeners with 10 members
#: each has about 8 MB.
LARGEST_CONFIGURATION = 32 << 20
LARGEST_CERTIFICATE = 4 << 20
LARGEST_JSON = 1 << 20


def limit_body(path: str) -> int:
    """Return the most bytes that a body of any request to this path may have: the poller receives
    no more."""
    if path.endswith("/haproxy") or path.startswith("/2.0/"):
        return LARGEST_CONFIGURATION
    return LARGEST_CERTIFICATE if "/certificate" in path else LARGEST_JSON


#: The answer without details.
OK = {"message": "OK"}


def body(most: int) -> bytes:
    """Return the request's body, of at most `most` bytes.

    Raises:
        InvalidRequest: it is larger, shorter than announced, or empty.
    """
    announced = request.content_length
    if announced is not None and announced > most:
        raise TooLarge("Invalid request", f"the body may have {most} bytes, not {announced}")
    try:
        data: bytes = request.environ["wsgi.input"].read(most + 1)
    except OSError as error:
        raise InvalidRequest("Invalid request", f"the body was cut off: {error}") from None
    if len(data) > most:
        raise TooLarge("Invalid request", f"the body may have {most} bytes")
    if announced is not None and len(data) < announced:
        raise InvalidRequest(
            "Invalid request", f"the body was cut off: {len(data)} of {announced} bytes came"
        )
    if not data:
        raise InvalidRequest("Invalid request", "the body is empty")
    return data


def etag(data: bytes) -> dict[str, str]:
    """Return the header ETag: the hex MD5, without quotes, as the controller compares it."""
    return {"ETag": hashlib.md5(data, usedforsecurity=False).hexdigest()}
