"""VRRP: its endpoints, its processes, the check that decides, and who has the VIP after what."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from amphora_agent.client import AmphoraError
from lab.heartbeats import HeartbeatReceiver
from lab.http import Client, Load
from lab.leftovers import remove_leftovers
from lab.network import Lab
from lab.pair import PORT, VIP, Checks, Half, Pair, make_pair
from lab.processes import Process
from lab.waiting import until

CHECKS = Checks(interval=1)


@dataclass
class Booted:
    pair: Pair
    heartbeats: dict[str, HeartbeatReceiver]


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[Booted]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    remove_leftovers()
    with ExitStack() as stack:
        receivers = {
            name: stack.enter_context(HeartbeatReceiver("insecure")) for name in ("a", "b")
        }
        controllers = {name: receiver.address for name, receiver in receivers.items()}
        lab = stack.enter_context(Lab(f"vr{os.getpid()}"))
        pair = stack.enter_context(make_pair(lab, controllers=controllers))
        failed_before = request.session.testsfailed
        pair.deploy(CHECKS)
        yield Booted(pair, receivers)
        if request.session.testsfailed > failed_before:
            for half in pair.halves.values():
                print(f"--- {half.name}: the agent's log ---\n{half.agent.log[-10000:]}")
                said = half.agent.run_path / "octavia-keepalived.log"
                print(f"--- {half.name}: keepalived's ---\n{said.read_text()[-10000:]}")


@pytest.fixture
def pair(booted: Booted) -> Pair:
    """All is well; a test that changes that uses `restored`."""
    return booted.pair


@contextmanager
def restored(pair: Pair) -> Iterator[tuple[Half, Half]]:
    """The master and the standby of now; all is well again in the end."""
    halves = pair.master, pair.standby
    try:
        yield halves
    finally:
        for half in halves:
            pair.restore(half)


def files(half: Half) -> dict[str, bytes]:
    """Without the pid file."""
    directory = half.agent.base_path / "vrrp"
    found = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pid")
    return {str(path): path.read_bytes() for path in found}


def probe(half: Half) -> Process:
    (found,) = (each for each in half.agent.services() if "serve" in each.arguments)
    return found


def put(half: Half, text: str | bytes) -> str:
    """Upload; what the agent answers as the digest of it."""
    data = text.encode() if isinstance(text, str) else text
    return half.api.request("PUT", "/1.0/vrrp/upload", data=data).headers["ETag"]


# Endpoints


def test_an_upload_is_kept_byte_for_byte_and_runs_only_when_told(pair: Pair) -> None:
    master = pair.master
    running = master.of("keepalived")
    text = f"# {'ü' * 10}\n{master.configuration(CHECKS)}"
    assert put(master, text) == hashlib.md5(text.encode()).hexdigest()
    stored = master.agent.base_path / "vrrp" / "octavia-keepalived.conf"
    assert stored.read_bytes() == text.encode()
    assert stored.stat().st_mode & 0o077 == 0  # a password is in it
    assert master.of("keepalived") == running


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("nopreempt", "nopreemptx"), "Line 12) Unknown keyword"),
        (lambda text: text[: len(text) // 2], "missing '}'"),
        (lambda text: text.replace("interface eth1", "interface eth9"), "Non-existent interface"),
        (lambda text: text.replace(f"        {VIP}\n", "        10.1.0.555\n"), "invalid IP"),
        (lambda text: f"{text}include /etc/shadow\n", "include is not allowed"),
        (lambda text: text.replace("/check_script.sh", "/../../bin/id"), "script is not allowed"),
        (lambda text: f"{text}\0", "NUL"),
        (lambda text: "global_defs {\n}\n", "no vrrp_instance"),
        (lambda text: "", "empty"),
    ],
)
def test_what_keepalived_cannot_use_is_refused_and_changes_nothing(
    change: Callable[[str], str], why: str, pair: Pair
) -> None:
    master = pair.master
    before, running = files(master), master.of("keepalived")
    with pytest.raises(AmphoraError, match=r"^400") as refused:
        put(master, change(master.configuration(CHECKS)))
    assert why in str(refused.value)
    assert ".stage" not in str(refused.value)
    assert files(master) == before
    assert master.of("keepalived") == running


def test_advice_of_keepalived_is_not_a_refusal(pair: Pair) -> None:
    """Octavia 10 sends a state beside `nopreempt`; a pair whose other half is gone has no peers."""
    standby = pair.standby
    text = standby.configuration(CHECKS)
    with_state = text.replace("    nopreempt", "    state MASTER\n    nopreempt")
    alone = text.replace(f"        {pair.master.address}\n", "")
    long_password = text.replace("auth_pass a1b2c3d", "auth_pass a1b2c3d4e5f6")
    for accepted in (with_state, alone, long_password, text):
        put(standby, accepted)


def test_start_stop_reload(pair: Pair) -> None:
    with restored(pair) as (master, standby):
        assert standby.api.start_vrrp() == "keepalived reloaded"
        assert standby.api.reload_vrrp() == "keepalived reloaded"
        running = standby.of("keepalived")
        assert standby.api.stop_vrrp() == standby.api.stop_vrrp() == "keepalived stopped"
        assert not any(process.alive for process in running)
        assert standby.api.reload_vrrp() == "keepalived started"
        assert standby.api.start_vrrp() == "keepalived reloaded"
        with pytest.raises(AmphoraError, match="400: Invalid Request: Unknown action: restart"):
            standby.api.request("PUT", "/1.0/vrrp/restart")
        assert pair.holders() == [master]


def test_without_a_configuration_nothing_starts(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        standby.api.stop_vrrp()
        stored = standby.agent.base_path / "vrrp" / "octavia-keepalived.conf"
        kept = stored.rename(stored.with_name("kept"))
        with pytest.raises(AmphoraError, match="500: Failed to start octavia-keepalived service"):
            standby.api.start_vrrp()
        assert not standby.of("keepalived")
        kept.rename(stored)
        standby.api.start_vrrp()


def test_host_routes_reach_the_table_of_the_vip(pair: Pair) -> None:
    """The controller calls a next hop `gateway`, which keepalived does not know."""
    master = pair.master
    text = master.configuration(CHECKS)
    route = "10.9.0.0/24 dev eth1 gateway 10.1.0.77 onlink table 1"
    put(master, text.replace("        default via", f"        {route}\n        default via"))
    master.api.reload_vrrp()
    until(
        lambda: "10.9.0.0/24 via 10.1.0.77" in master.namespace.ip("route", "show", "table", "1"),
        "the host route is there",
    )
    put(master, text)
    master.api.reload_vrrp()
    until(
        lambda: "10.9.0.0/24" not in master.namespace.ip("route", "show", "table", "1"),
        "the host route is gone",
    )
    assert pair.holders() == [master]


# The check


def test_the_check_reads_what_the_probe_found(pair: Pair) -> None:
    master = pair.master
    verdict = master.agent.run_path / "vrrp-check"
    process = probe(master)
    process.send(signal.SIGSTOP)
    try:
        now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        # Nobody is asked while the verdict is fresh; an old one, or one of the future, is none.
        for text, status in (
            (f"{now} 1 /a.sock\n", 1),
            (f"{now} 0 \n", 0),
            (f"{now - 3600} 1 /a.sock\n", 0),
            (f"{now + 3600} 1 /a.sock\n", 0),
        ):
            verdict.write_text(text)
            assert master.check() == status, text
        verdict.unlink()
        assert master.check() == 0
    finally:
        process.send(signal.SIGCONT)


def test_without_probe_and_agent_the_load_balancers_are_asked(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        standby.agent.kill()
        probe(standby).send(signal.SIGKILL)
        verdict = standby.agent.run_path / "vrrp-check"
        verdict.unlink(missing_ok=True)
        assert standby.check() == 0
        haproxies = standby.of("haproxy")
        for process in haproxies:
            process.send(signal.SIGSTOP)
        assert standby.check() == 1
        for process in haproxies:
            process.send(signal.SIGCONT)
        assert standby.check() == 0
        standby.agent.start()
        until(verdict.exists, "the probe is back")


def test_a_load_balancer_is_missed_unless_it_was_stopped(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        # Without its verdict the check asks anew, in the same way.
        process = probe(standby)
        process.send(signal.SIGSTOP)
        (standby.agent.run_path / "vrrp-check").unlink()
        standby.api.stop(pair.lb_id)
        assert standby.check() == 0
        standby.api.delete(pair.lb_id)
        assert standby.check() == 1
        process.send(signal.SIGCONT)
        pair.push(standby)


# Processes


def test_the_agents_end_is_nothing_to_vrrp(pair: Pair) -> None:
    master = pair.master
    running = [*master.of("keepalived"), probe(master)]
    master.agent.restart()
    assert [*master.of("keepalived"), probe(master)] == running
    with restored(pair) as (master, _):
        outage = pair.outage(master.agent.kill, lambda: True)
        assert outage.failed == 0
        assert pair.holders() == [master]
        assert [*master.of("keepalived"), probe(master)] == running


def test_pid_files_of_an_earlier_boot_mean_nothing(pair: Pair) -> None:
    """The numbers are another process's now."""
    with restored(pair) as (_, standby):
        standby.api.stop_vrrp()
        for file in (
            standby.agent.base_path / "vrrp" / "octavia-keepalived.pid",
            standby.agent.run_path / "octavia-keepalived-vrrp.pid",
        ):
            file.write_text(f"{os.getpid()}\n")
        assert standby.api.start_vrrp() == "keepalived started"


