"""Network cards appear, and the controller says what they are."""

import json

import pytest
from controller import loadbalancers, networks
from controller.amphora import (
    MEMBER_SUBNET,
    SECOND_VIP,
    SECOND_VIP_SUBNET,
    VIP,
    VIP_SUBNET,
    Amphora,
)
from controller.release import needs_additional_vips
from octavia.amphorae.driver_exceptions import exceptions as driver_exceptions

from lab.network import Namespace

TWICE = 2


def addresses(namespace: Namespace, ifname: str) -> set[str]:
    """Global addresses with their prefixes."""
    text = namespace.ip("-json", "address", "show", "dev", ifname, "scope", "global")
    return {
        f"{info['local']}/{info['prefixlen']}"
        for link in json.loads(text)
        for info in link.get("addr_info", ())
        if "local" in info
    }


def link(namespace: Namespace, ifname: str) -> dict[str, object]:
    (found,) = json.loads(namespace.ip("-json", "link", "show", "dev", ifname))
    return dict(found)


def route_to(namespace: Namespace, destination: str, *from_source: str) -> dict[str, object]:
    """The kernel's choice for a packet."""
    (found,) = json.loads(namespace.ip("-json", "route", "get", destination, *from_source))
    return dict(found)


def test_the_vip_port(amphora: Amphora) -> None:
    subnet = networks.subnet(
        VIP_SUBNET.cidr, gateway="10.1.0.1", routes={"198.51.100.0/24": "10.1.0.9"}
    )
    balancer = loadbalancers.load_balancer(amphora.model, VIP)
    amphora.model.vrrp_ip = "10.1.0.4"
    mac = amphora.attach(amphora.vip_segment)
    amphora.worker.plug_vip(balancer, networks.port(mac, [("10.1.0.4", subnet)], mtu=1400), subnet)

    inside = amphora.namespace
    assert addresses(inside, "eth1") == {"10.1.0.4/24", f"{VIP}/32"}
    card = link(inside, "eth1")
    assert (card["address"], card["mtu"], card["operstate"]) == (mac, 1400, "UP")
    assert route_to(inside, "203.0.113.1")["gateway"] == "10.1.0.1"
    for source in ((), ("from", VIP)):
        assert route_to(inside, "198.51.100.7", *source)["gateway"] == "10.1.0.9"
        assert "gateway" not in route_to(inside, "10.1.0.77", *source)
    assert route_to(inside, "203.0.113.1", "from", VIP)["gateway"] == "10.1.0.1"
    assert amphora.worker.interface_of(amphora.model, VIP) == "eth1"


def test_plugging_again_changes_nothing(amphora: Amphora) -> None:
    balancer = loadbalancers.load_balancer(amphora.model, VIP)
    amphora.model.vrrp_ip = "10.1.0.4"
    vip_port = networks.port(amphora.attach(amphora.vip_segment), [("10.1.0.4", VIP_SUBNET)])
    member_port = networks.port(
        amphora.attach(amphora.member_segment), [("10.2.0.4", MEMBER_SUBNET)]
    )
    seen = []
    for _ in range(TWICE):
        # The driver takes 409 for "done already", and anything else that is an error for one.
        amphora.worker.plug_vip(balancer, vip_port, VIP_SUBNET)
        amphora.worker.plug_network(amphora.model, member_port)
        inside = amphora.namespace
        seen.append([addresses(inside, ifname) for ifname in ("eth1", "eth2")])
        seen[-1].append({inside.ip("route", "show", "table", "all")})
    assert seen[0] == seen[1]


def test_a_member_network(amphora: Amphora) -> None:
    amphora.serve()
    subnet = networks.subnet("10.4.0.0/24", routes={"192.0.2.0/24": "10.4.0.1"})
    mac = amphora.attach(amphora.member_segment)
    port = networks.port(mac, [("10.4.0.4", subnet), ("10.4.0.5", subnet)], mtu=1390)
    amphora.worker.plug_network(amphora.model, port)

    inside = amphora.namespace
    assert addresses(inside, "eth3") == {"10.4.0.4/24", "10.4.0.5/24"}
    card = link(inside, "eth3")
    assert (card["address"], card["mtu"], card["operstate"]) == (mac, 1390, "UP")
    assert route_to(inside, "192.0.2.1")["gateway"] == "10.4.0.1"
    # The way out is still the VIP's.
    assert route_to(inside, "203.0.113.1")["dev"] == "eth1"


def test_a_member_network_on_the_vips_port_keeps_the_vip(amphora: Amphora) -> None:
    balancer = loadbalancers.load_balancer(amphora.model, VIP)
    amphora.model.vrrp_ip = "10.1.0.4"
    vip_port = networks.port(amphora.attach(amphora.vip_segment), [("10.1.0.4", VIP_SUBNET)])
    amphora.worker.plug_vip(balancer, vip_port, VIP_SUBNET)

    more = networks.subnet("10.5.0.0/24", routes={"192.0.2.0/24": "10.5.0.1"})
    both = networks.port(
        vip_port.mac_address,
        [("10.1.0.4", VIP_SUBNET), ("10.5.0.4", more)],
        port_id=amphora.model.vrrp_port_id,
    )
    amphora.worker.plug_network(amphora.model, both, VIP_SUBNET)

    inside = amphora.namespace
    assert addresses(inside, "eth1") == {"10.1.0.4/24", f"{VIP}/32", "10.5.0.4/24"}
    assert route_to(inside, "192.0.2.1")["gateway"] == "10.5.0.1"
    assert route_to(inside, "203.0.113.1", "from", VIP)["gateway"] == "10.1.0.1"
    assert amphora.worker.interface_of(amphora.model, VIP) == "eth1"


@needs_additional_vips
def test_a_member_network_on_the_vips_port_keeps_the_additional_vips(amphora: Amphora) -> None:
    """The controller does not name them again, and does not mean that they are gone."""
    balancer = loadbalancers.load_balancer(amphora.model, VIP, additional_vips=[SECOND_VIP])
    amphora.model.vrrp_ip = "10.1.0.4"
    vip_port = networks.port(
        amphora.attach(amphora.vip_segment),
        [("10.1.0.4", VIP_SUBNET), ("10.3.0.4", SECOND_VIP_SUBNET)],
    )
    amphora.worker.plug_vip(balancer, vip_port, VIP_SUBNET, [(SECOND_VIP, SECOND_VIP_SUBNET)])

    amphora.worker.plug_network(amphora.model, vip_port, VIP_SUBNET)

    found = addresses(amphora.namespace, "eth1")
    assert {"10.1.0.4/24", f"{VIP}/32", f"{SECOND_VIP}/32"} <= found
    for vip in (VIP, SECOND_VIP):
        assert "gateway" in route_to(amphora.namespace, "203.0.113.1", "from", vip)


def test_a_card_that_has_not_come_yet_is_waited_for(amphora: Amphora) -> None:
    """Nova may be slower than the worker: the driver asks again while the agent says 404."""
    port = networks.port("fa:16:3e:ff:ff:ff", [("10.2.0.4", MEMBER_SUBNET)])
    with pytest.raises(driver_exceptions.TimeOutException):
        amphora.worker.plug_network(amphora.model, port)
    tries = [call.status for call in amphora.worker.calls if call.path.endswith("/plug/network")]
    assert tries == [404, 404]

    port.mac_address = amphora.attach(amphora.member_segment)
    amphora.worker.plug_network(amphora.model, port)
    assert len(addresses(amphora.namespace, "eth2")) == 1
