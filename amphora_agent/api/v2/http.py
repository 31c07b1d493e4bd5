"""Conditions, choices, answers and errors of requests below `/2.0`."""

import http
import json
import re
from collections.abc import Iterable

import msgspec
from flask import Response, request

from amphora_agent.errors import InvalidRequest

#: Bytes of a load balancer with its certificates, of one part of it, of a certificate.
LARGEST_BALANCER, LARGEST_PATCH, LARGEST_CERTIFICATE = 32 << 20, 4 << 20, 4 << 20

#: The values of `dry_run`.
DRY_RUN = {"0": False, "1": True, "false": False, "true": True}

_ROOT = "/2.0"

_ETAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')


def answer(value: msgspec.Struct, status: int = 200, *, etag: str = "") -> Response:
    """Answer with JSON, and an ETag if there is one."""
    return answer_bytes(msgspec.json.encode(value), status, etag=etag)


def answer_bytes(content: bytes, status: int = 200, *, etag: str = "") -> Response:
    response = Response(content, status, content_type="application/json")
    if etag:
        response.headers["ETag"] = f'"{etag}"'
    return response


def matches() -> frozenset[str] | None:
    """Return the ETags of If-Match, or "*"; None when there is no such header.

    Raises:
        InvalidRequest: it is not a list of entity tags.
    """
    header = request.headers.get("If-Match")
    if header is None:
        return None
    if header.strip() == "*":
        return frozenset({"*"})
    tags = [_ETAG.fullmatch(tag) for tag in header.split(",")]
    if not all(tags):
        raise InvalidRequest.from_problems([("If-Match", 'must be * or entity tags like "abc"')])
    return frozenset(tag[1] for tag in tags if tag)


def wants_absence() -> bool:
    """Return whether there is `If-None-Match: *`.

    Raises:
        InvalidRequest: it says something else.
    """
    header = request.headers.get("If-None-Match")
    if header is not None and header.strip() != "*":
        raise InvalidRequest.from_problems([("If-None-Match", "must be *")])
    return header is not None


def require_known_query() -> None:
    """See that the operation knows every name in the query, and that each is there once: one that
    is misspelt, as in `?dryrun=1`, must not be ignored.

    Raises:
        InvalidRequest
    """
    if not request.args or request.url_rule is None:
        return
    # Loaded for a query only: it takes the types of everything that there is.
    from amphora_agent.api.v2.openapi import query_names

    known = query_names(request.method, request.url_rule.rule)
    words = f"is unknown here; known: {', '.join(sorted(known)) or 'none'}"
    wrong = [(name, words) for name in request.args if name not in known]
    wrong += [(name, "is there twice") for name, all_ in request.args.lists() if len(all_) > 1]
    if wrong:
        raise InvalidRequest.from_problems(wrong)


def wants_dry_run() -> bool:
    """Return whether the query asks for a dry run.

    Raises:
        InvalidRequest: it says neither yes nor no.
    """
    value = request.args.get("dry_run", "0")
    if value not in DRY_RUN:
        raise InvalidRequest.from_problems(
            [("dry_run", f"{value!r} is not one of {', '.join(DRY_RUN)}")]
        )
    return DRY_RUN[value]


def wants_problem_details() -> bool:
    """Return whether errors of the present request are problem details (RFC 9457)."""
    return request.path == _ROOT or request.path.startswith(f"{_ROOT}/")


def answer_problem(status: int, detail: str, places: Iterable[tuple[str, str]] = ()) -> Response:
    """Answer what is wrong, as problem details (RFC 9457) whose type, `about:blank`, says no more
    than the status. `places` are the wrong ones of a body, each with what is wrong there."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    errors = [{"path": path, "message": words} for path, words in places]
    if errors:
        body["errors"] = errors
    return Response(json.dumps(body), status, content_type="application/problem+json")
