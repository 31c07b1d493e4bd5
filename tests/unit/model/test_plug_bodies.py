"""Bodies of plugs become typed values, or are refused with the place and the reason."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.decode import decode, encode
from amphora_agent.model.plugging import NetworkPlug, PluggedVip, VipPlug

MAC = "fa:16:3e:00:00:01"
VIP: dict[str, Any] = {"subnet_cidr": "10.1.0.0/24", "gateway": "10.1.0.1", "mac_address": MAC}
FIXED_IP: dict[str, Any] = {"ip_address": "10.2.0.5", "subnet_cidr": "10.2.0.0/24"}


def body(**members: object) -> bytes:
    return json.dumps(members).encode()


def test_complete_vip_body_is_decoded() -> None:
    plug = decode(
        body(
            **VIP,
            mtu=1450,
            vrrp_ip="10.1.0.7",
            host_routes=[{"destination": "192.168.0.0/16", "nexthop": "10.1.0.9"}],
            additional_vips=[
                {
                    "ip_address": "FD01:0::5",
                    "subnet_cidr": "fd01::/64",
                    "gateway": None,
                    "host_routes": [],
                }
            ],
            is_sriov=True,
        ),
        VipPlug,
    )
    assert plug.subnet_cidr == ip_network("10.1.0.0/24")
    assert plug.gateway == ip_address("10.1.0.1")
    assert plug.vrrp_ip == ip_address("10.1.0.7")
    assert plug.mtu == 1450
    assert plug.is_sriov is True
    assert plug.host_routes is not None
    assert plug.host_routes[0].destination == ip_network("192.168.0.0/16")
    assert plug.additional_vips is not None
    assert plug.additional_vips[0].ip_address == ip_address("fd01::5")
    assert plug.additional_vips[0].gateway is None


def test_null_counts_as_missing() -> None:
    vip = decode(
        body(
            subnet_cidr="10.1.0.0/24",
            gateway=None,
            mac_address=MAC,
            mtu=None,
            vrrp_ip=None,
            host_routes=None,
            additional_vips=None,
            is_sriov=None,
        ),
        VipPlug,
    )
    assert vip == decode(body(subnet_cidr="10.1.0.0/24", gateway=None, mac_address=MAC), VipPlug)
    network = decode(
        body(mac_address=MAC, fixed_ips=None, mtu=None, vip_net_info=None, is_sriov=None),
        NetworkPlug,
    )
    assert network == decode(body(mac_address=MAC), NetworkPlug)


def test_keys_of_newer_controllers_are_ignored() -> None:
    assert decode(body(**VIP, colour={"of": ["the", "sky"]}), VipPlug) == decode(
        body(**VIP), VipPlug
    )


def test_mac_address_is_in_the_form_of_the_kernel() -> None:
    plug = decode(body(mac_address="FA:16:3E:AB:CD:EF"), NetworkPlug)
    assert plug.mac_address == "fa:16:3e:ab:cd:ef"


def test_bits_beyond_the_prefix_are_dropped() -> None:
    plug = decode(body(**VIP | {"subnet_cidr": "10.1.0.77/24"}), VipPlug)
    assert plug.subnet_cidr == ip_network("10.1.0.0/24")


def test_vips_of_a_plug_have_one_form() -> None:
    plug = PluggedVip(
        vip=ip_address("10.1.0.5"),
        subnet_cidr=ip_network("10.1.0.0/24"),
        gateway=ip_address("10.1.0.1"),
        mac_address=decode(body(mac_address=MAC), NetworkPlug).mac_address,
        additional_vips=decode(
            body(
                **VIP,
                additional_vips=[{"ip_address": "fd01::5", "subnet_cidr": "fd01::/64"}],
            ),
            VipPlug,
        ).additional_vips,
    )
    assert [str(vip.ip_address) for vip in plug.vips] == ["10.1.0.5", "fd01::5"]
    assert plug.vips[0].gateway == ip_address("10.1.0.1")


def test_encoded_body_is_decoded_to_an_equal_one() -> None:
    plug = decode(
        body(
            mac_address=MAC,
            mtu=1500,
            fixed_ips=[FIXED_IP],
            vip_net_info=VIP | {"vip": "10.1.0.5", "additional_vips": []},
        ),
        NetworkPlug,
    )
    assert decode(encode(plug), NetworkPlug) == plug


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (body(**VIP) + b" x", "not JSON"),
        (b'{"deep": ' + b"[" * 100_000, "not JSON"),
        (b"null", "`object`"),
        (b"[]", "`object`"),
        (b'"text"', "`object`"),
        (body(subnet_cidr="10.1.0.0/24", gateway=None), "mac_address: is missing"),
        (body(subnet_cidr="10.1.0.0/24", mac_address=MAC), "gateway: is missing"),
        (body(gateway=None, mac_address=MAC), "subnet_cidr: is missing"),
        (body(**VIP | {"mac_address": 7}), "mac_address"),
        (body(**VIP | {"mac_address": None}), "mac_address"),
        (body(**VIP | {"mac_address": "fa:16:3e:00:00"}), "mac_address"),
        (body(**VIP | {"mac_address": "fa:16:3e:00:00:01\n"}), "mac_address"),
        (body(**VIP | {"mac_address": "00:00:00:00:00:00"}), "one interface"),
        (body(**VIP | {"mac_address": "ff:ff:ff:ff:ff:ff"}), "one interface"),
        (body(**VIP | {"subnet_cidr": "10.1.0.0/33"}), "subnet_cidr"),
        (body(**VIP | {"subnet_cidr": 167772160}), "subnet_cidr"),
        (body(**VIP | {"subnet_cidr": "fe80::%eth0/64"}), "subnet_cidr"),
        (body(**VIP | {"gateway": "10.1.0"}), "gateway"),
        (body(**VIP | {"gateway": 167772161}), "gateway"),
        (body(**VIP | {"gateway": "fd01::1"}), "gateway fd01::1 is not of the family"),
        (body(**VIP, vrrp_ip="fd01::7"), "vrrp_ip fd01::7 is not of the family"),
        (body(**VIP, vrrp_ip="224.0.0.1"), "not the address of a host"),
        (body(**VIP, vrrp_ip="fe80::1%eth0"), "vrrp_ip"),
        (body(**VIP, mtu=67), "mtu"),
        (body(**VIP, mtu=65536), "mtu"),
        (body(**VIP, mtu="1450"), "mtu"),
        (body(**VIP, mtu=1450.5), "mtu"),
        (body(**VIP, host_routes={}), "host_routes"),
        (body(**VIP, host_routes=[{"destination": "10.0.0.0/8"}]), "host_routes[0]"),
        (
            body(**VIP, host_routes=[{"destination": "10.0.0.0/8", "nexthop": "fd01::1"}]),
            "nexthop fd01::1 is not of the family",
        ),
        (body(**VIP, additional_vips=["10.1.0.6"]), "additional_vips[0]"),
        (
            body(
                **VIP,
                additional_vips=[{"ip_address": "10.1.0.6", "subnet_cidr": "fd01::/64"}],
            ),
            "additional_vips[0]",
        ),
        (body(**VIP, is_sriov="yes"), "is_sriov"),
    ],
)
def test_wrong_vip_body_is_refused_with_place_and_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode(sent, VipPlug)
    assert refusal.value.message == "Invalid request"
    assert reason in refusal.value.details


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (body(), "mac_address: is missing"),
        (body(mac_address=MAC, fixed_ips="10.2.0.5"), "fixed_ips"),
        (body(mac_address=MAC, fixed_ips=[{"ip_address": "10.2.0.5"}]), "fixed_ips[0]"),
        (
            body(mac_address=MAC, fixed_ips=[FIXED_IP, FIXED_IP | {"ip_address": "10.2.0.256"}]),
            "fixed_ips[1].ip_address",
        ),
        (body(mac_address=MAC, fixed_ips=[FIXED_IP | {"ip_address": "127.0.0.1"}]), "of a host"),
        (body(mac_address=MAC, fixed_ips=[FIXED_IP | {"ip_address": "0.0.0.0"}]), "of a host"),
        (body(mac_address=MAC, fixed_ips=[FIXED_IP | {"gateway": "fd02::1"}]), "family"),
        (body(mac_address=MAC, vip_net_info=VIP), "vip: is missing"),
        (body(mac_address=MAC, vip_net_info=VIP | {"vip": "fd01::5"}), "vip fd01::5 is not"),
    ],
)
def test_wrong_network_body_is_refused_with_place_and_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode(sent, NetworkPlug)
    assert reason in refusal.value.details
