"""Read requests and form answers for the routes: versions and bodies, and for those below `/2.0`
conditions, choices, and errors as problem details."""

import hashlib
import http
import json
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from flask import Response, request

from amphora_agent.errors import InvalidRequest, TooLarge
from amphora_agent.model.responses import ProblemDetails, WrongPlace

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
LARGEST_PATCH = 4 << 20
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


def read_body(most: int) -> bytes:
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


def make_etag(data: bytes) -> dict[str, str]:
    """Return the header ETag: the hex MD5, without quotes, as the controller compares it."""
    return {"ETag": hashlib.md5(data, usedforsecurity=False).hexdigest()}


Choice = TypeVar("Choice")

#: The values of `dry_run`.
DRY_RUN = {"0": False, "1": True, "false": False, "true": True}

_ROOT = "/2.0"

#: The media type of errors below `/2.0`.
PROBLEM = "application/problem+json"

_ETAG = re.compile(r'\s*(?:W/)?"([^"]*)"\s*')


def answer(value: msgspec.Struct | bytes, status: int = 200, *, etag: str = "") -> Response:
    """Answer with JSON, which may be encoded already, and an ETag if there is one."""
    content = value if isinstance(value, bytes) else msgspec.json.encode(value)
    response = Response(content, status, content_type="application/json")
    if etag:
        response.headers["ETag"] = f'"{etag}"'
    return response


def find_etags() -> frozenset[str] | None:
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
    """Check that the operation knows every name in the query, and that each is there once: one that
    is misspelt, as in `?dryrun=1`, must not be ignored.

    Raises:
        InvalidRequest
    """
    if not request.args or request.url_rule is None:
        return
    # Loaded for a query only: it takes the types of everything that there is.
    from amphora_agent.api.openapi import query_names

    known = query_names(request.method, request.url_rule.rule)
    message = f"is unknown here; known: {', '.join(sorted(known)) or 'none'}"
    wrong = [(name, message) for name in request.args if name not in known]
    wrong += [(name, "is there twice") for name, all_ in request.args.lists() if len(all_) > 1]
    if wrong:
        raise InvalidRequest.from_problems(wrong)


def find_choice(name: str, choices: Mapping[str, Choice], default: Choice) -> Choice:
    """Return what the query chooses by `name`.

    Raises:
        InvalidRequest: it is none of the choices.
    """
    value = request.args.get(name)
    if value is None:
        return default
    if value not in choices:
        message = f"{value!r} is not one of {', '.join(choices)}"
        raise InvalidRequest.from_problems([(name, message)])
    return choices[value]


def wants_dry_run() -> bool:
    """Return whether the query asks for a dry run. Raises as `find_choice`."""
    return find_choice("dry_run", DRY_RUN, default=False)


def wants_problem_details() -> bool:
    """Return whether errors of the present request are problem details (RFC 9457)."""
    return request.path == _ROOT or request.path.startswith(f"{_ROOT}/")


def answer_problem(status: int, detail: str, places: Iterable[tuple[str, str]] = ()) -> Response:
    """Answer what is wrong, as problem details (RFC 9457) whose type, `about:blank`, says no more
    than the status. `places` are the wrong ones of a body, each with what is wrong there."""
    problem = ProblemDetails(
        type="about:blank",
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=tuple(WrongPlace(*place) for place in places),
    )
    # A lone surrogate, which msgspec cannot write, may have come in a name.
    content = json.dumps(msgspec.to_builtins(problem))
    return Response(content, status, content_type=PROBLEM)
