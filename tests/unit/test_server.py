"""The arbiter's signs of life, as systemd receives them."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from amphora_agent.server import AgentArbiter, HeartbeatWorker, Server
from amphora_agent.settings import Settings


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
    settings = Settings(amphora_id="a1")
    application = Flask(__name__)
    server = Server(
        lambda: settings,
        nothing,
        application,
        nothing,
        serving=nothing,
        beating=nothing,
        tick=nothing,
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


def test_it_gives_one_when_it_has_looked_after_its_workers(
    arbiter: AgentArbiter, worker: HeartbeatWorker, systemd: socket.socket
) -> None:
    arbiter.murder_workers()
    assert systemd.recv(100) == b"WATCHDOG=1"


def test_it_gives_none_while_a_worker_hangs_and_does_not_end(
    arbiter: AgentArbiter, worker: HeartbeatWorker, systemd: socket.socket
) -> None:
    os.utime(worker.tmp.fileno(), (0, 0))  # when it was last seen alive
    arbiter.murder_workers()
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_it_tells_that_it_ends(arbiter: AgentArbiter, systemd: socket.socket) -> None:
    arbiter.stop()
    assert systemd.recv(100) == b"STOPPING=1"
