"""The Flask application: routes, and what an error looks like to the controller."""

import logging

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from amphora_agent.api import v1, v2
from amphora_agent.api.metrics_routes import count_requests, operations
from amphora_agent.api.services import Services
from amphora_agent.api.v1 import http
from amphora_agent.api.v1.v0_5 import add_legacy_rules
from amphora_agent.api.v2 import errors
from amphora_agent.api.v2.http import require_known_query
from amphora_agent.api.v2.instances import instances
from amphora_agent.errors import (
    AgentError,
    Conflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unavailable,
    describe_os_error,
)

logger = logging.getLogger(__name__)

_STATUS: dict[type[AgentError], int] = {
    PreconditionFailed: 412,
    InvalidRequest: 400,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
}

#: Seconds after which a client may ask again for what cannot be done now.
_RETRY_AFTER = "5"

#: The controller takes these for errors, and every other status for success (WIRE §1).
_UNDERSTOOD = frozenset({400, 401, 403, 404, 405, 409, 500, 503})


class _Rest(BaseConverter):
    """All that is left of a path, slashes and line ends too."""

    part_isolating = False
    regex = "(?s:.+)"


def create_app(services: Services) -> Flask:
    """The application on these services."""
    app = Flask("amphora_agent", static_folder=None)
    app.url_map.merge_slashes = False  # `GET //` is a request of its own, not for a redirect
    app.url_map.strict_slashes = False
    app.url_map.converters["rest"] = _Rest
    for blueprint in (*v1.blueprints(services), *v2.blueprints(services)):
        app.register_blueprint(blueprint)
    app.register_blueprint(operations(services.metrics))
    app.register_blueprint(instances(services))
    count_requests(app, services.metrics)
    add_legacy_rules(app)

    @app.before_request
    def refuse_unknown_query() -> None:
        if errors.concern():
            require_known_query()

    @app.after_request
    def remember_version(response: Response) -> Response:
        version = http.spoken()
        if version is not None and request.method != "GET" and response.status_code < 400:
            services.controller.record(version)
        return response

    app.register_error_handler(AgentError, _handled)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(OSError, _system)
    app.register_error_handler(Exception, _unexpected)
    return app


def _handled(error: AgentError) -> ResponseReturnValue:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    # A controller asks for what it may have to send: that it is not there is an ordinary answer.
    asked = isinstance(error, NotFound) and request.method in ("GET", "HEAD")
    level = logging.ERROR if status == 500 else logging.INFO if asked else logging.WARNING
    logger.log(level, "%s", error)
    if errors.concern():
        status = 413 if isinstance(error, TooLarge) else status
        answer = errors.problem(status, str(error), getattr(error, "problems", ()))
        if status == 503:
            answer.headers["Retry-After"] = _RETRY_AFTER
        return answer
    headers = {"Retry-After": _RETRY_AFTER} if status == 503 else {}
    return {"message": error.message, "details": error.details}, status, headers


def _framework(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    headers = {"Allow": ", ".join(error.valid_methods or ())} if code == 405 else {}  # type: ignore[attr-defined]
    if errors.concern():
        answer = errors.problem(code, error.description or "")
        answer.headers.update(headers)
        return answer
    if code not in _UNDERSTOOD:
        code = 400 if code < 500 else 500
    return {"error": f"{error.name}: {error.description}", "http_code": code}, code, headers


def _system(error: OSError) -> ResponseReturnValue:
    logger.exception("a request failed")
    words = describe_os_error(error)
    if errors.concern():
        return errors.problem(500, f"The system refused: {words}")
    return {"message": "The system refused", "details": words}, 500


def _unexpected(error: Exception) -> ResponseReturnValue:
    logger.exception("a request failed", exc_info=error)
    if errors.concern():
        return errors.problem(500, "the agent has met a defect of its own; its log has more")
    return {"error": "Internal Server Error", "http_code": 500}, 500
