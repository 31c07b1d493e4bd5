"""The Flask application: its routes, the metrics of its requests, and the form of errors."""

import logging
import time

from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from amphora_agent.api import v1, v2
from amphora_agent.api.http import (
    answer_problem,
    find_version,
    require_known_query,
    wants_problem_details,
)
from amphora_agent.api.services import EXTENSION, Services
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
from amphora_agent.metrics.agent import AgentMetrics
from amphora_agent.metrics.translate.exposition import CONTENT_TYPE

logger = logging.getLogger(__name__)

_STATUS: dict[type[AgentError], int] = {
    PreconditionFailed: 412,
    InvalidRequest: 400,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
}

#: Seconds after which a client may repeat a request that was answered with 503.
_RETRY_AFTER = "5"

#: The controller takes these for errors, and every other status for success (WIRE §1).
_UNDERSTOOD = frozenset({400, 401, 403, 404, 405, 409, 500, 503})

#: Methods that change nothing.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Methods with a label of their own in metrics.
_METHODS = _READING | {"PATCH", "PUT", "POST", "DELETE"}
#: Actions that name a change in metrics instead of their route.
_ACTIONS = frozenset({"start", "stop", "reload"})


class _Rest(BaseConverter):
    """All that is left of a path, slashes and line ends too."""

    part_isolating = False
    regex = "(?s:.+)"


def create_app(services: Services) -> Flask:
    """Return the application on these services."""
    app = Flask("amphora_agent", static_folder=None)
    app.extensions[EXTENSION] = services
    app.url_map.merge_slashes = False  # `GET //` is a request of its own, not for a redirect
    app.url_map.strict_slashes = False
    app.url_map.converters["rest"] = _Rest
    for blueprint in (*v1.BLUEPRINTS, *v2.BLUEPRINTS):
        app.register_blueprint(blueprint)
    v1.add_legacy_rules(app)
    _count_requests(app, services.metrics)

    @app.get("/metrics")
    def agent_metrics() -> ResponseReturnValue:
        return Response(services.metrics.text(), content_type=CONTENT_TYPE)

    @app.before_request
    def refuse_unknown_query() -> None:
        if wants_problem_details():
            require_known_query()

    @app.before_request
    def refuse_changes() -> None:
        # Its own certificate and settings are no part of the state.
        if services.refusal and request.method not in _READING and request.blueprint != "amphora":
            raise services.refusal

    @app.after_request
    def remember_version(response: Response) -> Response:
        version = find_version()
        is_change = request.method not in _READING and response.status_code < 400
        if version is not None and is_change and services.refusal is None:
            services.controller.record(version)
        return response

    app.register_error_handler(AgentError, _handle_agent_error)
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(OSError, _handle_os_error)
    app.register_error_handler(Exception, _handle_defect)
    return app


def _count_requests(app: Flask, metrics: AgentMetrics) -> None:
    """Count each request of the application, and time each change."""

    @app.before_request
    def begin() -> None:
        g.begun = time.monotonic()

    @app.after_request
    def end(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        metrics.requests.request(method, route, response.status_code)
        if request.url_rule and request.method not in _READING:
            seconds = time.monotonic() - g.begun
            metrics.requests.change(_name_change(), response.status_code, seconds)
        return response


def _name_change() -> str:
    """Return what a request changes, by the names of the routes: `loadbalancers.reload`."""
    resource, _, function = (request.endpoint or "").rpartition(".")
    action = (request.view_args or {}).get("action")
    return f"{resource}.{action if action in _ACTIONS else function}"


def _handle_agent_error(error: AgentError) -> ResponseReturnValue:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    # A controller asks for objects that it may have to send: a 404 is an ordinary answer.
    is_ordinary = isinstance(error, NotFound) and request.method in ("GET", "HEAD")
    level = logging.ERROR if status == 500 else logging.INFO if is_ordinary else logging.WARNING
    logger.log(level, "%s", error)
    return _answer(error, status)


def _handle_os_error(error: OSError) -> ResponseReturnValue:
    logger.exception("a request failed")
    return _answer(AgentError("The system refused", describe_os_error(error)), 500)


def _answer(error: AgentError, status: int) -> ResponseReturnValue:
    headers = {"Retry-After": _RETRY_AFTER} if status == 503 else {}
    if wants_problem_details():
        status = 413 if isinstance(error, TooLarge) else status
        answer = answer_problem(status, str(error), getattr(error, "problems", ()))
        answer.headers.update(headers)
        return answer
    return {"message": error.message, "details": error.details}, status, headers


def _handle_http_error(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    headers = {"Allow": ", ".join(error.valid_methods or ())} if code == 405 else {}  # type: ignore[attr-defined]
    if wants_problem_details():
        answer = answer_problem(code, error.description or "")
        answer.headers.update(headers)
        return answer
    if code not in _UNDERSTOOD:
        code = 400 if code < 500 else 500
    return {"error": f"{error.name}: {error.description}", "http_code": code}, code, headers


def _handle_defect(error: Exception) -> ResponseReturnValue:
    logger.exception("a request failed", exc_info=error)
    if wants_problem_details():
        return answer_problem(500, "the agent has met a defect of its own; its log has more")
    return {"error": "Internal Server Error", "http_code": 500}, 500
