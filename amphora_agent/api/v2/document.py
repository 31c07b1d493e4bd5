"""`GET /2.0`, what there is, and `GET /2.0/openapi.json`, in all detail."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.v2.http import raw


def document() -> Blueprint:
    routes = Blueprint("document", __name__)

    @routes.get("/2.0")
    def overview() -> ResponseReturnValue:
        from amphora_agent.api.v2.openapi import root

        return raw(root())

    @routes.get("/2.0/openapi.json")
    def whole() -> ResponseReturnValue:
        from amphora_agent.api.v2.openapi import document

        return raw(document())

    return routes
