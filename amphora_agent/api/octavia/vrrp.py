"""VRRP: which of two amphorae has the VIPs."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia.body import LARGEST_JSON, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.errors import InvalidRequest


def vrrp(services: Services) -> Blueprint:
    routes = Blueprint("vrrp", __name__)
    service = services.vrrp

    @routes.put("/1.0/vrrp/upload")
    def upload() -> ResponseReturnValue:
        data = body(LARGEST_JSON)
        service.upload(data)
        return OK, 200, etag(data)

    @routes.put("/1.0/vrrp/<action>")
    def act(action: str) -> ResponseReturnValue:
        actions = {"start": service.start, "stop": service.stop, "reload": service.reload}
        if action not in actions:
            raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
        return {"message": "OK", "details": actions[action]()}, 202

    return routes
