"""Leases on disk follow the events of a DHCP client, and expire."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.records import Leases

MAC = parse_mac("fa:16:3e:00:00:01")
BOUND = {"ip": "10.2.0.52", "subnet": "255.255.255.0", "lease": "100"}
ELSEWHERE = BOUND | {"ip": "10.2.0.53"}


class Time:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def leases(tmp_path: Path, time: Time) -> Leases:
    return Leases(tmp_path / "dhcp", now=time, clock=time)


def address(leases: Leases) -> str | None:
    lease = leases.get(MAC)
    return str(lease.address) if lease else None


@pytest.mark.parametrize("event", ["bound", "renew"])
def test_keeps_a_lease_by_its_port(leases: Leases, event: str) -> None:
    assert leases.record_event(MAC, event, BOUND)
    assert address(Leases(leases.directory, now=lambda: 0)) == "10.2.0.52/24"
    assert leases.get(parse_mac("fa:16:3e:00:00:02")) is None
    assert [path.name for path in leases.directory.iterdir()] == ["fa-16-3e-00-00-01.json"]


def test_a_lease_counts_until_its_time_is_up(leases: Leases, time: Time) -> None:
    leases.record_event(MAC, "bound", BOUND)
    time.now += 99
    assert address(leases) == "10.2.0.52/24"
    time.now += 1
    assert address(leases) is None


def test_renewal_lengthens_the_lease_and_reconciles_the_port(
    leases: Leases, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    leases.record_event(MAC, "bound", BOUND)
    time.now += 50
    with caplog.at_level(logging.INFO, "amphora_agent"):
        assert leases.record_event(MAC, "renew", BOUND)
    assert caplog.messages == []
    time.now += 60
    assert address(leases) == "10.2.0.52/24"


def test_a_change_is_logged(leases: Leases, caplog: pytest.LogCaptureFixture) -> None:
    leases.record_event(MAC, "bound", BOUND)
    with caplog.at_level(logging.INFO, "amphora_agent"):
        leases.record_event(MAC, "bound", ELSEWHERE)
    assert caplog.messages == [f"{MAC}: DHCP lease 10.2.0.53/24"]
    assert address(leases) == "10.2.0.53/24"


def test_forgets_a_lease_that_the_server_takes_back(leases: Leases) -> None:
    leases.record_event(MAC, "bound", BOUND)
    assert leases.record_event(MAC, "nak", {"message": "wrong network"})
    assert address(leases) is None
    assert not leases.record_event(MAC, "nak", {})


@pytest.mark.parametrize("event", ["deconfig", "leasefail"])
def test_search_ends_only_an_expired_lease(leases: Leases, time: Time, event: str) -> None:
    assert not leases.record_event(MAC, event, {})
    leases.record_event(MAC, "bound", BOUND)
    time.now += 99
    assert not leases.record_event(MAC, event, {})
    assert address(leases) == "10.2.0.52/24"
    time.now += 1
    assert leases.record_event(MAC, event, {})
    assert list(leases.directory.iterdir()) == []
    assert not leases.record_event(MAC, event, {})


@pytest.mark.parametrize(
    ("event", "environment"),
    [("bound", {}), ("renew", ELSEWHERE | {"subnet": "0.0.0.0"}), ("reboot", ELSEWHERE)],
)
def test_invalid_event_changes_nothing(
    leases: Leases, event: str, environment: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest):
        leases.record_event(MAC, event, environment)
    assert not leases.directory.exists()
    leases.record_event(MAC, "bound", BOUND)
    with pytest.raises(InvalidRequest):
        leases.record_event(MAC, event, environment)
    assert address(leases) == "10.2.0.52/24"


def test_reports_a_damaged_lease_and_returns_none(
    leases: Leases, caplog: pytest.LogCaptureFixture
) -> None:
    leases.record_event(MAC, "bound", BOUND)
    leases.path(MAC).write_bytes(b'{"address": "10.')
    assert address(leases) is None
    [line] = caplog.messages
    assert leases.path(MAC).name in line
    leases.record_event(MAC, "bound", BOUND)
    assert address(leases) == "10.2.0.52/24"


def test_waits_neither_for_a_present_lease_nor_beyond_the_deadline(
    leases: Leases, time: Time
) -> None:
    assert leases.wait_for(MAC, deadline=time.now) is None
    leases.record_event(MAC, "bound", BOUND)
    assert leases.wait_for(MAC, deadline=time.now) is not None
