"""Heartbeats on a management network that changes, and one that refuses them.

The agent is in a management network of its own, with a router to the health managers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab.heartbeats import HeartbeatReceiver
from lab.network import Lab, Namespace
from lab.waiting import until
from tests.integration.amphora import Amphora

KEY = "insecure"
#: So long that what comes is the first beat of all.
HOUR = 3600


@dataclass(frozen=True)
class Site:
    """`management` is the agent's; it has two ways to `cloud`, where the health managers are."""

    management: Namespace
    cloud: Namespace
    receiver: HeartbeatReceiver


@dataclass(frozen=True)
class Addresses:
    """`own` and `router` are the ends of each way, `more` another address of the first."""

    size: int
    own: tuple[str, str]
    router: tuple[str, str]
    more: str
    manager: str
    refused: str
    nobody: str


ADDRESSES = {
    4: Addresses(
        24,
        ("10.1.0.2", "10.2.0.2"),
        ("10.1.0.1", "10.2.0.1"),
        "10.1.0.3",
        "10.9.0.1",
        "10.9.0.2",
        "10.1.0.77",
    ),
    6: Addresses(
        64,
        ("2001:db8:1::2", "2001:db8:2::2"),
        ("2001:db8:1::1", "2001:db8:2::1"),
        "2001:db8:1::3",
        "2001:db8:9::1",
        "2001:db8:9::2",
        "2001:db8:1::77",
    ),
}


@pytest.fixture(params=[4, 6])
def addresses(request: pytest.FixtureRequest) -> Addresses:
    return ADDRESSES[request.param]


@pytest.fixture(scope="module")
def networks(lab: Lab) -> tuple[Namespace, Namespace]:
    management, cloud = lab.namespace("management"), lab.namespace("cloud")
    cloud.forward()
    for number in range(2):
        lab.cable(management, f"eth{number}", cloud, f"way{number}")
    for each in ADDRESSES.values():
        whole = 128 if ":" in each.manager else 32
        cloud.address("lo", f"{each.manager}/{whole}")
        family = "-6" if whole == 128 else "-4"
        cloud.ip(family, "route", "add", "prohibit", f"{each.refused}/{whole}")
    return management, cloud


@pytest.fixture
def site(networks: tuple[Namespace, Namespace], addresses: Addresses) -> Iterator[Site]:
    management, cloud = networks
    for number in range(2):
        for end, ifname, address in (
            (management, f"eth{number}", addresses.own[number]),
            (cloud, f"way{number}", addresses.router[number]),
        ):
            end.ip("address", "flush", "dev", ifname)
            end.address(ifname, f"{address}/{addresses.size}")
    lead(management, addresses, 0)
    with cloud.inside(lambda: HeartbeatReceiver(KEY, address=addresses.manager)) as receiver:
        yield Site(management, cloud, receiver)


def lead(management: Namespace, addresses: Addresses, way: int) -> None:
    """To the health managers by one of the two ways."""
    management.route(addresses.manager, via=addresses.router[way], ifname=f"eth{way}")
    management.route(addresses.refused, via=addresses.router[way], ifname=f"eth{way}")


Boot = Callable[..., Amphora]


def test_operator_7_beats_go_on_from_another_address(
    boot: Boot, site: Site, addresses: Addresses
) -> None:
    with ExitStack() as ending:
        boot(ending, place=site.management, controllers=[site.receiver.address])
        before = site.receiver.wait_for(lambda beat: beat.source == addresses.own[0])
        site.management.ip("address", "flush", "dev", "eth0")
        site.management.address("eth0", f"{addresses.more}/{addresses.size}")
        lead(site.management, addresses, 0)
        after = site.receiver.wait_for(lambda beat: beat.source == addresses.more)
        assert after.sequence > before.sequence


def test_operator_7_beats_go_on_by_another_route(
    boot: Boot, site: Site, addresses: Addresses
) -> None:
    with ExitStack() as ending:
        boot(ending, place=site.management, controllers=[site.receiver.address])
        site.receiver.wait_for(lambda beat: beat.source == addresses.own[0])
        lead(site.management, addresses, 1)
        # The old way is no way any more, though its address is still there.
        site.cloud.down("way0")
        try:
            site.receiver.wait_for(lambda beat: beat.source == addresses.own[1])
        finally:
            site.cloud.up("way0")


@pytest.mark.parametrize("kind", ["a closed port", "a router that refuses", "nobody there"])
def test_operator_7_the_next_controller_gets_what_the_first_did_not(
    boot: Boot, site: Site, addresses: Addresses, kind: str
) -> None:
    host = {
        "a closed port": addresses.manager,
        "a router that refuses": addresses.refused,
        "nobody there": addresses.nobody,
    }[kind]
    first = f"[{host}]:9" if ":" in host else f"{host}:9"
    with ExitStack() as ending:
        amphora = boot(
            ending,
            place=site.management,
            controllers=[first, site.receiver.address],
            heartbeat_interval=HOUR,
        )
        assert site.receiver.next(timeout=30).sequence == 0
        # No beat waits for the log.
        until(lambda: f"no heartbeat to '{first}'" in amphora.agent.log, "it is reported")
