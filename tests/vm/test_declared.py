"""A load balancer of API 2.0 with UDP and SCTP listeners, and one of haproxy's beside them."""

from collections import Counter
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from amphora_agent.client.v2 import DeclarativeClient, ProblemError
from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.vm import VirtualMachine
from tests.builders import bodies
from tests.vm.conftest import AMPHORA_AT_SERVERS, SERVERS, VIP, Peers

Await = Callable[..., Heartbeat]

KINDS = ("udp", "sctp", "tcp")
PORTS = {"udp": 153, "sctp": 154, "tcp": 155}
SERVER_PORTS = {"udp": 6300, "sctp": 6400, "tcp": 6500}
#: An emulated processor takes its time, for checks, too.
MONITORS = {
    "udp": {"type": "UDP-CONNECT", "delay": 2, "timeout": 8},
    "sctp": {"type": "SCTP", "delay": 5, "timeout": 8},
    "tcp": {"type": "TCP", "delay": 2, "timeout": 8},
}

LB = str(uuid4())
LISTENERS = {kind: str(uuid4()) for kind in KINDS}
POOLS = {kind: str(uuid4()) for kind in KINDS}
#: By kind and server.
MEMBERS = {(kind, name): str(uuid4()) for kind in KINDS for name in SERVERS}
BODY = bodies.balancer(
    *(
        bodies.listener(
            kind.upper(), LISTENERS[kind], protocol_port=PORTS[kind], default_pool_id=POOLS[kind]
        )
        for kind in KINDS
    ),
    pools=tuple(
        bodies.pool(
            kind.upper(),
            POOLS[kind],
            healthmonitor={
                "healthmonitor_id": str(uuid4()),
                "max_retries": 1,
                "max_retries_down": 1,
                **MONITORS[kind],
            },
            members=[
                bodies.member(
                    MEMBERS[kind, name], address=addresses[0], protocol_port=SERVER_PORTS[kind]
                )
                for name, addresses in SERVERS.items()
            ],
        )
        for kind in KINDS
    ),
    loadbalancer_id=LB,
    vip_address=VIP,
)
ALL_UP = dict.fromkeys(MEMBERS.values(), "UP")


def members(statuses: dict[str, str]) -> Callable[[Heartbeat], bool]:
    """Whether a heartbeat tells these of these members."""
    return lambda heartbeat: statuses.items() <= heartbeat.members.items()


def who(answers: list[str]) -> set[str]:
    return {answer.split()[0] for answer in answers}


@pytest.fixture(scope="module", autouse=True)
def servers(machine: VirtualMachine, peers: Peers) -> Iterator[None]:
    machine.run("modprobe sctp")
    for kind in KINDS:
        for name in SERVERS:
            peers.serve(name, SERVER_PORTS[kind], kind)
    yield
    for kind in KINDS:
        for name in SERVERS:
            peers.end(name, kind)


@pytest.fixture(scope="module")
def balancer(driver: DeclarativeClient, await_heartbeat: Await) -> Iterator[str]:
    """Put, and all of its members healthy; each test leaves it so."""
    assert driver.put(BODY)["step"] == "start"
    await_heartbeat(members(ALL_UP))
    yield LB
    if driver.loadbalancers():
        driver.delete(LB)


def statuses(driver: DeclarativeClient) -> dict[str, str]:
    """Of the load balancer and all of its parts, by id."""
    status = driver.status(LB)
    parts = [
        *((each["listener_id"], each) for each in status["listeners"]),
        *((each["pool_id"], each) for each in status["pools"]),
        *((each["member_id"], each) for pool in status["pools"] for each in pool["members"]),
        (LB, status),
    ]
    return {name: each["operating_status"] for name, each in parts}


def ipvs(machine: VirtualMachine) -> str:
    return machine.run("ip netns exec amphora-haproxy cat /proc/net/ip_vs")


def keepalived(machine: VirtualMachine, kind: str) -> str:
    """Which process serves a listener, and how often it was started again."""
    unit = f"octavia-keepalivedlvs-{LISTENERS[kind]}"
    return machine.run(f"systemctl show --property=ActiveState,MainPID,NRestarts {unit}")


def test_each_listener_reaches_both_servers_and_counts(
    balancer: str, peers: Peers, heartbeats: HeartbeatReceiver
) -> None:
    # The first connections of all.
    for kind, port in PORTS.items():
        answers = peers.ask(VIP, port, 6, kind)
        assert set(answers) == {f"{name} {AMPHORA_AT_SERVERS}" for name in SERVERS}, kind
    counted: Counter[str] = Counter()

    def all_counted(heartbeat: Heartbeat) -> bool:
        for name, told in heartbeat.listeners.items():
            counted[name] += told["stats"]["totconns"]
        return all(counted[name] >= 6 for name in LISTENERS.values())

    heartbeat = heartbeats.wait_for(all_counted, 60)
    assert counted == dict.fromkeys(LISTENERS.values(), 6)
    assert {told["status"] for told in heartbeat.listeners.values()} == {"OPEN"}


