"""The arbiter's signs of life, as systemd receives them."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.daemon.arbiter import AgentArbiter, AgentServer, HeartbeatWorker, Pulse
from amphora_agent.metrics.shared import HeartbeatBoard, WorkerDeaths


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket at which it listens."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listener


@pytest.fixture
def arbiter(monkeypatch: pytest.MonkeyPatch) -> AgentArbiter:
    """One that has no workers; what they would serve does not matter."""
    nothing: Any = None
    server = AgentServer(
        "127.0.0.1:1",
        nothing,
        make_heart=nothing,
        died=nothing,
        deaths=WorkerDeaths(),
        board=HeartbeatBoard(),
    )
    monkeypatch.setattr(AgentArbiter, "WORKERS", {})
    return AgentArbiter(server)


@pytest.fixture
def worker(arbiter: AgentArbiter) -> Iterator[HeartbeatWorker]:
    """One of its workers. In its place a program runs that does not end when it is aborted."""
    stubborn = ["sh", "-c", "trap '' ABRT; echo; exec sleep 60"]
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        made = HeartbeatWorker(1, os.getpid(), [], arbiter.app, 30, arbiter.cfg, arbiter.log)
        arbiter.WORKERS[process.pid] = made
        yield made
        made.tmp.close()
        process.kill()


def look_later(
    arbiter: AgentArbiter, monkeypatch: pytest.MonkeyPatch, seconds: float, step: float = 1.0
) -> None:
    """Let the arbiter look after its workers each `step` seconds for some time to come."""
    begun = time.monotonic()
    now = begun
    with monkeypatch.context() as patch:
        patch.setattr("amphora_agent.daemon.arbiter.time.monotonic", lambda: now)
        while now <= begun + seconds:
            arbiter.murder_workers()
            now += step


def test_it_gives_one_when_it_has_looked_after_its_workers(
    arbiter: AgentArbiter, worker: HeartbeatWorker, systemd: socket.socket
) -> None:
    arbiter.murder_workers()
    assert systemd.recv(100) == b"WATCHDOG=1"


def test_it_gives_none_while_a_worker_hangs_and_does_not_end(
    arbiter: AgentArbiter,
    worker: HeartbeatWorker,
    systemd: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker.notify()
    look_later(arbiter, monkeypatch, 9)
    while True:
        try:
            assert systemd.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            break
    assert worker.aborted


def test_e5_a_worker_that_beats_is_given_less_time_than_one_that_begins(
    arbiter: AgentArbiter, worker: HeartbeatWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_later(arbiter, monkeypatch, 50)
    assert not worker.aborted
    worker.notify()
    look_later(arbiter, monkeypatch, 7)
    assert not worker.aborted
    look_later(arbiter, monkeypatch, 9)
    assert worker.aborted


def test_nobody_hangs_who_was_held_up_with_the_arbiter(
    arbiter: AgentArbiter, worker: HeartbeatWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine stands still for a minute."""
    worker.notify()
    look_later(arbiter, monkeypatch, 120, step=30)
    assert not worker.aborted


def test_one_whose_thread_waits_for_the_disk_is_left_behind(
    arbiter: AgentArbiter, worker: HeartbeatWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a zombie that cannot be reaped; here one that nobody has reaped yet."""
    monkeypatch.setattr("amphora_agent.daemon.arbiter._is_zombie", lambda pid: True)
    worker.notify()
    look_later(arbiter, monkeypatch, 12)
    assert not arbiter.WORKERS


def test_it_tells_that_it_ends(arbiter: AgentArbiter, systemd: socket.socket) -> None:
    arbiter.stop()
    assert systemd.recv(100) == b"STOPPING=1"


def test_a_sign_of_life_is_read_whole_at_any_instant() -> None:
    pulse = Pulse()
    begin = pulse.last_update()
    child = os.fork()
    if not child:
        try:
            for _ in range(300_000):
                pulse.notify()
        finally:
            os._exit(0)
    oldest, ended = begin, False
    while not ended:
        oldest = min(oldest, *(pulse.last_update() for _ in range(1000)))
        ended = os.waitpid(child, os.WNOHANG)[0] == child
    assert oldest == begin
    assert pulse.started
    pulse.close()
