"""Errors below `/2.0` as problem details (RFC 9457)."""

import http
import json
from collections.abc import Iterable

from flask import Response, request

_ROOT = "/2.0"


def concern() -> bool:
    """Whether the present request is one whose errors are problem details."""
    return request.path == _ROOT or request.path.startswith(f"{_ROOT}/")


def problem(status: int, detail: str, places: Iterable[tuple[str, str]] = ()) -> Response:
    """An answer that says what is wrong. The type is the status alone, as `about:blank` says.
    `places` are the wrong ones of a body, each with what is wrong there."""
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
