"""Rules of an interface, as the controller sends them: who gets in, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from amphora_agent.errors import InvalidRequest, NotFound, OperationFailed
from tests.integration.network.rig import Rig

CLIENT = "10.1.0.1"


def rules(*allowed: tuple[str, str | None, int]) -> bytes:
    return json.dumps(
        [{"protocol": protocol, "cidr": cidr, "port": port} for protocol, cidr, port in allowed]
    ).encode()


@pytest.fixture
def serving(rig: Rig) -> Iterator[Rig]:
    """A plain VIP with a server at ports 80 and 81."""
    rig.vip_port()
    rig.plug_vip()
    servers = [rig.inside.make_socket("10.1.0.5") for _ in range(2)]
    try:
        for port, server in zip((80, 81), servers, strict=True):
            server.bind(("10.1.0.5", port))
            server.listen()
        yield rig
    finally:
        for server in servers:
            server.close()


def reaches(rig: Rig, port: int) -> bool:
    try:
        rig.router.connect("10.1.0.5", port, timeout=0.5).close()
    except TimeoutError:
        return False
    return True


def test_the_first_rules_of_an_open_interface_count_at_once(serving: Rig) -> None:
    assert reaches(serving, 80)
    assert reaches(serving, 81)
    serving.network.set_rules("10.1.0.7", rules(("TCP", None, 80)))
    assert reaches(serving, 80)
    assert not reaches(serving, 81)
    assert serving.answers("10.1.0.5")


@pytest.mark.parametrize("address", ["10.1.0.5", "10.1.0.7"])
def test_new_rules_replace_the_old_ones(serving: Rig, address: str) -> None:
    serving.network.set_rules(address, rules(("TCP", "10.99.0.0/16", 80)))
    assert not reaches(serving, 80)
    serving.network.set_rules(address, rules(("TCP", f"{CLIENT}/32", 80), ("TCP", None, 81)))
    assert reaches(serving, 80)
    assert reaches(serving, 81)
    serving.network.set_rules(address, rules())
    assert not reaches(serving, 80)


def test_rules_are_there_after_another_plug_and_a_reboot(serving: Rig) -> None:
    serving.network.set_rules("10.1.0.7", rules(("TCP", None, 80)))
    before = serving.firewall()
    serving.plug_vip(mtu=1400)
    assert serving.firewall() == before
    serving.reboot()
    serving.vip_port()
    assert serving.agent().restore(single=True) == []
    assert serving.firewall() == before


def test_an_sriov_port_lets_nothing_in_before_it_has_rules(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip(is_sriov=True)
    with rig.inside.make_socket("10.1.0.5") as server:
        server.bind(("10.1.0.5", 80))
        server.listen()
        assert not reaches(rig, 80)
        rig.network.set_rules("10.1.0.5", rules(("TCP", None, 80)))
        assert reaches(rig, 80)


def test_a_standbys_rules_are_found_by_the_vip_that_it_does_not_have(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip(single=False, is_sriov=True)
    rig.network.set_rules("10.1.0.5", rules(("VRRP", "10.1.0.8/32", 112)))
    assert "10.1.0.8" in json.dumps(rig.firewall())


@pytest.mark.parametrize("address", ["10.1.0.99", "fd01::7"])
def test_an_address_that_nothing_has(serving: Rig, address: str) -> None:
    before = serving.firewall()
    with pytest.raises(NotFound, match="Error interface not found for IP address"):
        serving.network.set_rules(address, rules())
    assert serving.firewall() == before


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'[{"protocol": "TCP", "cidr": null}]',
        b'[{"protocol": "ICMP", "cidr": null, "port": 80}]',
        b'[{"protocol": "TCP", "cidr": null, "port": 0}]',
        b'[{"protocol": "TCP", "cidr": "10.0.0.0/33", "port": 80}]',
        b'[{"protocol": "TCP", "cidr": null, "port": 80, "more": 1}]',
    ],
)
def test_wrong_rules_change_nothing(serving: Rig, body: bytes) -> None:
    before = serving.firewall()
    files = {path: path.read_bytes() for path in serving.records.iterdir()}
    with pytest.raises(InvalidRequest):
        serving.network.set_rules("10.1.0.5", body)
    assert serving.firewall() == before
    assert {path: path.read_bytes() for path in serving.records.iterdir()} == files


def test_rules_that_cannot_be_applied_are_not_remembered(
    serving: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.network.set_rules("10.1.0.5", rules(("TCP", None, 80)))
    before = serving.firewall()
    with monkeypatch.context() as without_nft:
        without_nft.setenv("PATH", "/nowhere")
        with pytest.raises(OperationFailed, match="nft"):
            serving.network.set_rules("10.1.0.5", rules(("TCP", None, 81)))
    assert serving.firewall() == before
    assert serving.agent().restore(single=True) == []
    assert serving.firewall() == before


def test_a_guarded_port_stays_down_when_nothing_would_filter_for_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.vip_port()
    rig.member_port()
    rig.plug_vip(is_sriov=True)
    rig.plug_member()
    rig.reboot()
    rig.vip_port()
    rig.member_port()
    with monkeypatch.context() as without_nft:
        without_nft.setenv("PATH", "/nowhere")
        failures = rig.agent().restore(single=True)
    assert len(failures) == 2
    assert rig.addresses("eth2") == {"10.2.0.5/24"}
    assert "UP" not in rig.link("eth1")["flags"]
    assert rig.addresses("eth1") == set()
    assert rig.agent().restore(single=True) == []
    assert rig.addresses("eth1") == {"10.1.0.7/24", "10.1.0.5/32"}
