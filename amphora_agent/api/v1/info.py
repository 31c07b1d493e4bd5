"""The amphora's information, details and listeners; the agent's certificate and configuration."""

from datetime import UTC, datetime
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services, caller, peer
from amphora_agent.api.v1 import http
from amphora_agent.api.v1.http import LARGEST_CERTIFICATE, LARGEST_JSON, OK, body, etag
from amphora_agent.model.events import Difference, Operation, Part
from amphora_agent.model.status import ListenerRow
from amphora_agent.paths import object_id
from amphora_agent.settings.policy import list_differences


def information(services: Services) -> Blueprint:
    routes = Blueprint("information", __name__)
    inventory, lvs, host = services.inventory, services.lvs, services.host

    def describe() -> dict[str, Any]:
        return {
            "hostname": host.hostname(),
            "haproxy_version": services.instances.haproxy_version(),
            "api_version": http.find_version(),
            "keepalived_version": host.keepalived_version(),
            "ipvsadm_version": host.ipvsadm_version(),
        }

    def list_all() -> list[ListenerRow]:
        return [*inventory.listeners(), *lvs.listeners()]

    @routes.get("/")
    @routes.get("//")
    def discover() -> ResponseReturnValue:
        return {"api_version": http.CURRENT}

    @routes.get("/1.0/info")
    def info() -> ResponseReturnValue:
        return describe()

    @routes.get("/1.0/details")
    def details() -> ResponseReturnValue:
        return {
            **describe(),
            **host.figures(),
            "active": True,
            "networks": services.network.counters(),
            "haproxy_count": inventory.running(),
            "lvs_listener_process_count": lvs.running(),
            "topology": services.settings.current().loadbalancer_topology,
            "topology_status": "OK",
            "listeners": sorted(listener.uuid for listener in list_all()),
            "packages": {},
        }

    @routes.get("/1.0/listeners")
    def listeners() -> ResponseReturnValue:
        return [listener._asdict() for listener in list_all()]

    @routes.get(f"/{http.LEGACY}/listeners/<listener_id>")
    def legacy_listener(listener_id: str) -> ResponseReturnValue:
        listener = inventory.listener(object_id(listener_id))
        answer = listener.status._asdict()
        if listener.pools is not None:
            answer["pools"] = [
                {
                    "uuid": pool_id,
                    "status": pool.status,
                    "members": [{member: status} for member, status in pool.members.items()],
                }
                for pool_id, pool in listener.pools.items()
            ]
        return answer

    return routes


def amphora(services: Services) -> Blueprint:
    routes = Blueprint("amphora", __name__)

    @routes.put("/1.0/certificate")
    def certificate() -> ResponseReturnValue:
        data = body(LARGEST_CERTIFICATE)
        operation = Operation.AGENT_CERTIFICATE
        with services.journal.change(Part.AGENT, "", caller(), operation) as record:
            before = _format_expiry(services)
            services.certificate.replace(data)
            record.differences = [Difference("expires", before, _format_expiry(services))]
        return OK, 202, etag(data)

    @routes.put("/1.0/config")
    def config() -> ResponseReturnValue:
        data = body(LARGEST_JSON)
        operation = Operation.CONFIGURATION
        with services.journal.change(Part.AGENT, "", caller(), operation) as record:
            before = services.settings.current()
            services.reconfiguration.replace(data, peer())
            record.differences = list_differences(before, services.settings.current())
        return OK, 202

    return routes


def _format_expiry(services: Services) -> str | None:
    expires = services.certificate.expires()
    return None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat()
