"""What an agent is asked for while its effects fail."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from lab.listeners import Listener, ListenerKind, Member, Pool, loadbalancer, stable_id
from lab.lvs import LvsListener, LvsMember
from lab.pair import VIP as PLUGGED_VIP
from lab.pair import Checks, vrrp_configuration
from lab.pki import Authority
from lab.waiting import until
from tests.integration import declared
from tests.integration.amphora import VIP, WEB_PORTS, Answer
from tests.integration.faults.place import Place

_cables = itertools.count()

LB, UDP = stable_id("faults"), stable_id("faults udp")
#: Of the listener; of one more; of that with TLS; of the declared ones; of the UDP listener.
PORT, MORE_PORT, TLS_PORT, DECLARED_PORT, UDP_PORT = 12001, 12002, 12003, 12004, 12005


SERVED = (VIP, PORT)
DECLARED = (declared.VIP, DECLARED_PORT)
#: Seconds for another haproxy to serve, also when the first attempt has failed.
_RESTARTED = 20.0


@dataclass(frozen=True)
class Operation:
    """`prepare` makes what must be there before, whatever was there; `act` is what may fail.
    `serves` is a port that must be served all the while. `by_command`: the effects are those of a
    command that is run beside the agent. `done` is the status that says, too, that there is nothing
    to do. `remove` takes everything away."""

    name: str
    prepare: Callable[[Place], object]
    act: Callable[[Place], Answer | None]
    serves: tuple[str, int] | None = None
    by_command: bool = False
    done: int = 200
    remove: Callable[[Place], object] | None = None


def text(place: Place, *, members: int = 1, more: bool = False, tls: bool = False) -> str:
    """A configuration; `more` has another listener, `tls` one with certificates."""
    pool = Pool(
        stable_id("faults pool"),
        tuple(
            Member(stable_id(f"faults member {number}"), VIP, port)
            for number, port in enumerate(WEB_PORTS[:members])
        ),
    )
    listeners = [Listener(stable_id("faults listener"), PORT, pool, connection_limit=100)]
    if more:
        listeners.append(Listener(stable_id("faults more"), MORE_PORT, connection_limit=100))
    if tls:
        crt_list = str(place.amphora.agent.cert_path / LB / "list.pem")
        kind: ListenerKind = "TERMINATED_HTTPS"
        listeners.append(
            Listener(
                stable_id("faults tls"), TLS_PORT, kind=kind, crt_list=crt_list, connection_limit=50
            )
        )
    return loadbalancer(LB, vip=VIP, listeners=listeners, base_path=str(place.base))


def _url(place: Place) -> str:
    return f"/1.0/loadbalancer/{place.amphora.agent.amphora_id}/{LB}/haproxy"


def upload(place: Place, configuration: str) -> Answer | None:
    return place.ask("PUT", _url(place), configuration)


def action(place: Place, name: str) -> Answer | None:
    return place.ask("PUT", f"/1.0/loadbalancer/{LB}/{name}")


def push(place: Place, configuration: str) -> Answer | None:
    """Upload and reload, as a controller does; the answer is the first that is an error."""
    answer = upload(place, configuration)
    if answer is None or answer.status >= 300:
        return answer
    return action(place, "reload")


def delete(place: Place) -> Answer | None:
    return place.ask("DELETE", f"/1.0/listeners/{LB}")


def gone(place: Place) -> None:
    place.do("DELETE", f"/1.0/listeners/{LB}")


def running(place: Place) -> None:
    place.do("PUT", _url(place), text(place))
    place.do("PUT", f"/1.0/loadbalancer/{LB}/reload")


def stopped(place: Place) -> None:
    running(place)
    place.do("PUT", f"/1.0/loadbalancer/{LB}/stop")


def started(place: Place) -> None:
    """Anew: the pauses before restarts begin again, too."""
    stopped(place)
    place.do("PUT", f"/1.0/loadbalancer/{LB}/start")


# Certificates


@functools.cache
def pem(name: str) -> bytes:
    """A tenant's certificate; the same one for the same name."""
    return _authority().issue(name, dns=["site"], key="ec").pem


@functools.cache
def _authority() -> Authority:
    return Authority.create("tenant", key="ec")


def put_certificate(place: Place, name: str, content: bytes) -> Answer | None:
    return place.ask("PUT", f"/1.0/loadbalancer/{LB}/certificates/{name}", content)


def delete_certificate(place: Place, name: str) -> Answer | None:
    return place.ask("DELETE", f"/1.0/loadbalancer/{LB}/certificates/{name}")


def secured(place: Place) -> None:
    """With a listener that has a certificate, and with one more that nobody uses."""
    path = f"/1.0/loadbalancer/{LB}/certificates"
    directory = place.amphora.agent.cert_path / LB
    place.do("PUT", f"{path}/site.pem", pem("one"))
    place.do("PUT", f"{path}/old.pem", pem("old"))
    place.do("PUT", f"{path}/list.pem", f"{directory}/site.pem\n")
    place.do("PUT", _url(place), text(place, tls=True))
    place.do("PUT", f"/1.0/loadbalancer/{LB}/reload")


