"""UDP and SCTP listeners: their configuration. Their life is that of load balancers."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia.body import LARGEST_JSON, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.layout import object_id


def udp(services: Services) -> Blueprint:
    routes = Blueprint("udp", __name__)
    lvs = services.lvs

    @routes.put("/1.0/listeners/<amphora_id>/<listener_id>/udp_listener")
    def upload(amphora_id: str, listener_id: str) -> ResponseReturnValue:
        object_id(amphora_id)
        listener = object_id(listener_id)
        data = body(LARGEST_JSON)
        lvs.upload(listener, data)
        return OK, 200, etag(data)

    @routes.get("/1.0/listeners/<listener_id>/udp_listener")
    def configuration(listener_id: str) -> ResponseReturnValue:
        data = lvs.configuration(object_id(listener_id))
        return Response(data, mimetype="text/plain", headers=etag(data))

    return routes
