"""The routes of Octavia's controllers, API 1.0 and 0.5 (WIRE §3).

There is a blueprint for each resource: the amphora's information and listeners, load balancers with
their life and certificate files, UDP and SCTP listeners, the agent's certificate and configuration,
interfaces, and VRRP, which decides who of a pair has the VIPs. The names of blueprints and of
endpoints are labels of metrics.

API 0.5 has one haproxy for each listener, under the listener's id (WIRE §2). An instance may have
any id, so 0.5 has the routes of 1.0, with `listeners` where 1.0 says `loadbalancer`, and one more.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Flask, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.http import (
    CURRENT,
    LARGEST_CERTIFICATE,
    LARGEST_CONFIGURATION,
    LARGEST_JSON,
    LEGACY,
    OK,
    find_version,
    make_etag,
    read_body,
)
from amphora_agent.api.services import caller, peer, services
from amphora_agent.errors import InvalidRequest
from amphora_agent.events.journal import ChangeRecord
from amphora_agent.haproxy.process.takeover import Takeover
from amphora_agent.keepalived.config.lvs import find_claims
from amphora_agent.model.events import Difference, Operation, Part, compare
from amphora_agent.model.status import ListenerRow
from amphora_agent.paths import ObjectId, certificate_name, object_id
from amphora_agent.settings.policy import list_differences

information = Blueprint("information", __name__)


def _describe() -> dict[str, Any]:
    return {
        "hostname": socket.gethostname(),
        "haproxy_version": services.instances.haproxy_version(),
        "api_version": find_version(),
        "keepalived_version": services.host.find_version("keepalived"),
        "ipvsadm_version": services.host.find_version("ipvsadm"),
    }


def _list_listeners() -> list[ListenerRow]:
    return [*services.inventory.listeners(), *services.lvs.listeners()]


@information.get("/")
@information.get("//")
def discover() -> ResponseReturnValue:
    return {"api_version": CURRENT}


@information.get("/1.0/info")
def info() -> ResponseReturnValue:
    return _describe()


@information.get("/1.0/details")
def details() -> ResponseReturnValue:
    return {
        **_describe(),
        **services.host.figures(),
        "active": True,
        "networks": services.network.counters(),
        "haproxy_count": services.inventory.running(),
        "lvs_listener_process_count": services.lvs.running(),
        "topology": services.settings.current().loadbalancer_topology,
        "topology_status": "OK",
        "listeners": sorted(listener.uuid for listener in _list_listeners()),
        "packages": {},
    }


@information.get("/1.0/listeners")
def listeners() -> ResponseReturnValue:
    return [listener._asdict() for listener in _list_listeners()]


@information.get(f"/{LEGACY}/listeners/<listener_id>")
def legacy_listener(listener_id: str) -> ResponseReturnValue:
    listener = services.inventory.listener(object_id(listener_id))
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


amphora = Blueprint("amphora", __name__)


@amphora.put("/1.0/certificate")
def certificate() -> ResponseReturnValue:
    data = read_body(LARGEST_CERTIFICATE)
    with services.journal.change(Part.AGENT, "", caller(), Operation.AGENT_CERTIFICATE) as record:
        before = _format_expiry()
        services.certificate.replace(data)
        record.differences = [Difference("expires", before, _format_expiry())]
    return OK, 202, make_etag(data)


@amphora.put("/1.0/config")
def config() -> ResponseReturnValue:
    data = read_body(LARGEST_JSON)
    with services.journal.change(Part.AGENT, "", caller(), Operation.CONFIGURATION) as record:
        before = services.settings.current()
        services.reconfiguration.replace(data, peer())
        record.differences = list_differences(before, services.settings.current())
    return OK, 202


def _format_expiry() -> str | None:
    expires = services.certificate.expires()
    return None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat()


certificates = Blueprint("certificates", __name__)
# A name may come with slashes in it (percent-encoded): it is refused by name, not unknown.
_CERTIFICATE = "/1.0/loadbalancer/<lb_id>/certificates/<rest:filename>"


@certificates.put(_CERTIFICATE, endpoint="put")
def put_certificate(lb_id: str, filename: str) -> ResponseReturnValue:
    instance, name = object_id(lb_id), certificate_name(filename)
    data = read_body(LARGEST_CERTIFICATE)
    services.instances.certificates.put(instance, name, data, by=caller())
    return OK, 200, make_etag(data)


@certificates.get(_CERTIFICATE)
def get_certificate(lb_id: str, filename: str) -> ResponseReturnValue:
    md5 = services.instances.certificates.md5(object_id(lb_id), certificate_name(filename))
    return {"md5sum": md5}, 200, {"ETag": md5}


@certificates.delete(_CERTIFICATE, endpoint="delete")
def delete_certificate(lb_id: str, filename: str) -> ResponseReturnValue:
    which, name = object_id(lb_id), certificate_name(filename)
    services.instances.certificates.delete(which, name, by=caller())
    return OK


loadbalancers = Blueprint("loadbalancers", __name__)


@loadbalancers.put("/1.0/loadbalancer/<amphora_id>/<lb_id>/haproxy", endpoint="upload")
def upload_haproxy(amphora_id: str, lb_id: str) -> ResponseReturnValue:
    amphora, instance = object_id(amphora_id), object_id(lb_id)
    data = read_body(LARGEST_CONFIGURATION)
    services.instances.upload(instance, amphora, data, caller())
    return OK, 202, make_etag(data)


@loadbalancers.get("/1.0/loadbalancer/<lb_id>/haproxy")
def get_haproxy(lb_id: str) -> ResponseReturnValue:
    data = services.inventory.configuration(object_id(lb_id))
    return Response(data, mimetype="text/plain", headers=make_etag(data))


def _give_way(lb_id: ObjectId, start: Callable[[Takeover], object]) -> None:
    services.declared().give_way(lb_id, start)


@loadbalancers.put("/1.0/loadbalancer/<lb_id>/<action>", endpoint="act")
def act_on_loadbalancer(lb_id: str, action: str) -> ResponseReturnValue:
    which, by = object_id(lb_id), caller()
    lvs, instances = services.lvs, services.instances
    actions = {"start": lvs.start, "stop": lvs.stop, "reload": lvs.reload}
    if action not in actions:
        raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
    if lvs.holds(which):
        with services.journal.change(Part.INSTANCE, which, by, Operation(action)) as record:
            details = actions[action](which)
            record.words = [details]
    elif action == "stop":
        details = instances.stop(which, by=by)
    else:
        begin = instances.start if action == "start" else instances.reload
        details = begin(which, by=by, give_way=_give_way)
    if action != "stop":
        services.network.announce_vips(single=services.settings.current().single)
    return {"message": "OK", "details": details}, 202


@loadbalancers.delete("/1.0/listeners/<object_>", endpoint="delete")
def delete_instance(object_: str) -> ResponseReturnValue:
    which = object_id(object_)
    if services.lvs.holds(which):
        with services.journal.change(Part.INSTANCE, which, caller(), Operation.DELETE):
            services.lvs.delete(which)
    elif services.inventory.is_rendered(which):
        services.declared().delete(which, caller())
    else:
        services.instances.delete(which, by=caller())
    return OK


udp = Blueprint("udp", __name__)


@udp.put("/1.0/listeners/<amphora_id>/<listener_id>/udp_listener", endpoint="upload")
def upload_listener(amphora_id: str, listener_id: str) -> ResponseReturnValue:
    object_id(amphora_id)
    listener = object_id(listener_id)
    data = read_body(LARGEST_JSON)
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
    return OK, 200, make_etag(data)


@udp.get("/1.0/listeners/<listener_id>/udp_listener")
def get_listener(listener_id: str) -> ResponseReturnValue:
    data = services.lvs.configuration(object_id(listener_id))
    return Response(data, mimetype="text/plain", headers=make_etag(data))


vrrp = Blueprint("vrrp", __name__)


@vrrp.put("/1.0/vrrp/upload", endpoint="upload")
def upload_vrrp() -> ResponseReturnValue:
    data = read_body(LARGEST_JSON)
    with services.journal.change(Part.VRRP, "", caller(), Operation.UPLOAD) as record:
        record.words = [f"{len(data)} bytes"]
        services.vrrp.upload(data)
    return OK, 200, make_etag(data)


@vrrp.put("/1.0/vrrp/<action>", endpoint="act")
def act_on_vrrp(action: str) -> ResponseReturnValue:
    service = services.vrrp
    actions = {"start": service.start, "stop": service.stop, "reload": service.reload}
    if action not in actions:
        raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
    with services.journal.change(Part.VRRP, "", caller(), Operation(action)) as record:
        details = actions[action]()
        record.words = [details]
    return {"message": "OK", "details": details}, 202


network = Blueprint("network", __name__)


@contextmanager
def _changing(subject: str, operation: Operation) -> Iterator[ChangeRecord]:
    with services.journal.change(Part.INTERFACE, subject, caller(), operation) as record:
        before = services.network.describe()
        yield record
        record.differences = compare(before, services.network.describe())


@network.post("/1.0/plug/vip/<vip>")
def plug_vip(vip: str) -> ResponseReturnValue:
    single = services.settings.current().single
    data = read_body(LARGEST_JSON)
    with _changing(vip, Operation.PLUG_VIP) as record:
        details = services.network.plug_vip(vip, data, single=single)
        record.words = [details]
    return {"message": "OK", "details": details}, 202


@network.post("/1.0/plug/network")
def plug_network() -> ResponseReturnValue:
    single = services.settings.current().single
    data = read_body(LARGEST_JSON)
    with _changing("", Operation.PLUG_NETWORK) as record:
        details = services.network.plug_network(data, single=single)
        record.subject, record.words = details.rpartition(" ")[2], [details]
    return {"message": "OK", "details": details}, 202


@network.get("/1.0/interface/<address>")
def interface(address: str) -> ResponseReturnValue:
    return {"message": "OK", "interface": services.network.interface_of(address)}


@network.put("/1.0/interface/<address>/rules")
def rules(address: str) -> ResponseReturnValue:
    data = read_body(LARGEST_JSON)
    with _changing(address, Operation.INTERFACE_RULES):
        services.network.set_rules(address, data)
    return OK


#: All routes of 1.0, and those that have no version or are of 0.5 alone.
BLUEPRINTS = (information, loadbalancers, certificates, udp, amphora, network, vrrp)


def add_legacy_rules(app: Flask) -> None:
    """Serve every route of 1.0 that `app` has in 0.5 as well."""
    for rule in tuple(app.url_map.iter_rules()):
        if rule.rule.startswith(f"/{CURRENT}/"):
            path = rule.rule.removeprefix(f"/{CURRENT}/").replace("loadbalancer/", "listeners/", 1)
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            app.add_url_rule(f"/{LEGACY}/{path}", endpoint=rule.endpoint, methods=methods)