def renew_certificate(place: Place) -> Answer | None:
    answer = put_certificate(place, "site.pem", pem("two"))
    if answer is None or answer.status >= 300:
        return answer
    return action(place, "reload")


# Going back


def changed(place: Place) -> None:
    """Anew, with two generations."""
    gone(place)
    running(place)
    place.do("PUT", _url(place), text(place, more=True))
    place.do("PUT", f"/1.0/loadbalancer/{LB}/reload")


def roll_back(place: Place) -> Answer | None:
    done = subprocess.run(
        [*place.amphora.agent.command(), "rollback", LB, "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **place.command_faults.environment("rollback")},
    )
    body = json.dumps({"details": f"{done.stderr}{done.stdout}"}).encode()
    return Answer(200 if done.returncode == 0 else 500, {}, body)


def die(place: Place) -> Answer | None:
    """haproxy dies; the answer is whether another one serves in its place."""
    [victim] = place.masters()[LB]
    victim.send(signal.SIGKILL)

    def lives_again() -> bool:
        return place.masters().get(LB, [victim]) != [victim] and place.accepts(*SERVED)

    try:
        until(lives_again, "another haproxy serves", timeout=_RESTARTED)
    except TimeoutError as error:
        return Answer(500, {}, json.dumps({"details": str(error)}).encode())
    return Answer(200, {}, b"")


# API 2.0


def body(*, members: int = 1, more: bool = False) -> str:
    listeners = [declared.listener(stable_id("faults declared"), DECLARED_PORT)]
    if more:
        listeners.append(declared.listener(stable_id("faults declared more"), MORE_PORT))
    pool = declared.pool("pool", *map(declared.member, WEB_PORTS[:members]))
    return json.dumps(
        {
            "loadbalancer_id": LB,
            "vip_address": declared.VIP,
            "listeners": listeners,
            "pools": [pool],
        }
    )


def put(place: Place, content: str) -> Answer | None:
    return place.ask("PUT", f"/2.0/loadbalancers/{LB}", content)


def have_declared(place: Place) -> None:
    place.do("PUT", f"/2.0/loadbalancers/{LB}?process_model=loadbalancer", body())


def split(place: Place) -> Answer | None:
    """A process for each listener, and the one for all ends by and by."""
    return place.ask("PUT", f"/2.0/loadbalancers/{LB}?process_model=listener", body())


# UDP


def udp_text(port: int = 5300) -> str:
    member = LvsMember("127.0.0.1", port, id=stable_id("faults udp member"))
    return LvsListener(
        ["127.0.0.1"],
        UDP_PORT,
        [member],
        id=UDP,
        pool_id=stable_id("faults udp pool"),
        balancer_id=stable_id("faults udp balancer"),
    ).text()


def upload_udp(place: Place) -> Answer | None:
    path = f"/1.0/listeners/{place.amphora.agent.amphora_id}/{UDP}/udp_listener"
    return place.ask("PUT", path, udp_text())


def have_udp(place: Place) -> None:
    path = f"/1.0/listeners/{place.amphora.agent.amphora_id}/{UDP}/udp_listener"
    place.do("PUT", path, udp_text(5301))


def no_udp(place: Place) -> None:
    place.do("DELETE", f"/1.0/listeners/{UDP}")


# The network

VIP_MAC, MEMBER_MAC = "fa:16:3e:0f:0a:01", "fa:16:3e:0f:0a:02"


def unplugged(place: Place, mac: str = VIP_MAC) -> None:
    """A new port waits to be plugged, and nobody remembers another. No request does this: ports
    vanish from outside."""
    namespace = place.amphora.namespace
    if place.cable is not None:
        place.cable.unplug()
    for record in place.amphora.agent.network_path.glob("*.json"):
        record.unlink()
    namespace.run(["nft", "flush", "ruleset"])
    for rule in json.loads(namespace.ip("-json", "rule", "show")):
        if rule["src"] != "all":
            namespace.ip("rule", "delete", "priority", str(rule["priority"]))
    number = next(_cables)
    place.cable = place.lab.cable(
        place.router, f"r{number}", place.lab.host, f"hf{os.getpid()}n{number}", mac_b=mac
    )
    place.router.address(f"r{number}", "10.1.0.1/24", "10.2.0.1/24")


def plug_vip(place: Place) -> Answer | None:
    content = {
        "subnet_cidr": "10.1.0.0/24",
        "gateway": "10.1.0.1",
        "mac_address": VIP_MAC,
        "vrrp_ip": "10.1.0.7",
        "mtu": 1450,
        "host_routes": [{"destination": "10.9.0.0/24", "nexthop": "10.1.0.1"}],
    }
    return place.ask("POST", f"/1.0/plug/vip/{PLUGGED_VIP}", json.dumps(content))


def plug_network(place: Place) -> Answer | None:
    fixed = {
        "ip_address": "10.2.0.5",
        "subnet_cidr": "10.2.0.0/24",
        "gateway": "10.2.0.1",
        "host_routes": [{"destination": "10.8.0.0/24", "nexthop": "10.2.0.1"}],
    }
    content = {"mac_address": MEMBER_MAC, "fixed_ips": [fixed], "mtu": 1450}
    return place.ask("POST", "/1.0/plug/network", json.dumps(content))


def set_rules(place: Place, *ports: int) -> Answer | None:
    rules = [{"protocol": "tcp", "cidr": "10.1.0.0/24", "port": port} for port in ports]
    return place.ask("PUT", "/1.0/interface/10.1.0.7/rules", json.dumps(rules))


def plugged(place: Place) -> None:
    unplugged(place)
    assert (answer := plug_vip(place)) is not None
    assert answer.status == 202, answer.body


def guarded(place: Place) -> None:
    plugged(place)
    assert (answer := set_rules(place, 22)) is not None
    assert answer.status == 200, answer.body


# VRRP


def vrrp_text(place: Place, priority: int) -> str:
    return vrrp_configuration(
        base_path=place.base,
        address="10.1.0.7",
        peer="10.1.0.8",
        priority=priority,
        checks=Checks(interval=1),
    )


def vrrp(place: Place, name: str) -> Answer | None:
    return place.ask("PUT", f"/1.0/vrrp/{name}")


def vrrp_stopped(place: Place) -> None:
    links = json.loads(place.amphora.namespace.ip("-json", "link", "show"))
    first = not any(link["ifname"] == "eth1" for link in links)
    if first:
        plugged(place)
    place.do("PUT", "/1.0/vrrp/upload", vrrp_text(place, 90))
    if first:  # what is made once is made now
        place.do("PUT", "/1.0/vrrp/start")
    place.do("PUT", "/1.0/vrrp/stop")


def vrrp_started(place: Place) -> None:
    vrrp_stopped(place)
    place.do("PUT", "/1.0/vrrp/start")


# The agent's own files


def config_with(place: Place, line: str) -> str:
    return f"{place.config}\n# {line}\n"


def old_config(place: Place) -> None:
    for line in ("earlier", "before"):
        place.do("PUT", "/1.0/config", config_with(place, line))


def old_certificate(place: Place) -> None:
    for number in (0, 1):
        place.do("PUT", "/1.0/certificate", place.own_certificates[number])


def warm_up(place: Place) -> None:
    """Have everything made that is made once."""
    declared.have_vip(place.amphora.namespace)
    running(place)
    gone(place)
    have_declared(place)
    gone(place)


OPERATIONS = (
    Operation("first upload", gone, lambda place: upload(place, text(place))),
    Operation("first push", gone, lambda place: push(place, text(place))),
    Operation("start", stopped, lambda place: action(place, "start")),
    Operation("reload", running, lambda place: push(place, text(place, more=True)), SERVED),
    Operation("member", running, lambda place: push(place, text(place, members=2)), SERVED),
    Operation("certificate", secured, renew_certificate, SERVED),
    Operation(
        "certificate removed", secured, lambda place: delete_certificate(place, "old.pem"), SERVED
    ),
    Operation("rollback", changed, roll_back, SERVED, by_command=True),
    Operation("death", started, die, SERVED),
    Operation("stop", running, lambda place: action(place, "stop")),
    Operation("delete", running, delete),
    Operation("declare", gone, lambda place: put(place, body())),
    Operation(
        "declared reload", have_declared, lambda place: put(place, body(more=True)), DECLARED
    ),
    Operation(
        "declared member", have_declared, lambda place: put(place, body(members=2)), DECLARED
    ),
    Operation("declared split", have_declared, split, DECLARED),
    Operation(
        "declared delete",
        have_declared,
        lambda place: place.ask("DELETE", f"/2.0/loadbalancers/{LB}"),
        done=404,
    ),
    Operation("UDP upload", have_udp, upload_udp, remove=no_udp),
    Operation(
        "UDP delete",
        have_udp,
        lambda place: place.ask("DELETE", f"/1.0/listeners/{UDP}"),
        remove=no_udp,
    ),
    Operation(
        "configuration",
        old_config,
        lambda place: place.ask("PUT", "/1.0/config", config_with(place, "now")),
        remove=old_config,
    ),
    Operation(
        "agent certificate",
        old_certificate,
        lambda place: place.ask("PUT", "/1.0/certificate", place.own_certificates[2]),
        remove=old_certificate,
    ),
    Operation("plug of the VIP", unplugged, plug_vip, remove=unplugged),
    Operation(
        "plug of a network",
        lambda place: unplugged(place, MEMBER_MAC),
        plug_network,
        remove=unplugged,
    ),
    Operation("rules", guarded, lambda place: set_rules(place, 80, 443), remove=unplugged),
    Operation(
        "VRRP upload",
        vrrp_stopped,
        lambda place: place.ask("PUT", "/1.0/vrrp/upload", vrrp_text(place, 100)),
        remove=vrrp_stopped,
    ),
    Operation("VRRP start", vrrp_stopped, lambda place: vrrp(place, "start"), remove=vrrp_stopped),
    Operation("VRRP stop", vrrp_started, lambda place: vrrp(place, "stop"), remove=vrrp_stopped),
)
