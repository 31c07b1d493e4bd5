"""The Flask application: routes, and what an error looks like to the controller."""

import logging

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from amphora_agent.api import declarative, octavia, problems
from amphora_agent.api.instances import instances
from amphora_agent.api.octavia import versions
from amphora_agent.api.octavia.legacy import add_legacy_rules
from amphora_agent.api.operations import count_requests, operations
from amphora_agent.api.services import Services
from amphora_agent.errors import (
    AgentError,
    Conflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    TooLarge,
)

logger = logging.getLogger(__name__)

_STATUS: dict[type[AgentError], int] = {
    PreconditionFailed: 412,
    InvalidRequest: 400,
    NotFound: 404,
    Conflict: 409,
}

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
    for blueprint in (*octavia.blueprints(services), *declarative.blueprints(services)):
        app.register_blueprint(blueprint)
    app.register_blueprint(operations(services.metrics))
    app.register_blueprint(instances(services))
    count_requests(app, services.metrics)
    add_legacy_rules(app)

    @app.after_request
    def remember_version(response: Response) -> Response:
        version = versions.spoken()
        if version is not None and request.method != "GET" and response.status_code < 400:
            services.controller.spoken(version)
        return response

    app.register_error_handler(AgentError, _handled)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(OSError, _system)
    app.register_error_handler(Exception, _unexpected)
    return app


def _handled(error: AgentError) -> ResponseReturnValue:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        logger.error("%s", error)
    else:
        logger.warning("%s", error)
    if problems.concern():
        status = 413 if isinstance(error, TooLarge) else status
        return problems.problem(status, str(error), getattr(error, "problems", ()))
    return {"message": error.message, "details": error.details}, status


def _framework(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    headers = {"Allow": ", ".join(error.valid_methods or ())} if code == 405 else {}  # type: ignore[attr-defined]
    if problems.concern():
        answer = problems.problem(code, error.description or "")
        answer.headers.update(headers)
        return answer
    if code not in _UNDERSTOOD:
        code = 400 if code < 500 else 500
    return {"error": f"{error.name}: {error.description}", "http_code": code}, code, headers


def _system(error: OSError) -> ResponseReturnValue:
    logger.exception("a request failed")
    words = error.strerror or str(error)
    if problems.concern():
        return problems.problem(500, f"The system refused: {words}")
    return {"message": "The system refused", "details": words}, 500


def _unexpected(error: Exception) -> ResponseReturnValue:
    logger.exception("a request failed", exc_info=error)
    if problems.concern():
        return problems.problem(500, "the agent has met a defect of its own; its log has more")
    return {"error": "Internal Server Error", "http_code": 500}, 500
