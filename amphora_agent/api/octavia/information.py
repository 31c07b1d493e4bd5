"""What the amphora is and has."""

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia import versions
from amphora_agent.api.services import Services
from amphora_agent.model.status import ListenerStatus


def information(services: Services) -> Blueprint:
    routes = Blueprint("information", __name__)
    inventory, lvs, host = services.inventory, services.lvs, services.host

    def identity() -> dict[str, Any]:
        return {
            "hostname": host.hostname(),
            "haproxy_version": services.instances.haproxy_version(),
            "api_version": versions.spoken(),
            "keepalived_version": host.keepalived_version(),
            "ipvsadm_version": host.ipvsadm_version(),
        }

    def all_listeners() -> list[ListenerStatus]:
        return [*inventory.listeners(), *lvs.listeners()]

    @routes.get("/")
    @routes.get("//")
    def discover() -> ResponseReturnValue:
        return {"api_version": versions.CURRENT}

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
            "haproxy_count": inventory.running(),
            "lvs_listener_process_count": lvs.running(),
            "topology": services.settings.current().loadbalancer_topology,
            "topology_status": "OK",
            "listeners": sorted(listener.uuid for listener in all_listeners()),
            "packages": {},
        }

    @routes.get("/1.0/listeners")
    def listeners() -> ResponseReturnValue:
        return [listener._asdict() for listener in all_listeners()]

    return routes
