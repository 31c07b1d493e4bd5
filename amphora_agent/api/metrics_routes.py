"""The agent for its operator: `GET /metrics`, under the same mutual TLS as all else."""

import time

from flask import Blueprint, Flask, Response, g, request
from flask.typing import ResponseReturnValue

from amphora_agent.metrics.agent import AgentMetrics
from amphora_agent.metrics.translate.exposition import CONTENT_TYPE

#: Methods that change nothing.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Any other method is one label.
_METHODS = _READING | {"PATCH", "PUT", "POST", "DELETE"}
#: What a change is called by instead of its route.
_ACTIONS = frozenset({"start", "stop", "reload"})


def operations(metrics: AgentMetrics) -> Blueprint:
    routes = Blueprint("operations", __name__)

    @routes.get("/metrics")
    def agent_metrics() -> ResponseReturnValue:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    return routes


def count_requests(app: Flask, metrics: AgentMetrics) -> None:
    """Have each request of the application counted, and each change timed."""

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
            metrics.requests.change(_kind(), response.status_code, seconds)
        return response


def _kind() -> str:
    """What a change changes, by the names of the routes: `loadbalancers.reload`."""
    resource, _, function = (request.endpoint or "").rpartition(".")
    action = (request.view_args or {}).get("action")
    return f"{resource}.{action if action in _ACTIONS else function}"
