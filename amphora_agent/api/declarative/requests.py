"""What requests below `/2.0` have in common: conditions, choices, answers."""

import re

import msgspec
from flask import Response, request

from amphora_agent.errors import InvalidRequest

#: Bytes of a load balancer with its certificates, of one part of it, of a certificate.
LARGEST_BALANCER, LARGEST_PATCH, LARGEST_CERTIFICATE = 32 << 20, 4 << 20, 4 << 20

_ETAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')


def answer(value: msgspec.Struct, status: int = 200, *, etag: str = "") -> Response:
    """JSON, with an ETag if there is one."""
    return raw(msgspec.json.encode(value), status, etag=etag)


def raw(content: bytes, status: int = 200, *, etag: str = "") -> Response:
    response = Response(content, status, content_type="application/json")
    if etag:
        response.headers["ETag"] = f'"{etag}"'
    return response


def matches() -> frozenset[str] | None:
    """The ETags of If-Match, or "*"; None when there is no such header.

    Raises:
        InvalidRequest: it is not a list of entity tags.
    """
    header = request.headers.get("If-Match")
    if header is None:
        return None
    if header.strip() == "*":
        return frozenset({"*"})
    found = [_ETAG.fullmatch(each) for each in header.split(",")]
    if not all(found):
        raise InvalidRequest.of([("If-Match", 'must be * or entity tags like "abc"')])
    return frozenset(each[1] for each in found if each)


def wants_absence() -> bool:
    """Whether there is `If-None-Match: *`.

    Raises:
        InvalidRequest: it says something else.
    """
    header = request.headers.get("If-None-Match")
    if header is not None and header.strip() != "*":
        raise InvalidRequest.of([("If-None-Match", "must be *")])
    return header is not None


def flag(name: str) -> bool:
    """A parameter of the query that is 1 or 0, and 0 when it is not there.

    Raises:
        InvalidRequest
    """
    value = request.args.get(name, "0")
    if value not in ("0", "1"):
        raise InvalidRequest.of([(name, f"{value!r} is not one of 0, 1")])
    return value == "1"
