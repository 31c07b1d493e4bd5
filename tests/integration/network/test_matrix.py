"""Every kind of amphora under traffic, and each change of it and back.

    client ── router ══ VIP network ══ amphora ══ member network ══ near member ── far member

Where members are reached by the VIP's port, both networks are one. Each side has clients or
members on-link and beyond a router. The member network claims to lead to the clients: whoever
believed it would lose them, since none of its hosts knows the way.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import pytest

from amphora_agent.network.announcer import announce_once
from amphora_agent.network.port_service import Patience
from amphora_agent.network.records import Leases
from amphora_agent.wiring import make_network
from lab.network import Bridge, Cable
from lab.network import Namespace as LabNamespace
from lab.waiting import until
from tests.integration.network.rig import MAIN, MEMBER_MAC, OTHER_MAC, VIP_MAC, VIP_TABLE, Rig, rig

#: The networks, by their number in the addresses.
VIPS, MEMBERS, CLIENTS, FAR, MORE_VIPS, ELSEWHERE = range(1, 7)
#: And the hosts.
GATEWAY, CLIENT, VIP, FIXED, OTHER_FIXED, VRRP, MEMBER = 1, 2, 5, 5, 6, 7, 20
OTHER_GATEWAY = 2

#: haproxy's, for the near and the far member, and for clients elsewhere; where members listen; and
#: where haproxy says that it has begun.
TO_NEAR, TO_FAR, FOR_OTHERS, MEMBER_PORT, READY = 80, 81, 82, 8080, 9

KEEPALIVED = "18"

#: The option of a socket that may have the addresses of others. IPV6_TRANSPARENT is not in socket.
TRANSPARENT = {
    4: (socket.IPPROTO_IP, socket.IP_TRANSPARENT),
    6: (socket.IPPROTO_IPV6, 75),
}


@dataclass(frozen=True)
class Family:
    version: Literal[4, 6]

    def at(self, network: int, host: int) -> str:
        return f"10.{network}.0.{host}" if self.version == 4 else f"fd0{network}::{host}"

    def interface(self, network: int, host: int) -> str:
        return f"{self.at(network, host)}/{24 if self.version == 4 else 64}"

    def subnet(self, network: int) -> str:
        return f"10.{network}.0.0/24" if self.version == 4 else f"fd0{network}::/64"

    def alone(self, network: int, host: int) -> str:
        return f"{self.at(network, host)}/{32 if self.version == 4 else 128}"


IPV4, IPV6 = Family(4), Family(6)

Place: TypeAlias = Literal["VIP only", "separate member port", "member on the VIP port"]


@dataclass(frozen=True)
class Kind:
    single: bool
    families: tuple[Family, ...]
    place: Place
    sriov: bool

    def __str__(self) -> str:
        topology = "SINGLE" if self.single else "ACTIVE_STANDBY"
        families = "+".join(f"IPv{family.version}" for family in self.families)
        return f"{topology}-{families}-{self.place}-{'SR-IOV' if self.sriov else 'plain'}"


KINDS = [
    Kind(single, families, place, sriov)
    for single, families, place, sriov in itertools.product(
        (True, False), ((IPV4,), (IPV6,), (IPV4, IPV6)), get_args(Place), (False, True)
    )
]


class Amphora:
    """One amphora of a kind, what its controller wants of it, and the world on both sides."""

    def __init__(self, rig: Rig, kind: Kind, directory: Path, closing: ExitStack) -> None:
        self.rig = rig
        # Unlike the rig's own it announces: neighbours remember the cards that there were before.
        self.network = make_network(rig.layout, Leases(rig.layout.leases), patience=Patience(0.05))
        self.kind = kind
        self.families = kind.families
        # What keepalived has, and whether its part is played here.
        self.held: set[tuple[Family, int]] = set()
        self.plays_keepalived = not kind.single
        self.directory = directory
        self.haproxy: subprocess.Popen[str] | None = None
        # What the controller wants.
        self.vip_mac, self.member_mac = VIP_MAC, MEMBER_MAC
        self.mtu = 1450
        self.gateway = GATEWAY
        self.vip_networks = [VIPS]
        self.fixed = [FIXED]
        self.destinations: list[int] = []
        self.open_ports: list[int] = [TO_NEAR, TO_FAR]
        # The world.
        self.cables: dict[str, Cable] = {}
        self.client = rig.lab.namespace("client")
        self.near = rig.lab.namespace("near")
        self.far = rig.lab.namespace("far")
        self.near.forward()
        self._lay_out()
        self.listeners = {
            TO_NEAR: closing.enter_context(_listening(self.near)),
            TO_FAR: closing.enter_context(_listening(self.far)),
        }
        self.listeners[FOR_OTHERS] = self.listeners[TO_NEAR]

    def _lay_out(self) -> None:
        lab, router = self.rig.lab, self.rig.router
        vips = Bridge(lab, router, "vips")
        members = Bridge(lab, router, "members")  # without addresses: no way for the router
        lab.cable(router, "clients", self.client, "card")
        lab.cable(self.near, "beyond", self.far, "card")
        (members if self.kind.place == "separate member port" else vips).port(self.near, "card")
        for family in (IPV4, IPV6):
            router.address("clients", family.interface(CLIENTS, GATEWAY))
            for network in (VIPS, MORE_VIPS):
                router.address("vips", family.interface(network, GATEWAY))
            router.address("vips", family.interface(VIPS, OTHER_GATEWAY))
            self.client.address("card", family.interface(CLIENTS, CLIENT))
            self.client.route("default", via=family.at(CLIENTS, GATEWAY))
            for network in self.networks_of_members:
                self.near.address("card", family.interface(network, MEMBER))
            self.near.address("beyond", family.interface(FAR, GATEWAY))
            self.far.address("card", family.interface(FAR, MEMBER))
            self.far.route("default", via=family.at(FAR, GATEWAY))

    @property
    def networks_of_members(self) -> list[int]:
        """The first is where the near member is served; it finds the others on-link, too."""
        return {
            "VIP only": [VIPS, MORE_VIPS],
            "separate member port": [MEMBERS],
            "member on the VIP port": [MEMBERS, VIPS],
        }[self.kind.place]

    # What the controller sends

    def plug(self) -> None:
        self.plug_vip()
        self.plug_members()

    def plug_vip(self) -> None:
        vip, *additional_vips = self.vips()
        body = self._vip_body() | {"additional_vips": additional_vips}
        self.network.plug_vip(vip["ip_address"], _json(body), single=self.kind.single)
        self.keepalived_follows()
        self.network.announce_vips(single=self.kind.single)  # as with haproxy's reload

    def plug_members(self) -> None:
        """Another network is plugged only where there is one."""
        if self.kind.place == "VIP only":
            return
        fixed_ips: list[dict[str, Any]] = [
            {
                "ip_address": family.at(MEMBERS, host),
                "subnet_cidr": family.subnet(MEMBERS),
                # Nobody has it, and nobody is to ask for it.
                "gateway": family.at(MEMBERS, 99),
                "host_routes": self._host_routes(family, MEMBERS, FAR, CLIENTS),
            }
            for family in self.families
            for host in self.fixed
        ]
        body = {"mac_address": self.member_mac, "mtu": self.mtu, "is_sriov": self.kind.sriov}
        if self.kind.place == "member on the VIP port":
            family = self.families[0]
            of_vrrp = {"ip_address": family.at(VIPS, VRRP), "subnet_cidr": family.subnet(VIPS)}
            fixed_ips.insert(0, of_vrrp)
            # Without the additional VIPs, as the controller sends it.
            vip_net_info = self._vip_body() | {"vip": family.at(VIPS, VIP), "additional_vips": []}
            body |= {"mac_address": self.vip_mac, "vip_net_info": vip_net_info}
        body["fixed_ips"] = fixed_ips
        self.network.plug_network(_json(body), single=self.kind.single)

    def set_rules(self) -> None:
        if not self.kind.sriov:
            return
        rules: list[dict[str, Any]] = [
            {"protocol": "TCP", "cidr": family.subnet(CLIENTS), "port": port}
            for family in self.families
            for port in self.open_ports
        ]
        for family in self.families:
            elsewhere = family.subnet(ELSEWHERE)
            rules.append({"protocol": "TCP", "cidr": elsewhere, "port": FOR_OTHERS})
        rules.append({"protocol": "VRRP", "cidr": None, "port": 112})
        self.network.set_rules(self.families[0].at(VIPS, VRRP), _json(rules))

    def vips(self) -> list[dict[str, Any]]:
        return [
            {
                "ip_address": family.at(network, VIP),
                "subnet_cidr": family.subnet(network),
                "gateway": family.at(network, self.gateway if network == VIPS else GATEWAY),
                "host_routes": self._vip_host_routes(family) if network == VIPS else [],
            }
            for network in self.vip_networks
            for family in self.families
        ]

    def _vip_body(self) -> dict[str, Any]:
        vip, *_ = self.vips()
        return {
            "subnet_cidr": vip["subnet_cidr"],
            "gateway": vip["gateway"],
            "host_routes": vip["host_routes"],
            "mac_address": self.vip_mac,
            "vrrp_ip": self.families[0].at(VIPS, VRRP),
            "mtu": self.mtu,
            "is_sriov": self.kind.sriov,
        }

    def _vip_host_routes(self, family: Family) -> list[dict[str, str]]:
        if self.kind.place == "VIP only":
            return self._host_routes(family, VIPS, FAR)
        return []

    def _host_routes(self, family: Family, network: int, *always: int) -> list[dict[str, str]]:
        return [
            {"destination": family.subnet(destination), "nexthop": family.at(network, MEMBER)}
            for destination in (*always, *self.destinations)
        ]

    # keepalived's part

    def keepalived_follows(self) -> None:
        """In ACTIVE_STANDBY, the master of the VIPs holds those that the controller wants."""
        if self.plays_keepalived:
            wanted = {
                (family, network) for family in self.families for network in self.vip_networks
            }
            self._change_held("del", self.held - wanted)
            self._change_held("add", wanted - self.held)
            self.held = wanted
            addresses = [ip_address(family.at(network, VIP)) for family, network in wanted]
            announce_once(self.rig.namespace, "eth1", addresses)

    def keepalived_steps_down(self) -> None:
        self._change_held("del", self.held)
        self.held.clear()

    def _change_held(self, change: str, vips: set[tuple[Family, int]]) -> None:
        for family in self.families:
            commands = [
                f"{kind} {change} {what}"
                for of_family, network in vips
                if of_family == family
                for kind, what in self.held_for(family, network)
            ]
            if change == "del":
                commands.reverse()
            ip = ["ip", f"-{family.version}", "-batch", "-"]
            self.rig.inside.run(ip, stdin="\n".join(commands))

    def held_for(self, family: Family, network: int) -> Iterator[tuple[str, str]]:
        vip = family.at(network, VIP)
        unused_as_source = " preferred_lft 0 nodad" if family.version == 6 else ""
        ours = f"dev eth1 table 1 protocol {KEEPALIVED}"
        yield "address", f"{family.alone(network, VIP)} dev eth1{unused_as_source}"
        yield "route", f"{family.subnet(network)} src {vip} {ours}"
        if network == VIPS:
            yield "route", f"default via {family.at(VIPS, GATEWAY)} onlink {ours}"
            for route in self._vip_host_routes(family):
                if route["destination"] == family.subnet(FAR):
                    way = f"{route['destination']} via {route['nexthop']}"
                    yield "route", f"{way} onlink {ours}"
        yield (
            "rule",
            f"from {family.alone(network, VIP)} table 1 priority 100 protocol {KEEPALIVED}",
        )

    # The machine's part

    def connect(self, port: Literal["vip", "member"] = "vip") -> None:
        """Put a card into the machine."""
        mac = self.vip_mac if port == "vip" else self.member_mac
        cable = self.rig.port(mac)
        segment = "vips" if port == "vip" else "members"
        self.rig.router.ip("link", "set", cable.ifname_a, "master", segment, "up")
        self.cables[port] = cable

    def boot(self, *, quick: bool = True) -> None:
        """Begin with a namespace that holds nothing of the agent, and put the cards in."""
        self.rig.ensure_namespace()
        if quick:
            self.rig.quick_ipv6()
        for setting in ("net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"):
            self.rig.inside.sysctl(setting, "1")
        self.rig.inside.run(["nft", "-f", "-"], stdin=WATCH)
        self.held.clear()
        self.connect("vip")
        if self.kind.place == "separate member port":
            self.connect("member")

    def start_haproxy(self) -> None:
        text = "defaults\n mode tcp\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n"
        for family in self.families:
            near = family.at(self.networks_of_members[0], MEMBER)
            for name, ports, member in (
                ("near", (TO_NEAR, FOR_OTHERS), near),
                ("far", (TO_FAR,), family.at(FAR, MEMBER)),
            ):
                text += f"listen {name}{family.version}\n server member {member}:{MEMBER_PORT}\n"
                for network, port in itertools.product((VIPS, MORE_VIPS), ports):
                    text += f" bind {family.at(network, VIP)}:{port}\n"
        text += f"frontend ready\n bind 127.0.0.1:{READY}\n"
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text("global\n nbthread 1\n" + text)
        self.haproxy = self.rig.inside.popen(["haproxy", "-db", "-f", str(configuration)])
        until(self._haproxy_is_ready, "haproxy listens")

    def _haproxy_is_ready(self) -> bool:
        try:
            self.rig.inside.connect("127.0.0.1", READY).close()
        except ConnectionRefusedError:
            return False
        return True

    def end_haproxy(self) -> None:
        if self.haproxy:
            self.haproxy.kill()
            self.haproxy.wait()
            self.haproxy = None

    # What must be so

    def serves(self) -> None:
        for family, network in itertools.product(self.families, self.vip_networks):
            vip = family.at(network, VIP)
            if TO_NEAR in self.open_ports:
                assert self.request(vip, TO_NEAR) in self.sources(family)
            if TO_FAR in self.open_ports:
                assert self.request(vip, TO_FAR) in self.sources(family, far=True)
            if TO_NEAR not in self.open_ports:
                assert self.is_silent(vip, TO_NEAR)

    def request(self, vip: str, port: int) -> str:
        """Have a client served by the port's member; returns who the member thinks it was."""
        listener = self.listeners[port]
        with self.client.connect(vip, port) as connection:
            made, sender = listener.accept()
            with made:
                made.sendall(b"served")
            assert connection.recv(99) == b"served"
        return _address(sender)

    def is_silent(self, vip: str, port: int) -> bool:
        """Whether a connection is not even refused: a later ping is answered before."""
        with self.client.make_socket(vip) as trying:
            trying.setblocking(False)
            trying.connect_ex((vip, port))
            assert self.rig.answers(vip, self.client)
            return not select.select([], [trying], [], 0)[1]

    def sources(self, family: Family, *, far: bool = False) -> set[str]:
        """From where members may be connected to: never a VIP, where there is anything else."""
        vrrp = family.at(VIPS, VRRP)
        if self.kind.place == "VIP only":
            if family == self.families[0]:
                return {vrrp}
            return {family.at(network, VIP) for network in self.vip_networks}
        fixed = {family.at(MEMBERS, host) for host in self.fixed}
        # IPv6 takes any address of the interface for what is beyond a router.
        on_the_interface = far and family == IPV6 and self.kind.place == "member on the VIP port"
        return fixed | ({vrrp} if on_the_interface else set())

    def is_settled(self) -> None:
        """Nothing is left to do, and a new agent does nothing."""
        assert list(self.network.plan(single=self.kind.single)) == []
        self.rig.announced.clear()
        assert self.rig.agent().restore(single=self.kind.single) == []
        assert self.rig.announced == []

    def routes_by_the_right_interface(self) -> None:
        near = self.networks_of_members[0]
        believer = "eth2" if self.kind.place == "separate member port" else "eth1"
        assert not any(line.startswith("default") for line in self.rig.routes(MAIN, "eth2"))
        for family in self.families:
            client, vip = family.at(CLIENTS, CLIENT), family.at(VIPS, VIP)
            assert self.way(client, "from", vip) == ("eth1", family.at(VIPS, GATEWAY))
            if self.kind.place != "VIP only":
                assert self.way(client) == (believer, family.at(near, MEMBER))

    def masquerades(self) -> None:
        """What IPVS sends on in UDP, it sends with the client's address."""
        for family in self.families:
            near, client = (
                family.at(self.networks_of_members[0], MEMBER),
                family.at(CLIENTS, CLIENT),
            )
            with (
                self.near.make_socket(near, socket.SOCK_DGRAM) as inbox,
                self.rig.inside.make_socket(near, socket.SOCK_DGRAM) as sender,
            ):
                inbox.settimeout(5)
                inbox.bind((near, MEMBER_PORT))
                sender.setsockopt(*TRANSPARENT[family.version], 1)
                sender.bind((client, 0))
                sender.sendto(b"question", (near, MEMBER_PORT))
                assert _address(inbox.recvfrom(99)[1]) in self.sources(family)

    def guards_or_tracks_nothing(self) -> None:
        """SR-IOV: what no rule allows is dropped. Otherwise TCP costs no state."""
        packets = self.packets()
        for family in self.families:
            vip = family.at(VIPS, VIP)
            if self.kind.sriov:
                assert self.is_silent(vip, FOR_OTHERS)
            else:
                assert self.request(vip, FOR_OTHERS) in self.sources(family)
        with_state, without = packets["tracked"], packets["untracked"]
        assert (with_state > 0, without > 0) == (self.kind.sriov, not self.kind.sriov)

    def way(self, *arguments: str) -> tuple[str, str]:
        [route] = self.rig.ip("route", "get", *arguments)
        return route["dev"], route["gateway"]

    def packets(self) -> dict[str, int]:
        """Of clients, since the boot."""
        listing = json.loads(self.rig.inside.run(["nft", "--json", "list", "counters"]).stdout)
        counters = [each["counter"] for each in listing["nftables"] if "counter" in each]
        return {counter["name"]: counter["packets"] for counter in counters}


