"""VRRP: its endpoints, its processes, the check that decides, and who has the VIP after what."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.cleanup_registry import remove_leftovers
from lab.heartbeats import HeartbeatReceiver
from lab.http import Client
from lab.load import Load
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
        (lambda text: text.replace("nopreempt", "nopreemptx"), "line 12: nopreemptx is not"),
        (lambda text: text[: len(text) // 2], "a brace is not closed"),
        (lambda text: text.replace("interface eth1", "interface eth9"), "Non-existent interface"),
        (
            lambda text: text.replace(f"        {VIP}\n", "        10.1.0.555\n"),
            "line 26: 10.1.0.555: an IP",
        ),
        (lambda text: f"{text}include /etc/shadow\n", "include is not allowed"),
        (lambda text: text.replace("/check_script.sh", "/../../bin/id"), "program is not allowed"),
        (lambda text: f"{text}\0", "NUL"),
        (lambda text: "vrrp_script x {\n}\n", "script is missing"),
        # keepalived says this, and speaks of the line of the controller's text.
        (lambda text: text.replace("from 10.1.0.5/32 table 1", "from 10.1.0.5/32"), "Line 33) No"),
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


def recorded(half: Half) -> list[str]:
    """What the record has of who has the VIPs, the oldest first."""
    done = subprocess.run(
        [*half.agent.command(), "history", "vips", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    entries = [json.loads(line) for line in done.stdout.splitlines()][::-1]
    told = [each for each in entries if each["operation"] == "mastership"]
    assert {(each["part"], each["result"]) for each in told} <= {("vrrp", "happened")}
    return [f"{d['old']} -> {d['new']}" for each in told for d in each["differences"]]


def record_says(half: Half, *expected: str) -> bool:
    return recorded(half)[-len(expected) :] == [*expected]


def test_op11_a_failover_is_in_the_record_of_both(pair: Pair) -> None:
    with restored(pair) as (master, standby):
        before = len(recorded(master)), len(recorded(standby))
        master.namespace.down("eth1")
        until(standby.has_vip, "the standby takes over", timeout=30)
        until(lambda: record_says(master, "MASTER -> FAULT"), "its fault is recorded")
        until(lambda: record_says(standby, "BACKUP -> MASTER"), "its mastership is recorded")
        master.namespace.up("eth1")
        until(lambda: record_says(master, "FAULT -> BACKUP"), "that it is well is recorded")
        assert (len(recorded(master)), len(recorded(standby))) == (before[0] + 2, before[1] + 1)
        shown = subprocess.run(
            [*standby.agent.command(), "history"], capture_output=True, text=True, check=True
        ).stdout
        assert "vrrp vips" in shown
        assert "state: BACKUP -> MASTER" in shown


def test_op11_a_failover_without_agents_is_recorded_when_they_are_back(pair: Pair) -> None:
    with restored(pair) as (master, standby):
        for half in (master, standby):
            half.agent.kill()
        hang_haproxy(master)
        until(standby.has_vip, "the standby takes over", timeout=30)
        for half in (master, standby):
            half.agent.start()
        until(lambda: record_says(master, "MASTER -> FAULT"), "the fault is recorded")
        until(lambda: record_says(standby, "BACKUP -> MASTER"), "the mastership is recorded")


def test_op11_a_keepalived_that_is_stopped_killed_and_started_is_recorded(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        standby.api.stop_vrrp()
        until(lambda: record_says(standby, "BACKUP -> STOPPED"), "its end is recorded")
        standby.api.start_vrrp()
        until(lambda: record_says(standby, "STOPPED -> BACKUP"), "its start is recorded")
        told = recorded(standby)
        standby.agent.restart()
        standby.api.reload_vrrp()
        kill_keepalived(standby)
        until(standby.healthy, "keepalived is back", timeout=30)
        # An end that lasted for a moment only may have been seen, and is over then.
        until(lambda: recorded(standby)[-1].endswith("BACKUP"), "it is BACKUP again")
        assert set(recorded(standby)[len(told) :]) <= {"BACKUP -> STOPPED", "STOPPED -> BACKUP"}


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
    assert load.result.failed == 0, load.result
    assert pair.holders() == [master]
    said = (master.agent.run_path / "octavia-vrrp-check.log").read_text().splitlines()
    assert said[-1] == "all answer"


# What keepalived reads

#: As agents before this one gave it to keepalived, in front of the controller's text.
EARLIER = "global_defs {\n    script_user root\n    enable_script_security\n}\n"


def b1_texts(text: str, canary: str) -> list[str]:
    """Texts that would run a program, in ways that keepalived understands."""
    program = f"\"/bin/sh -c 'touch {canary}'\""
    instance = "    interface eth1"
    return [
        f"global_defs {{ startup_script {program}\n}}\n{text}",
        f"{text}global_defs{{startup_script {program}}}\n",
        text.replace(instance, f"    @^zz notify_backup {program}\n{instance}"),
        text.replace(instance, f'    "notify_backup" {program}\n{instance}'),
        text.replace(instance, f"    notify_backup{program}\n{instance}"),
        text.replace(instance, f"{instance} }}global_defs{{startup_script {program}"),
        text.replace(instance, f"    $N=notify_backup\n    $N {program}\n{instance}"),
        text.replace(instance, f"    ~SEQ(x, 1) notify_backup {program}\n{instance}"),
    ]


def test_b1_no_text_brings_a_program_in(pair: Pair) -> None:
    standby = pair.standby
    canary = standby.agent.base_path / "canary"
    before, running = files(standby), standby.of("keepalived")
    for text in b1_texts(standby.configuration(CHECKS), str(canary)):
        with pytest.raises(AmphoraError, match=r"^400: Invalid request: line \d+: ") as refused:
            put(standby, text)
        assert "touch" not in str(refused.value)
    assert files(standby) == before
    assert standby.of("keepalived") == running
    assert not canary.exists()


def test_b1_keepalived_reads_nothing_that_the_controller_wrote(pair: Pair) -> None:
    standby = pair.standby
    text = standby.configuration(CHECKS)
    put(standby, f"# one\n{text}# two\n")
    read = (standby.agent.base_path / "vrrp" / "agent.conf").read_text()
    assert "one" not in read
    assert "two" not in read
    put(standby, "".join(f"{line}\t # {line}\r\n" for line in text.splitlines()))
    assert (standby.agent.base_path / "vrrp" / "agent.conf").read_text() == read


def test_b1_with_a_text_on_disk_that_is_not_allowed_what_runs_goes_on(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        directory = standby.agent.base_path / "vrrp"
        text = standby.configuration(CHECKS)
        harmful, *_ = b1_texts(text, str(directory / "canary"))
        running = standby.of("keepalived")
        standby.agent.kill()
        (directory / "octavia-keepalived.conf").write_text(harmful)
        (directory / "agent.conf").write_text(EARLIER + harmful)
        standby.agent.start()
        assert standby.of("keepalived") == running
        assert not (directory / "agent.conf").exists()
        assert f"{directory}/octavia-keepalived.conf is not allowed: line 1:" in standby.agent.log
        assert 'kind="keepalived-text-refused"' in standby.agent.get("/metrics").body.decode()
        with pytest.raises(AmphoraError, match=r"500: .* is not allowed: line 1: global_defs"):
            standby.api.reload_vrrp()
        put(standby, text)
        assert "keepalived-text-refused" not in standby.agent.get("/metrics").body.decode()
        assert standby.api.reload_vrrp() == "keepalived reloaded"
        assert standby.of("keepalived") == running


def test_b1_with_a_text_on_disk_that_is_not_allowed_nothing_starts(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        directory = standby.agent.base_path / "vrrp"
        harmful, *_ = b1_texts(standby.configuration(CHECKS), str(directory / "canary"))
        standby.die()
        (directory / "octavia-keepalived.conf").write_text(harmful)
        (directory / "agent.conf").write_text(EARLIER + harmful)
        standby.agent.start()
        until(lambda: len(standby.of("haproxy")) == 2, "everything else is back")
        assert standby.of("keepalived") == []
        assert not (directory / "canary").exists()
        record = standby.agent.base_path / "processes" / "octavia-keepalived.json"
        assert not record.exists() or '"wanted":false' in record.read_text()
        put(standby, standby.configuration(CHECKS))
        assert standby.api.start_vrrp() == "keepalived started"


def test_what_an_earlier_agent_gave_to_keepalived_is_written_anew(pair: Pair) -> None:
    with restored(pair) as (_, standby):
        directory = standby.agent.base_path / "vrrp"
        standby.agent.kill()
        text = (directory / "octavia-keepalived.conf").read_text()
        given = (directory / "agent.conf").read_text()
        (directory / "agent.conf").write_text(EARLIER + text)
        standby.agent.start()
        assert (directory / "agent.conf").read_text() == given
