"""What the amphora is and has."""

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services

API_VERSION = "1.0"


def information(services: Services) -> Blueprint:
    routes = Blueprint("information", __name__)
    instances, host = services.instances, services.host

    def identity() -> dict[str, Any]:
        return {
            "hostname": host.hostname(),
            "haproxy_version": instances.haproxy_version(),
            "api_version": API_VERSION,
            "keepalived_version": host.keepalived_version(),
            "ipvsadm_version": host.ipvsadm_version(),
        }

    @routes.get("/")
    @routes.get("//")
    def discover() -> ResponseReturnValue:
        return {"api_version": API_VERSION}

    @routes.get("/1.0/info")
    def info() -> ResponseReturnValue:
        return identity()

    @routes.get("/1.0/details")
    def details() -> ResponseReturnValue:
        return {
            **identity(),
            **host.figures(),
            "active": True,
            "networks": services.network.counters(),
            "haproxy_count": instances.running(),
            "lvs_listener_process_count": 0,
            "topology": services.settings.current().loadbalancer_topology,
            "topology_status": "OK",
            "listeners": sorted(listener.uuid for listener in instances.listeners()),
            "packages": {},
        }

    @routes.get("/1.0/listeners")
    def listeners() -> ResponseReturnValue:
        return [listener._asdict() for listener in instances.listeners()]

    return routes