def test_no_heartbeat_while_keepalived_is_missing(booted: Booted, pair: Pair) -> None:
    with restored(pair) as (_, standby):
        receiver = booted.heartbeats[standby.name]
        receiver.next()
        standby.api.stop_vrrp()
        until(lambda: "no heartbeat while keepalived" in standby.agent.log, "it keeps silent")
        receiver.drain()
        with pytest.raises(TimeoutError):
            receiver.next(timeout=2.5)  # its interval is one second
        standby.api.start_vrrp()
        receiver.next()


# Who has the VIP


def test_a_killed_haproxy_is_back_before_anybody_moves(pair: Pair) -> None:
    with restored(pair) as (master, _):
        killed = master.of("haproxy")

        def kill() -> None:
            for process in killed:
                process.send(signal.SIGKILL)

        pair.outage(kill, lambda: not set(killed) & set(master.of("haproxy")))
        assert pair.holders() == [master]


def kill_keepalived(half: Half) -> None:
    for process in half.of("keepalived"):
        process.send(signal.SIGKILL)


def hang_haproxy(half: Half) -> None:
    for process in half.of("haproxy"):
        process.send(signal.SIGSTOP)


@pytest.mark.parametrize(
    "happen",
    [
        pytest.param(lambda half: half.api.stop_vrrp(), id="VRRP is stopped"),
        pytest.param(kill_keepalived, id="keepalived is killed"),
        pytest.param(hang_haproxy, id="haproxy hangs"),
        pytest.param(Half.die, id="all of it ends"),
    ],
)
def test_the_standby_takes_over(happen: Callable[[Half], object], pair: Pair) -> None:
    with restored(pair) as (master, standby):
        master.api.reload_vrrp()  # a keepalived that has read its text again goes on checking
        pair.outage(lambda: happen(master), standby.has_vip)
    # It does not take the VIP back.
    assert pair.holders() == [standby]


def test_a_listener_whose_haproxy_hangs_stays_in_the_heartbeat(booted: Booted, pair: Pair) -> None:
    with restored(pair) as (master, standby):
        hang_haproxy(master)
        until(standby.has_vip, "the standby takes over", timeout=30)
        receiver = booted.heartbeats[master.name]
        receiver.drain()
        receiver.next()  # it may have been begun before
        assert set(receiver.next().listeners) == {pair.listener.id}


def test_reloads_move_nothing(pair: Pair) -> None:
    master = pair.master
    with Load(lambda: Client(pair.client, VIP, PORT, keep_alive=False), clients=2) as load:
        load.wait_for(10)
        for _ in range(20):
            pair.push(master)
        load.wait_for(10)
    assert load.result.errors == 0, load.result
    assert pair.holders() == [master]
    said = (master.agent.run_path / "octavia-vrrp-check.log").read_text().splitlines()
    assert said[-1] == "all answer"
