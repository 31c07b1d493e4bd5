"""The configuration of UDP and SCTP listeners; VRRP, which decides who of a pair has the VIPs."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services, caller
from amphora_agent.api.v1.http import LARGEST_JSON, OK, body, etag
from amphora_agent.errors import InvalidRequest
from amphora_agent.keepalived.config.lvs import find_claims
from amphora_agent.model.events import Operation, Part
from amphora_agent.paths import object_id


def udp(services: Services) -> Blueprint:
    routes = Blueprint("udp", __name__)

    @routes.put("/1.0/listeners/<amphora_id>/<listener_id>/udp_listener")
    def upload(amphora_id: str, listener_id: str) -> ResponseReturnValue:
        object_id(amphora_id)
        listener = object_id(listener_id)
        data = body(LARGEST_JSON)
        lvs, addresses = services.lvs, services.instances.addresses
        with (
            services.journal.change(Part.INSTANCE, listener, caller(), Operation.UPLOAD) as record,
            services.instances.listeners.counting(listener, 1),
            addresses.claiming(
                listener,
                lambda: find_claims(data),
                alone=False,
                more=lambda: lvs.list_claims(rendered_only=True),
            ),
        ):
            record.words = [f"{len(data)} bytes"]
            lvs.upload(listener, data)
        return OK, 200, etag(data)

    @routes.get("/1.0/listeners/<listener_id>/udp_listener")
    def configuration(listener_id: str) -> ResponseReturnValue:
        data = services.lvs.configuration(object_id(listener_id))
        return Response(data, mimetype="text/plain", headers=etag(data))

    return routes


def vrrp(services: Services) -> Blueprint:
    routes = Blueprint("vrrp", __name__)
    service = services.vrrp

    @routes.put("/1.0/vrrp/upload")
    def upload() -> ResponseReturnValue:
        data = body(LARGEST_JSON)
        with services.journal.change(Part.VRRP, "", caller(), Operation.UPLOAD) as record:
            record.words = [f"{len(data)} bytes"]
            service.upload(data)
        return OK, 200, etag(data)

    @routes.put("/1.0/vrrp/<action>")
    def act(action: str) -> ResponseReturnValue:
        actions = {"start": service.start, "stop": service.stop, "reload": service.reload}
        if action not in actions:
            raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
        with services.journal.change(Part.VRRP, "", caller(), Operation(action)) as record:
            details = actions[action]()
            record.words = [details]
        return {"message": "OK", "details": details}, 202

    return routes
