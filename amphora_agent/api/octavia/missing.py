"""Parts of the contract that are not there yet say so."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.errors import NotSupported


def missing() -> Blueprint:
    routes = Blueprint("missing", __name__)

    @routes.put("/1.0/vrrp/<action>")
    def vrrp(action: str) -> ResponseReturnValue:
        return _unsupported("VRRP (ACTIVE_STANDBY)")

    @routes.put("/1.0/listeners/<amphora_id>/<listener_id>/udp_listener")
    def put_udp_listener(amphora_id: str, listener_id: str) -> ResponseReturnValue:
        return _unsupported("UDP and SCTP listeners (LVS)")

    @routes.get("/1.0/listeners/<listener_id>/udp_listener")
    def get_udp_listener(listener_id: str) -> ResponseReturnValue:
        return _unsupported("UDP and SCTP listeners (LVS)")

    return routes


def _unsupported(feature: str) -> ResponseReturnValue:
    raise NotSupported("Not supported", f"this agent does not have {feature} yet")
