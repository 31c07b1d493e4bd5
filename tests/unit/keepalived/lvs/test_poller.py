"""What the heartbeat tells of a listener, from what IPVS says of addresses."""

from dataclasses import replace

import pytest

from amphora_agent.keepalived.config.lvs import Endpoint, ParsedListener, describe
from amphora_agent.keepalived.lvs.poller import WORKER, Destination, Service, build_reading
from amphora_agent.model.status import Counters, PoolReading
from lab.lvs import LvsListener, LvsMember

ONE, TWO = LvsMember("10.2.0.11", 5300), LvsMember("10.2.0.12", 5300)
SIX = LvsMember("2001:db8:2::11", 5300)
OFF = LvsMember("10.2.0.13", 5300, enabled=False)
UDP = LvsListener(
    ["10.1.0.5", "10.1.0.6", "2001:db8:1::5"], 53, [ONE, TWO, SIX, OFF], check="UDP-CONNECT"
)
ZERO = Counters(0, 0, 0, 0)


def described(listener: LvsListener = UDP) -> ParsedListener:
    return describe(listener.text().encode())


def service(
    address: str,
    *present: LvsMember,
    counters: Counters = ZERO,
    protocol: str = "UDP",
    weight: int = 1,
) -> Service:
    return Service(
        protocol,
        Endpoint(address, 53),
        counters,
        tuple(
            Destination(Endpoint(each.address, each.port), weight, active=2, inactive=3)
            for each in present
        ),
    )


def all_services(*four: LvsMember, **options: int) -> list[Service]:
    return [
        service("10.1.0.5", *four, **options),  # type: ignore[arg-type]
        service("10.1.0.6", *four, **options),  # type: ignore[arg-type]
        service("2001:db8:1::5", SIX, **options),  # type: ignore[arg-type]
    ]


def pool(
    services: list[Service], listener: LvsListener = UDP, *, unsettled: bool = False
) -> PoolReading:
    told = build_reading(listener.id, described(listener), services, unsettled=unsettled)
    return told.pools[f"{listener.pool_id}:{listener.id}"]


def test_members_that_are_there_are_up_and_one_that_is_disabled_is_not_expected() -> None:
    assert pool(all_services(ONE, TWO)) == PoolReading(
        "UP", {ONE.id: "UP", TWO.id: "UP", SIX.id: "UP", OFF.id: "MAINT"}
    )


def test_a_member_that_was_taken_out_is_down() -> None:
    assert pool(all_services(ONE)).members[TWO.id] == "DOWN"
    assert pool(all_services(ONE)).status == "UP"


def test_a_pool_is_down_with_all_of_its_members() -> None:
    empty = [service("10.1.0.5"), service("10.1.0.6"), service("2001:db8:1::5")]
    for services in (empty, []):
        assert pool(services) == PoolReading(
            "DOWN", {ONE.id: "DOWN", TWO.id: "DOWN", SIX.id: "DOWN", OFF.id: "MAINT"}
        )


def test_a_pool_without_enabled_members_is_up() -> None:
    assert pool([], replace(UDP, members=[OFF])) == PoolReading("UP", {OFF.id: "MAINT"})


def test_reports_missing_members_as_restarting_until_keepalived_has_settled() -> None:
    told = pool(all_services(ONE), unsettled=True)
    assert told.members == {
        **{ONE.id: "UP", TWO.id: "RESTARTING"},
        **{SIX.id: "UP", OFF.id: "MAINT"},
    }
    assert pool([], unsettled=True).status == "UP"


def test_a_member_of_weight_zero_drains() -> None:
    assert pool(all_services(ONE, TWO, weight=0)).members[ONE.id] == "DRAIN"


def test_members_without_a_monitor_are_not_checked() -> None:
    told = pool(all_services(ONE), replace(UDP, check=None))
    assert (told.members[ONE.id], told.members[TWO.id]) == ("no check", "DOWN")


def test_adds_up_the_counters_of_all_addresses() -> None:
    services = [
        service("10.1.0.5", ONE, counters=Counters(1, 20, 300, 0)),
        service("2001:db8:1::5", SIX, counters=Counters(4, 50, 600, 0)),
        service("10.1.0.9", ONE, counters=Counters(7, 7, 7, 0)),
        service("10.1.0.6", ONE, counters=Counters(8, 8, 8, 0), protocol="SCTP"),
    ]
    told = build_reading(UDP.id, described(), services, unsettled=False)
    assert (told.worker, told.restarts) == (WORKER, True)
    assert told.listeners[UDP.id].counters == Counters(5, 70, 900, 0)
    assert told.listeners[UDP.id].status == "OPEN"


@pytest.mark.parametrize(("protocol", "connections"), [("UDP", 5), ("SCTP", 2)])
def test_flows_of_udp_are_never_active_for_the_kernel(protocol: str, connections: int) -> None:
    listener = replace(UDP, vips=["10.1.0.5"], protocol=protocol)  # type: ignore[arg-type]
    services = [service("10.1.0.5", ONE, protocol=protocol)]
    told = build_reading(listener.id, described(listener), services, unsettled=False)
    assert told.listeners[listener.id].conns == connections


def test_a_listener_without_a_pool_tells_of_none() -> None:
    told = build_reading(
        "l", ParsedListener(enabled=True, pool=None, virtuals=()), [], unsettled=False
    )
    assert told.pools == {}
    assert set(told.listeners) == {"l"}
