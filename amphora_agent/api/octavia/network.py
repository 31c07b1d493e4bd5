"""Plugging: the interfaces of the amphora."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia.body import LARGEST_JSON, OK, body
from amphora_agent.api.services import Services


def network(services: Services) -> Blueprint:
    routes = Blueprint("network", __name__)
    plugging = services.network

    @routes.post("/1.0/plug/vip/<vip>")
    def plug_vip(vip: str) -> ResponseReturnValue:
        single = services.settings.current().single
        details = plugging.plug_vip(vip, body(LARGEST_JSON), single=single)
        return {"message": "OK", "details": details}, 202

    @routes.post("/1.0/plug/network")
    def plug_network() -> ResponseReturnValue:
        single = services.settings.current().single
        details = plugging.plug_network(body(LARGEST_JSON), single=single)
        return {"message": "OK", "details": details}, 202

    @routes.get("/1.0/interface/<address>")
    def interface(address: str) -> ResponseReturnValue:
        return {"message": "OK", "interface": plugging.interface_of(address)}

    @routes.put("/1.0/interface/<address>/rules")
    def rules(address: str) -> ResponseReturnValue:
        plugging.set_rules(address, body(LARGEST_JSON))
        return OK

    return routes