#: A table of somebody else's that counts the packets of clients.
WATCH = f"""
table inet watch {{
    counter tracked {{}}
    counter untracked {{}}
    chain input {{
        type filter hook input priority 10
        tcp dport {TO_NEAR} ct state untracked counter name untracked
        tcp dport {TO_NEAR} ct state != untracked counter name tracked
    }}
}}
"""


@contextmanager
def _listening(namespace: LabNamespace) -> Iterator[socket.socket]:
    """A member of both families."""
    with namespace.make_socket("::") as listener:
        listener.settimeout(5)
        listener.bind(("::", MEMBER_PORT))
        listener.listen()
        yield listener


def _address(sender: tuple[Any, ...]) -> str:
    return str(sender[0]).removeprefix("::ffff:")


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


@contextmanager
def amphora(directory: Path, kind: Kind) -> Iterator[Amphora]:
    with rig(directory) as made, ExitStack() as closing:
        it = Amphora(made, kind, directory, closing)
        try:
            yield it
        finally:
            it.end_haproxy()


# Changes, and their reversal on leaving


@contextmanager
def another_vip(it: Amphora) -> Iterator[None]:
    it.vip_networks = [VIPS, MORE_VIPS]
    it.plug_vip()
    yield
    it.vip_networks = [VIPS]
    it.plug_vip()
    assert not any(it.families[0].at(MORE_VIPS, VIP) in line for line in _lines(it))


