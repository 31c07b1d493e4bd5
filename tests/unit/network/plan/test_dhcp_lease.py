"""A DHCP server's answer becomes a lease, or is refused."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.decode import decode, encode
from amphora_agent.network.plan.interface import Lease, parse_lease

NOW = 1_700_000_000.0

#: As udhcpc 1.35 puts it into its script's environment, with a server that says a lot.
BOUND = {
    "interface": "eth2",
    "ip": "10.2.0.52",
    "subnet": "255.255.255.0",
    "mask": "24",
    "broadcast": "10.2.0.255",
    "siaddr": "10.2.0.1",
    "serverid": "10.2.0.1",
    "router": "10.2.0.1",
    "dns": "10.2.0.1",
    "domain": "$(reboot)",
    "hostname": "another",
    "ntpsrv": "10.2.0.1",
    "lease": "86400",
    "mtu": "1400",
    "staticroutes": "0.0.0.0/0 10.2.0.1 192.168.7.0/24 10.2.0.9",
    "opt53": "05",
}


def lease(**changes: str | None) -> Lease:
    said = {**BOUND, **changes}
    return parse_lease({key: value for key, value in said.items() if value is not None}, NOW)


def routes(text: str) -> list[str]:
    return [f"{each.destination} via {each.nexthop}" for each in lease(staticroutes=text).routes]


def test_takes_address_mtu_routes_and_end_of_a_lease() -> None:
    taken = lease()
    assert taken.address == ip_interface("10.2.0.52/24")
    assert taken.mtu == 1400
    assert taken.expires == NOW + 86400
    assert str(taken) == "10.2.0.52/24, 192.168.7.0/24 via 10.2.0.9, mtu 1400"


def test_takes_a_lease_of_an_address_alone() -> None:
    taken = lease(mtu=None, staticroutes=None)
    assert taken == Lease(address=ip_interface("10.2.0.52/24"), expires=NOW + 86400)


def test_decodes_the_lease_that_it_encoded() -> None:
    assert decode(encode(lease()), Lease) == lease()


@pytest.mark.parametrize(
    ("said", "seconds"), [(None, 3600), ("0", 16), ("120", 120), ("4294967295", 4294967295)]
)
def test_a_lease_lasts_as_long_as_its_client_believes(said: str | None, seconds: int) -> None:
    assert lease(lease=said).expires == NOW + seconds


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", []),
        ("10.77.0.0/16 10.2.0.9 10.78.1.2/32 10.2.0.8", ["10.77.0.0/16", "10.78.1.2/32"]),
        ("10.77.1.2/16 10.2.0.9", ["10.77.0.0/16"]),
    ],
)
def test_takes_routes_to_single_networks(text: str, taken: list[str]) -> None:
    assert [route.partition(" ")[0] for route in routes(text)] == taken


@pytest.mark.parametrize(
    "default",
    [
        "0.0.0.0/0 10.2.0.1",
        "0.0.0.0/1 10.2.0.1 128.0.0.0/1 10.2.0.1",
        "1.2.3.4/0 10.2.0.1",
        "0.0.0.0/0.0.0.0 10.2.0.1",
        "64.0.0.0/7 10.2.0.1",
    ],
)
def test_refuses_a_default_route_in_one_piece_or_in_many(default: str) -> None:
    assert routes(f"{default} 10.77.0.0/16 10.2.0.9") == ["10.77.0.0/16 via 10.2.0.9"]


def test_a_route_without_a_router_is_left_out() -> None:
    assert routes("10.77.0.0/16 0.0.0.0 10.78.0.0/16 10.2.0.9") == ["10.78.0.0/16 via 10.2.0.9"]


def test_a_single_address_and_a_pair_are_subnets() -> None:
    assert str(lease(ip="10.2.0.0", subnet="255.255.255.255").address) == "10.2.0.0/32"
    assert str(lease(ip="10.2.0.0", subnet="255.255.255.254").address) == "10.2.0.0/31"


@pytest.mark.parametrize(
    "changes",
    [
        {"ip": None},
        {"ip": ""},
        {"ip": "fd02::5"},
        {"ip": "10.2.0.052"},
        {"ip": "10.2.0.52; reboot"},
        {"ip": "10.2.0.52\n"},
        {"ip": "0.0.0.0"},
        {"ip": "0.1.2.3", "subnet": "255.0.0.0"},
        {"ip": "127.0.0.5"},
        {"ip": "224.0.0.5"},
        {"ip": "255.255.255.255"},
        {"ip": "10.2.0.0"},
        {"ip": "10.2.0.255"},
        {"subnet": None},
        {"subnet": ""},
        {"subnet": "24"},
        {"subnet": "255.0.255.0"},
        {"subnet": "0.0.0.255"},
        {"subnet": "0.0.0.0"},
        {"subnet": "128.0.0.0"},
        {"subnet": "254.0.0.0"},
        {"lease": ""},
        {"lease": "-1"},
        {"lease": "1e9"},
        {"lease": "4294967296"},
        {"lease": "٣"},
        {"mtu": ""},
        {"mtu": "0"},
        {"mtu": "67"},
        {"mtu": "65536"},
        {"staticroutes": "10.77.0.0/16"},
        {"staticroutes": "10.77.0.0/16 10.2.0.9 10.78.0.0/16"},
        {"staticroutes": "10.77.0.0/33 10.2.0.9"},
        {"staticroutes": "fd01::/64 fd02::1"},
        {"staticroutes": "10.77.0.0/16 fd02::1"},
        {"staticroutes": "10.77.0.0/16 224.0.0.1"},
        {"staticroutes": "10.77.0.0/16 127.0.0.1"},
        {"staticroutes": "10.77.0.0/16 255.255.255.255"},
        {"staticroutes": "10.77.0.0/16 $(reboot)"},
        {"staticroutes": "10.77.0.0/16 10.2.0.9 " * 52},
    ],
)
def test_refuses_a_lease_with_any_invalid_value(changes: dict[str, str | None]) -> None:
    with pytest.raises(InvalidRequest, match="Invalid DHCP lease"):
        lease(**changes)


def test_quotes_a_refused_value_shortly_on_one_line() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        lease(staticroutes="\n" * 3 + "x" * 9999)
    assert len(str(refusal.value)) < 500
    assert "\n" not in str(refusal.value)
