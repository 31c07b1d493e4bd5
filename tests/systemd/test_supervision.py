"""haproxy as systemd's unit: brought up, reloaded, brought back, and never the agent's child."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
import requests

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace as InAmphora
from lab.heartbeats import HeartbeatReceiver
from lab.http import FAILURES, Client, get, spread
from lab.listeners import HealthMonitor, http_listener
from lab.load import Load
from lab.network import Namespace
from lab.nspawn import Machine
from lab.waiting import until
from tests.systemd.conftest import HTTP, VIP, WEBS, LoadBalancer

SECOND = http_listener("second", port=81, members=[(WEBS["web1"], 80)])


def test_a_load_balancer_is_a_unit_in_the_amphoras_namespace(
    balancer: LoadBalancer, machine: Machine
) -> None:
    unit = balancer.properties()
    assert (unit["ActiveState"], unit["SubState"]) == ("active", "running")
    assert (unit["UnitFileState"], unit["Type"]) == ("enabled", "notify")
    for process in (int(unit["MainPID"]), balancer.workers().current):
        command = machine.path(f"/proc/{process}/cmdline").read_text().split("\0")
        assert (command[0], "-Ws" in command) == ("/usr/sbin/haproxy", True)
        assert machine.output("ip", "netns", "identify", str(process)) == "amphora-haproxy"


def test_systemd_finds_nothing_to_complain_of_in_it(
    balancer: LoadBalancer, machine: Machine
) -> None:
    said = machine.run(["systemd-analyze", "verify", balancer.unit])
    assert said.stdout + said.stderr == ""


def test_traffic_is_balanced_and_reported(
    balancer: LoadBalancer, client: Namespace, heartbeats: HeartbeatReceiver
) -> None:
    heartbeats.drain()
    with Client(client, VIP, 80) as visitor:
        assert spread(visitor, 4) == {"web1": 2, "web2": 2}
    heartbeats.wait_for(lambda heartbeat: _connections(heartbeat.listeners) == 1)


def test_a_reload_keeps_the_unit_and_changes_the_worker(
    balancer: LoadBalancer, client: Namespace
) -> None:
    master, worker = balancer.properties()["MainPID"], balancer.workers().current

    with _undisturbed_traffic(client):
        balancer.push(HTTP, SECOND)

    assert balancer.properties()["MainPID"] == master
    assert balancer.properties()["ActiveState"] == "active"
    assert balancer.workers().current not in (worker, None)
    assert get(client, VIP, 81).status == 200


def test_a_broken_upload_is_refused(balancer: LoadBalancer, api: AmphoraClient) -> None:
    good, worker = balancer.configuration.read_bytes(), balancer.workers().current

    with pytest.raises(AmphoraError, match="unknown keyword 'nonsense'") as refusal:
        api.upload_haproxy(balancer.id, good + b"\nfrontend broken\n    nonsense here\n")

    assert refusal.value.status == 400
    assert balancer.configuration.read_bytes() == good
    assert balancer.workers().current == worker


def test_a_reload_that_fails_says_what_the_journal_has(
    balancer: LoadBalancer, client: Namespace
) -> None:
    good, worker = balancer.configuration.read_bytes(), balancer.workers().current
    balancer.commit(f"{good.decode()}\nfrontend broken\n    nonsense here\n")

    with (
        _undisturbed_traffic(client),
        pytest.raises(AmphoraError, match="unknown keyword 'nonsense'") as refusal,
    ):
        balancer.reload()

    assert refusal.value.status == 500
    assert balancer.configuration.read_bytes() == good
    assert balancer.properties()["ActiveState"] == "active"
    balancer.push()
    assert balancer.workers().current not in (worker, None)


@contextmanager
def _units_that_do_not_change(machine: Machine) -> Iterator[None]:
    """systemd can write no unit and no link, and the agent neither."""
    units = "/etc/systemd/system"
    machine.run(["mount", "--bind", units, units])
    machine.run(["mount", "-o", "remount,bind,ro", units])
    try:
        yield
    finally:
        machine.run(["umount", units])
        # The agent has mounts of its own, where this one stays.
        machine.run(["systemctl", "restart", "amphora-agent"])


def test_e1_haproxy_is_ended_though_its_unit_cannot_be_removed(
    machine: Machine, api: AmphoraClient, client: Namespace, webs: Mapping[str, object]
) -> None:
    balancer = LoadBalancer(machine, api)
    balancer.push()
    master = machine.path(f"/proc/{balancer.properties()['MainPID']}")
    with _units_that_do_not_change(machine):
        with pytest.raises(AmphoraError, match=r"500: .*Read-only file system"):
            api.delete(balancer.id)
        assert not master.exists()
        assert balancer.properties()["ActiveState"] == "inactive"
        [told] = api.request("GET", "/2.0/instances").json()["instances"]
        assert told["state"] != "ACTIVE"
    api.delete(balancer.id)
    assert api.request("GET", "/2.0/instances").json()["instances"] == []
    assert balancer.properties()["LoadState"] == "not-found"
    assert not balancer.configuration.exists()


@pytest.mark.parametrize("how", ["kill", "systemctl reload", "systemctl restart"])
def test_op2_what_a_person_edits_never_runs(
    balancer: LoadBalancer, client: Namespace, machine: Machine, how: str
) -> None:
    good, worker = balancer.configuration.read_bytes(), balancer.workers().current
    balancer.configuration.write_bytes(good.replace(b"bind ", b"nonsense "))
    if how == "kill":
        machine.run(["systemctl", "kill", "--signal=KILL", balancer.unit])
    else:
        machine.run([*how.split(), balancer.unit])
    until(lambda: _runs_anew(balancer, worker), "it runs with another worker")
    assert get(client, VIP, 80).status == 200
    assert balancer.configuration.read_bytes() == good
    assert b"nonsense" in balancer.configuration.with_name("haproxy.cfg.edited").read_bytes()
    (told,) = (each for each in balancer.api.instances() if each["id"] == balancer.id)
    assert [alarm["kind"] for alarm in told["alarms"]] == ["file-edited"]


def test_c2_a_start_goes_back_to_the_last_good_files(
    balancer: LoadBalancer, client: Namespace, machine: Machine
) -> None:
    good, worker = balancer.configuration.read_bytes(), balancer.workers().current
    balancer.commit(good.decode().replace("bind ", "nonsense "))
    machine.run(["systemctl", "kill", "--signal=KILL", balancer.unit])
    until(lambda: _runs_anew(balancer, worker), "it runs with another worker")
    assert get(client, VIP, 80).status == 200
    assert balancer.configuration.read_bytes() == balancer.api.haproxy(balancer.id) == good
    (told,) = (each for each in balancer.api.instances() if each["id"] == balancer.id)
    assert [alarm["kind"] for alarm in told["alarms"]] == ["went-back"]


def _runs_anew(balancer: LoadBalancer, before: int | None) -> bool:
    try:
        return balancer.workers().current not in (before, None)
    except (OSError, OperationFailed):
        return False


def test_a_start_that_fails_says_what_the_journal_has(
    balancer: LoadBalancer, api: AmphoraClient, machine: Machine
) -> None:
    api.stop(balancer.id)
    with _taken(machine, 80), pytest.raises(AmphoraError, match=r"(?i)cannot bind") as refusal:
        api.start(balancer.id)
    assert refusal.value.status == 500
    api.start(balancer.id)
    assert balancer.properties()["ActiveState"] == "active"


def test_a_port_that_is_taken_fails_the_reload_and_nothing_else(
    balancer: LoadBalancer, client: Namespace, machine: Machine
) -> None:
    good, worker = balancer.configuration.read_bytes(), balancer.workers().current

    with _undisturbed_traffic(client), _taken(machine, 81):
        balancer.upload(HTTP, SECOND)
        with pytest.raises(AmphoraError, match=rf"cannot bind socket.*{VIP}:81") as refusal:
            balancer.reload()

    assert refusal.value.status == 500
    assert balancer.configuration.read_bytes() == good
    assert balancer.workers().current == worker


def test_nobody_notices_that_the_agent_is_stopped_and_started(
    balancer: LoadBalancer, client: Namespace, api: AmphoraClient, machine: Machine
) -> None:
    master, agent = balancer.properties()["MainPID"], _agent(machine)

    with _undisturbed_traffic(client) as load:
        machine.run(["systemctl", "stop", "amphora-agent"])
        load.wait_for(100)
        machine.run(["systemctl", "start", "amphora-agent"])

    assert _agent(machine) != agent
    assert balancer.properties()["MainPID"] == master
    assert [row["status"] for row in api.listeners()] == ["ACTIVE"]
    balancer.push()
    assert balancer.properties()["MainPID"] == master


def test_nor_is_its_sudden_death(
    balancer: LoadBalancer,
    client: Namespace,
    api: AmphoraClient,
    machine: Machine,
    heartbeats: HeartbeatReceiver,
) -> None:
    master, agent = balancer.properties()["MainPID"], _agent(machine)

    with _undisturbed_traffic(client):
        machine.run(["kill", "-KILL", str(agent)])
        until(lambda: _answers(api), "the agent is back")

    assert _agent(machine) != agent
    assert balancer.properties()["MainPID"] == master
    heartbeats.drain()
    heartbeats.wait_for(lambda heartbeat: HTTP.id in heartbeat.listeners)


def test_systemd_is_told_that_the_agent_lives(machine: Machine) -> None:
    told = _last_sign(machine)
    until(lambda: _last_sign(machine) > told, "another sign of life")


def test_an_agent_that_hangs_is_replaced_and_nobody_notices(
    balancer: LoadBalancer, client: Namespace, api: AmphoraClient, machine: Machine
) -> None:
    master = balancer.properties()["MainPID"]

    with _short_watchdog(machine), _undisturbed_traffic(client):
        agent = _agent(machine)
        machine.run(["kill", "-STOP", str(agent)])
        until(lambda: _agent(machine) not in (agent, 0), "another agent", timeout=30)
        until(lambda: _answers(api), "the agent is back")

    assert balancer.properties()["MainPID"] == master
    balancer.push()


@pytest.mark.parametrize("victim", ["master", "worker"])
def test_a_haproxy_that_dies_comes_back(
    balancer: LoadBalancer, client: Namespace, machine: Machine, victim: str
) -> None:
    _kill_and_await_another(machine, balancer, victim)

    until(lambda: _serves(client), "traffic")
    balancer.push()


def test_even_when_it_dies_again_and_again(balancer: LoadBalancer, machine: Machine) -> None:
    """More often than systemd tolerates when it is not told otherwise."""
    for _ in range(7):
        _kill_and_await_another(machine, balancer)


def test_what_was_stopped_stays_so_until_it_is_started(
    balancer: LoadBalancer, client: Namespace, api: AmphoraClient, machine: Machine
) -> None:
    api.stop(balancer.id)
    machine.run(["systemctl", "restart", "amphora-agent"])

    assert balancer.properties()["UnitFileState"] == "disabled"
    assert [row["status"] for row in api.listeners()] == ["OFFLINE"]
    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 80)
    api.start(balancer.id)
    assert get(client, VIP, 80).status == 200


def test_nothing_is_left_of_what_was_deleted(balancer: LoadBalancer, machine: Machine) -> None:
    processes = [balancer.properties()["MainPID"], str(balancer.workers().current)]

    balancer.api.delete(balancer.id)

    assert balancer.properties()["LoadState"] == "not-found"
    assert balancer.api.listeners() == []
    assert [pid for pid in processes if machine.path(f"/proc/{pid}").exists()] == []
    left = machine.output("find", "/etc", "/run", "/var/lib", "-name", f"*{balancer.id}*")
    assert left == ""


@contextmanager
def _undisturbed_traffic(client: Namespace) -> Iterator[Load]:
    """Requests all the while, on kept and on new connections, none of which may fail."""
    kept = cycle([True, False])
    with Load(lambda: Client(client, VIP, 80, keep_alive=next(kept)), clients=4) as load:
        load.wait_for(20)
        yield load
        load.wait_for(20)
    assert load.result.failed == 0, load.result


@contextmanager
def _taken(machine: Machine, port: int) -> Iterator[None]:
    """Somebody else listens there."""
    namespace = InAmphora(machine.path("/run/netns/amphora-haproxy"))
    with namespace.run(lambda: socket.create_server((VIP, port))):
        yield


def _kill_and_await_another(
    machine: Machine, balancer: LoadBalancer, victim: str = "master"
) -> None:
    master = balancer.properties()["MainPID"]
    process = master if victim == "master" else str(balancer.workers().current)
    machine.run(["kill", "-KILL", process])
    until(lambda: balancer.properties()["MainPID"] not in (master, "0"), "another haproxy")


@contextmanager
def _short_watchdog(machine: Machine) -> Iterator[None]:
    """As long as the arbiter needs for a few signs, so that a test need not wait for half a minute.

    The agent that runs keeps what it was started with: it is started anew.
    """
    drop_in = machine.path("/run/systemd/system/amphora-agent.service.d/short.conf")
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nWatchdogSec=4s\n")
    try:
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", "amphora-agent"])
        yield
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", "amphora-agent"])


def _last_sign(machine: Machine) -> int:
    return int(machine.properties("amphora-agent.service")["WatchdogTimestampMonotonic"])


def _agent(machine: Machine) -> int:
    return int(machine.properties("amphora-agent.service")["MainPID"])


def _answers(api: AmphoraClient) -> bool:
    try:
        return bool(api.info())
    except requests.ConnectionError:
        return False


def _serves(client: Namespace) -> bool:
    try:
        return get(client, VIP, 80).status == 200
    except FAILURES:
        return False


def _connections(listeners: Mapping[str, Any]) -> int:
    return int(listeners[HTTP.id]["stats"]["totconns"]) if HTTP.id in listeners else 0


def test_members_are_pinged_by_a_user_who_can_gain_nothing(
    balancer: LoadBalancer, heartbeats: HeartbeatReceiver
) -> None:
    """Under NoNewPrivileges= and without capabilities: the namespace lets everybody ping."""
    pinged = http_listener(
        "pinged",
        port=82,
        members=[(WEBS["web1"], 80), ("10.2.0.99", 80)],
        monitor=HealthMonitor("PING", rise=1, fall=1, timeout=2),
    )
    assert pinged.pool is not None
    here, nowhere = (member.id for member in pinged.pool.members)
    balancer.push(HTTP, pinged)
    heartbeats.wait_for(
        lambda beat: (beat.members.get(here), beat.members.get(nowhere)) == ("UP", "DOWN")
    )