@contextmanager
def another_mtu(it: Amphora) -> Iterator[None]:
    it.mtu = 1400
    it.plug()
    ports = [link for link in it.rig.ip("link", "show") if link["ifname"] != "lo"]
    assert {link["mtu"] for link in ports} == {1400}
    yield
    it.mtu = 1450
    it.plug()


@contextmanager
def another_gateway(it: Amphora) -> Iterator[None]:
    it.gateway = OTHER_GATEWAY
    it.plug_vip()
    for family in it.families:
        assert it.way(family.at(ELSEWHERE, 1)) == ("eth1", family.at(VIPS, OTHER_GATEWAY))
    yield
    it.gateway = GATEWAY
    it.plug_vip()


@contextmanager
def another_host_route(it: Amphora) -> Iterator[None]:
    it.destinations = [ELSEWHERE]
    it.plug()
    for family in it.families:
        _, gateway = it.way(family.at(ELSEWHERE, 1))
        assert gateway == family.at(it.networks_of_members[0], MEMBER)
    yield
    it.destinations = []
    it.plug()


@contextmanager
def another_fixed_ip(it: Amphora) -> Iterator[None]:
    it.fixed = [FIXED, OTHER_FIXED]
    it.plug_members()
    yield
    it.fixed = [FIXED]
    it.plug_members()


