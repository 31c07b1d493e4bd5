"""UDP and SCTP listeners in a kernel that balances them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.lvs import LvsListener, LvsMember
from lab.vm import VirtualMachine
from tests.vm.conftest import (
    AMPHORA_AT_SERVERS,
    AMPHORA_AT_SERVERS_V6,
    SERVERS,
    VIP,
    VIP_V6,
    Peers,
)

Await = Callable[..., Heartbeat]

PORT, SERVER_PORT = 53, 5300
(ONE, ONE_V6), (TWO, TWO_V6) = (
    [LvsMember(address, SERVER_PORT) for address in addresses] for addresses in SERVERS.values()
)
#: An emulated processor takes its time, for checks, too.
PATIENT = 8
UDP = LvsListener(
    [VIP, VIP_V6], PORT, [ONE, TWO, ONE_V6, TWO_V6], check="UDP-CONNECT", timeout=PATIENT
)


def push(api: AmphoraClient, listener: LvsListener) -> None:
    """As the controller does for every change."""
    api.upload_udp_listener(listener.id, listener.text())
    api.reload(listener.id)


def members(statuses: dict[LvsMember, str]) -> Callable[[Heartbeat], bool]:
    """Whether a heartbeat tells these of these members."""

    def told(heartbeat: Heartbeat) -> bool:
        return (
            statuses.items()
            <= {member: heartbeat.members.get(member.id) for member in statuses}.items()
        )

    return told


@pytest.fixture(scope="module", autouse=True)
def servers(peers: Peers) -> None:
    for name in SERVERS:
        peers.serve(name, SERVER_PORT)


@pytest.fixture(scope="module")
def udp(api: AmphoraClient, await_heartbeat: Await) -> Iterator[LvsListener]:
    """A listener in front of both servers, all of them healthy; each test leaves it so."""
    push(api, UDP)
    await_heartbeat(members(dict.fromkeys([ONE, TWO, ONE_V6, TWO_V6], "UP")))
    yield UDP
    api.delete(UDP.id)


def ipvs(machine: VirtualMachine) -> str:
    return machine.run("ip netns exec amphora-haproxy cat /proc/net/ip_vs")


def test_what_is_counted_is_in_the_heartbeat(
    udp: LvsListener, peers: Peers, heartbeats: HeartbeatReceiver
) -> None:
    # The first of all flows; the increases of the heartbeats are counted from the beginning.
    peers.ask(VIP, PORT, 7)
    counted = {"rx": 0, "tx": 0, "totconns": 0}

    def all_counted(heartbeat: Heartbeat) -> bool:
        stats = heartbeat.listeners[udp.id]["stats"]
        for name in counted:
            counted[name] += stats[name]
        return counted["totconns"] >= 7

    heartbeat = heartbeats.wait_for(all_counted, 60)
    assert counted["totconns"] == 7
    # An IP and a UDP header, and "hello"; at least "one" and an address back.
    assert counted["rx"] == 7 * (20 + 8 + 5)
    assert counted["tx"] > 7 * (20 + 8 + 5)
    listener = heartbeat.listeners[udp.id]
    assert (listener["status"], listener["stats"]["ereq"]) == ("OPEN", 0)
    assert heartbeat.pools[f"{udp.pool_id}:{udp.id}"]["status"] == "UP"


@pytest.mark.parametrize(
    ("vip", "amphora"), [(VIP, AMPHORA_AT_SERVERS), (VIP_V6, AMPHORA_AT_SERVERS_V6)]
)
def test_datagrams_reach_both_servers_from_the_amphoras_address(
    udp: LvsListener, peers: Peers, vip: str, amphora: str
) -> None:
    answers = peers.ask(vip, PORT, 10)
    assert set(answers) == {f"one {amphora}", f"two {amphora}"}


def test_a_server_that_is_dead_is_taken_out_and_comes_back(
    udp: LvsListener, api: AmphoraClient, peers: Peers, await_heartbeat: Await
) -> None:
    api.reload(udp.id)  # which must not make keepalived forget its checks
    peers.end("two")
    try:
        await_heartbeat(members({ONE: "UP", TWO: "DOWN", TWO_V6: "DOWN"}))
        assert {answer.split()[0] for answer in peers.ask(VIP, PORT, 6)} == {"one"}
        assert {answer.split()[0] for answer in peers.ask(VIP_V6, PORT, 6)} == {"one"}
    finally:
        peers.serve("two", SERVER_PORT)
    await_heartbeat(members({TWO: "UP", TWO_V6: "UP"}))
    assert {answer.split()[0] for answer in peers.ask(VIP, PORT, 6)} == {"one", "two"}


def test_a8_a_member_that_is_not_well_is_found_at_once(
    udp: LvsListener, api: AmphoraClient, peers: Peers, await_heartbeat: Await
) -> None:
    """The second check would come in an hour."""
    peers.end("two")
    try:
        api.stop(udp.id)
        push(api, replace(udp, delay=3600))
        await_heartbeat(members({ONE: "UP", TWO: "DOWN", TWO_V6: "DOWN"}))
        assert {answer.split()[0] for answer in peers.ask(VIP, PORT, 6)} == {"one"}
    finally:
        peers.serve("two", SERVER_PORT)
        push(api, udp)
    await_heartbeat(members({TWO: "UP", TWO_V6: "UP"}))


def test_a_change_of_members_is_a_reload_that_loses_no_flow(
    udp: LvsListener, machine: VirtualMachine, api: AmphoraClient, await_heartbeat: Await
) -> None:
    unit = f"octavia-keepalivedlvs-{udp.id}"
    before = machine.run(f"systemctl show --property=MainPID,NRestarts {unit}")
    drained, disabled = replace(ONE, weight=0), replace(TWO, enabled=False)
    push(api, replace(udp, members=[drained, disabled, ONE_V6, TWO_V6]))
    try:
        await_heartbeat(
            members({ONE: "DRAIN", TWO: "MAINT", ONE_V6: "UP", TWO_V6: "UP"}), timeout=20
        )
        assert machine.run(f"systemctl show --property=MainPID,NRestarts {unit}") == before
    finally:
        push(api, udp)
    await_heartbeat(members(dict.fromkeys([ONE, TWO, ONE_V6, TWO_V6], "UP")))


def test_what_is_committed_and_not_reloaded_is_told_as_restarting(
    udp: LvsListener, api: AmphoraClient, await_heartbeat: Await
) -> None:
    new = LvsMember(SERVERS["one"][0], SERVER_PORT + 1)
    api.upload_udp_listener(udp.id, replace(udp, members=[*udp.members, new]).text())
    try:
        await_heartbeat(members({ONE: "UP", TWO: "UP", new: "RESTARTING"}))
    finally:
        api.upload_udp_listener(udp.id, udp.text())
    await_heartbeat(lambda heartbeat: new.id not in heartbeat.members)


def test_what_keepalived_cannot_use_changes_nothing(
    udp: LvsListener, machine: VirtualMachine, api: AmphoraClient
) -> None:
    before = ipvs(machine)
    with pytest.raises(AmphoraError, match="400"):
        api.upload_udp_listener(udp.id, udp.text().replace("weight 1", "weight heavy"))
    assert api.udp_listener(udp.id) == udp.text().encode()
    api.reload(udp.id)
    assert ipvs(machine) == before


def test_a_keepalived_that_dies_is_told_of_and_comes_back(
    udp: LvsListener, machine: VirtualMachine, peers: Peers, await_heartbeat: Await
) -> None:
    unit = f"octavia-keepalivedlvs-{udp.id}"
    machine.run(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    told = await_heartbeat(lambda heartbeat: True)
    assert udp.id in told.listeners
    await_heartbeat(members(dict.fromkeys([ONE, TWO, ONE_V6, TWO_V6], "UP")))
    assert {answer.split()[0] for answer in peers.ask(VIP, PORT, 6)} == {"one", "two"}


def test_a_listener_that_is_stopped_is_out_of_the_kernel_and_still_in_the_heartbeat(
    udp: LvsListener, machine: VirtualMachine, api: AmphoraClient, await_heartbeat: Await
) -> None:
    api.stop(udp.id)
    try:
        assert "UDP" not in ipvs(machine)
        assert api.listeners() == [{"status": "OFFLINE", "uuid": udp.id, "type": "UDP"}]
        assert api.details()["lvs_listener_process_count"] == 0
        await_heartbeat(members({ONE: "DOWN", TWO: "DOWN"}))
    finally:
        api.start(udp.id)
    assert api.listeners() == [{"status": "ACTIVE", "uuid": udp.id, "type": "UDP"}]
    assert api.details()["lvs_listener_process_count"] == 1
    await_heartbeat(members({ONE: "UP", TWO: "UP"}))


def test_the_amphora_is_no_router(udp: LvsListener, machine: VirtualMachine, peers: Peers) -> None:
    machine.run("ip -n client route add 10.2.0.0/24 via 10.1.0.4")
    machine.run("ip -n servers route add 10.1.0.0/24 via 10.2.0.4")
    try:
        assert peers.ask(SERVERS["one"][0], SERVER_PORT, 1) == ["TimeoutError timed out"]
    finally:
        machine.run("ip -n client route delete 10.2.0.0/24")
        machine.run("ip -n servers route delete 10.1.0.0/24")


def test_sctp_is_balanced_and_checked(
    machine: VirtualMachine, api: AmphoraClient, peers: Peers, await_heartbeat: Await
) -> None:
    machine.run("modprobe sctp")
    up, dead = LvsMember(SERVERS["one"][0], 5400), LvsMember(SERVERS["two"][0], 5400)
    sctp = LvsListener([VIP], 54, [up, dead], protocol="SCTP", check="SCTP", timeout=PATIENT)
    peers.serve("one", 5400, "sctp")
    try:
        push(api, sctp)
        await_heartbeat(members({up: "UP", dead: "DOWN"}))
        assert peers.ask(VIP, 54, 4, "sctp") == [f"one {AMPHORA_AT_SERVERS}"] * 4
        await_heartbeat(lambda heartbeat: heartbeat.listeners[sctp.id]["status"] == "OPEN")
    finally:
        api.delete(sctp.id)
        peers.end("one", "sctp")


@pytest.mark.parametrize(
    ("port", "status"), [(5400, 0), (5401, 1)], ids=["listens", "nobody listens"]
)
def test_the_check_of_sctp_members(
    machine: VirtualMachine, peers: Peers, port: int, status: int
) -> None:
    machine.run("modprobe sctp")
    peers.serve("one", 5400, "sctp")
    try:
        for address in SERVERS["one"]:
            check = f"amphora-health-checker sctp -t {PATIENT} {address} {port}"
            said = machine.run(f"ip netns exec amphora-haproxy {check} || echo $?")
            assert said.strip() == ("" if status == 0 else str(status))
    finally:
        peers.end("one", "sctp")


def test_a_reboot_brings_everything_back(
    udp: LvsListener,
    machine: VirtualMachine,
    api: AmphoraClient,
    peers: Peers,
    await_heartbeat: Await,
) -> None:
    machine.reboot()
    await_heartbeat(members({ONE: "DOWN"}), timeout=120)
    for name in SERVERS:
        peers.serve(name, SERVER_PORT)
    await_heartbeat(members(dict.fromkeys([ONE, TWO, ONE_V6, TWO_V6], "UP")))
    assert set(peers.ask(VIP, PORT, 6)) == {f"{name} {AMPHORA_AT_SERVERS}" for name in SERVERS}


def test_a_listener_that_is_deleted_leaves_nothing(
    udp: LvsListener, machine: VirtualMachine, api: AmphoraClient, await_heartbeat: Await
) -> None:
    api.delete(udp.id)
    assert "UDP" not in ipvs(machine)
    assert machine.run(f"find / -xdev -name '*{udp.id}*'") == ""
    assert api.listeners() == []
    with pytest.raises(AmphoraError, match="404"):
        api.udp_listener(udp.id)
    await_heartbeat(lambda heartbeat: not heartbeat.listeners and not heartbeat.pools)