def test_all_of_it_is_told_to_be_online(balancer: str, driver: DeclarativeClient) -> None:
    assert set(statuses(driver).values()) == {"ONLINE"}


def test_what_is_put_again_is_not_touched(
    balancer: str, driver: DeclarativeClient, machine: VirtualMachine
) -> None:
    before = [keepalived(machine, kind) for kind in ("udp", "sctp")]
    assert driver.put(BODY)["step"] == "nothing"
    assert [keepalived(machine, kind) for kind in ("udp", "sctp")] == before


@pytest.mark.parametrize("kind", ["udp", "sctp"])
def test_a_server_that_is_dead_is_taken_out_and_comes_back(
    balancer: str, driver: DeclarativeClient, peers: Peers, await_heartbeat: Await, kind: str
) -> None:
    dead = MEMBERS[kind, "two"]
    peers.end("two", kind)
    try:
        await_heartbeat(members(ALL_UP | {dead: "DOWN"}))
        assert who(peers.ask(VIP, PORTS[kind], 4, kind)) == {"one"}
        told = statuses(driver)
    finally:
        peers.serve("two", SERVER_PORTS[kind], kind)
    await_heartbeat(members(ALL_UP))
    assert who(peers.ask(VIP, PORTS[kind], 4, kind)) == {*SERVERS}

    degraded = dict.fromkeys([POOLS[kind], LB], "DEGRADED")
    assert told == dict.fromkeys(told, "ONLINE") | degraded | {dead: "ERROR"}


@pytest.mark.parametrize("kind", ["udp", "sctp"])
def test_a_change_of_a_member_is_a_reload(
    balancer: str,
    driver: DeclarativeClient,
    machine: VirtualMachine,
    peers: Peers,
    await_heartbeat: Await,
    kind: str,
) -> None:
    before, member = keepalived(machine, kind), MEMBERS[kind, "one"]
    try:
        for change, word, status in (
            ({"weight": 0}, "DRAIN", "DRAINING"),
            ({"admin_state_up": False}, "MAINT", "OFFLINE"),
        ):
            done = driver.patch_member(LB, POOLS[kind], member, change)
            reloaded = {plan["id"] for plan in done["processes"] if plan["step"] == "reload"}
            assert (done["step"], reloaded) == ("reload", {LISTENERS[kind]})
            await_heartbeat(members(ALL_UP | {member: word}))
            assert who(peers.ask(VIP, PORTS[kind], 4, kind)) == {"two"}
            assert statuses(driver)[member] == status
    finally:
        driver.put(BODY)
    await_heartbeat(members(ALL_UP))
    assert keepalived(machine, kind) == before
    assert who(peers.ask(VIP, PORTS[kind], 4, kind)) == {*SERVERS}


def test_a_listener_that_is_no_more_ends_and_its_neighbours_do_not_notice(
    balancer: str, driver: DeclarativeClient, machine: VirtualMachine, await_heartbeat: Await
) -> None:
    before = keepalived(machine, "udp")
    without = [each for each in BODY["listeners"] if each["protocol"] != "SCTP"]
    driver.put({**BODY, "listeners": without})
    try:
        assert "SCTP" not in ipvs(machine)
        assert "UDP" in ipvs(machine)
        places = "/etc /run /var/lib/octavia/lvs"
        assert machine.run(f"find {places} -name '*{LISTENERS['sctp']}*'") == ""
        await_heartbeat(lambda beat: beat.listeners.keys() == {LISTENERS["udp"], LISTENERS["tcp"]})
    finally:
        driver.put(BODY)
    await_heartbeat(members(ALL_UP))
    assert keepalived(machine, "udp") == before


def test_what_is_deleted_leaves_nothing(
    balancer: str, driver: DeclarativeClient, machine: VirtualMachine, await_heartbeat: Await
) -> None:
    driver.delete(LB)

    assert ipvs(machine).splitlines()[3:] == []
    for name in (LB, *LISTENERS.values()):
        assert machine.run(f"find / -xdev -name '*{name}*'") == ""
    assert machine.run("systemctl list-units --failed --no-legend") == ""
    with pytest.raises(ProblemError, match="404"):
        driver.get(LB)
    await_heartbeat(lambda heartbeat: not heartbeat.listeners and not heartbeat.pools)