@contextmanager
def a_fixed_ip_instead(it: Amphora) -> Iterator[None]:
    it.fixed = [OTHER_FIXED]
    it.plug_members()
    yield
    it.fixed = [FIXED]
    it.plug_members()


@contextmanager
def other_rules(it: Amphora) -> Iterator[None]:
    it.open_ports = [TO_FAR]
    it.set_rules()
    yield
    it.open_ports = [TO_NEAR, TO_FAR]
    it.set_rules()


@contextmanager
def a_member_port_that_went_and_came(it: Amphora) -> Iterator[None]:
    _lose(it, "member")
    it.connect("member")
    it.plug_members()
    yield


@contextmanager
def another_member_port(it: Amphora) -> Iterator[None]:
    for mac in (OTHER_MAC, MEMBER_MAC):
        _lose(it, "member")
        it.member_mac = mac
        it.connect("member")
        it.plug_members()
        if mac == OTHER_MAC:
            yield


@contextmanager
def another_vip_port(it: Amphora) -> Iterator[None]:
    for mac in (OTHER_MAC, VIP_MAC):
        _lose(it, "vip")
        it.vip_mac = mac
        it.connect("vip")
        it.plug()
        it.set_rules()
        if mac == OTHER_MAC:
            yield


@contextmanager
def a_reboot(it: Amphora) -> Iterator[None]:
    it.end_haproxy()
    it.rig.reboot()
    it.boot()
    assert it.network.restore(single=it.kind.single) == []
    it.keepalived_follows()
    it.start_haproxy()
    yield


def _lose(it: Amphora, port: Literal["vip", "member"]) -> None:
    """A card is taken out, and an agent that is started meanwhile misses it."""
    if port == "vip":
        it.keepalived_steps_down()
    it.cables.pop(port).unplug()
    name = "eth1" if port == "vip" else "eth2"
    [line] = it.rig.agent().plan(single=it.kind.single)
    assert line.startswith(f"{name} ({it.vip_mac if port == 'vip' else it.member_mac}): nothing")
    [failure] = it.rig.agent().restore(single=it.kind.single)
    assert failure.startswith(name)


def _lines(it: Amphora) -> list[str]:
    return [line for listed in it.rig.everything().values() for line in listed]


def changes(kind: Kind) -> list[Callable[[Amphora], AbstractContextManager[None]]]:
    at_members = [another_fixed_ip, a_fixed_ip_instead]
    return [
        another_vip,
        another_mtu,
        another_gateway,
        another_host_route,
        *(at_members if kind.place != "VIP only" else ()),
        *((other_rules,) if kind.sriov else ()),
        *(
            (a_member_port_that_went_and_came, another_member_port)
            if kind.place == "separate member port"
            else ()
        ),
        another_vip_port,
        a_reboot,
    ]


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")


def begin(it: Amphora, *, quick: bool = True) -> None:
    it.boot(quick=quick)
    it.plug()
    it.set_rules()
    it.start_haproxy()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_traffic_passes_the_right_way_and_each_change_can_be_taken_back(
    tmp_path: Path, kind: Kind
) -> None:
    with amphora(tmp_path, kind) as it:
        begin(it)
        it.is_settled()
        it.serves()
        it.routes_by_the_right_interface()
        it.guards_or_tracks_nothing()
        it.masquerades()
        before = it.rig.everything()
        for change in changes(kind):
            with change(it):
                it.is_settled()
                it.serves()
            it.is_settled()
            it.serves()
            assert it.rig.everything() == before, change.__name__


@pytest.mark.parametrize(
    "kind",
    [
        Kind(True, (IPV6,), "separate member port", True),
        Kind(False, (IPV4, IPV6), "member on the VIP port", False),
    ],
    ids=str,
)
def test_traffic_passes_at_once_where_duplicate_addresses_are_looked_for(
    tmp_path: Path, kind: Kind
) -> None:
    with amphora(tmp_path, kind) as it:
        begin(it, quick=False)
        it.is_settled()
        it.serves()


def test_a_real_keepalived_loses_nothing_by_what_the_agent_does(tmp_path: Path) -> None:
    kind = Kind(False, (IPV4, IPV6), "separate member port", True)
    with amphora(tmp_path, kind) as it:
        it.boot()
        it.plays_keepalived = False
        it.plug()
        it.set_rules()
        with keepalived(it):
            it.start_haproxy()
            it.is_settled()
            it.serves()
            before = it.rig.everything()
            for change in changes(kind):
                if change in (another_vip, another_vip_port, a_reboot):
                    continue  # keepalived would have to follow
                with change(it):
                    it.is_settled()
                    it.serves()
                it.is_settled()
                it.serves()
                assert it.rig.everything() == before, change.__name__


@contextmanager
def keepalived(it: Amphora) -> Iterator[None]:
    """The real one, as the only master."""
    first, *excluded = [family.alone(VIPS, VIP) for family in it.families]
    here, peer = (it.families[0].at(VIPS, host) for host in (VRRP, OTHER_FIXED))
    routes, rules = [], []
    for family in it.families:
        for kind, what in it.held_for(family, VIPS):
            what = what.replace(f" protocol {KEEPALIVED}", "")
            routes += [what] if kind == "route" else []
            rules += [what] if kind == "rule" else []
    configuration = it.directory / "keepalived.conf"
    configuration.write_text(
        "vrrp_instance vips {\n state MASTER\n interface eth1\n virtual_router_id 1\n"
        f" priority 255\n unicast_src_ip {here}\n unicast_peer {{\n  {peer}\n }}\n"
        f" virtual_ipaddress {{\n  {first}\n }}\n"
        + _block("virtual_ipaddress_excluded", excluded)
        + _block("virtual_routes", routes)
        + _block("virtual_rules", rules)
        + "}\n"
    )
    command = ["keepalived", "--dont-fork", "--vrrp", "--use-file", str(configuration)]
    command += ["--pid", str(it.directory / "k.pid"), "--vrrp_pid", str(it.directory / "v.pid")]
    process = it.rig.inside.popen(command)
    try:
        last = f"{it.families[-1].at(VIPS, VIP)} lookup {VIP_TABLE} proto keepalived"
        until(lambda: last in it.rig.rules(), "keepalived is master")
        yield
    finally:
        process.terminate()
        process.wait()


def _block(name: str, lines: list[str]) -> str:
    return "".join([f" {name} {{\n", *(f"  {line}\n" for line in lines), " }\n"])
