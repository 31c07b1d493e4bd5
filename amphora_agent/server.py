"""The agent's processes: an arbiter that keeps two workers alive, the API and the heartbeat.

gunicorn's arbiter does what both need: it starts them from one loaded parent, so that they share
its memory, starts them again when they die, and ends one that shows no sign of life.
"""

import gc
import logging
import os
import select
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.systemd import sd_notify
from gunicorn.workers import base

from amphora_agent.api.tls import ServerTls
from amphora_agent.api.worker import ApiWorker
from amphora_agent.heartbeat.sender import Sender
from amphora_agent.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which the arbiter replaces a worker.
_HANG_TIMEOUT = 60

#: Seconds that requests under way get to end when the agent is stopped.
_GRACE = 30


class HeartbeatWorker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Sends a heartbeat each interval; has nothing to do with the API's sockets."""

    def init_process(self) -> None:
        for listener in self.sockets:
            listener.close()
        self.sockets: list[Any] = []
        super().init_process()

    def load_wsgi(self) -> None:
        """No application is served here."""

    def run(self) -> None:
        self.app.beating()
        sender: Sender = self.app.sender
        next_beat = time.monotonic()
        while self.alive and self.ppid == os.getppid():
            self.notify()
            self.app.tick()
            now = time.monotonic()
            if now >= next_beat:
                try:
                    sender.beat()
                except Exception:  # the next heartbeat must come, whatever this one met
                    logger.exception("no heartbeat was sent")
                # No burst after a pause of the machine, and no drift without one.
                next_beat = max(next_beat + sender.interval(), now)
            # An interval that was shortened counts from the beat before.
            next_beat = min(next_beat, time.monotonic() + sender.interval())
            # A signal writes to the pipe: the end comes at once.
            select.select(self.PIPE[:1], [], [], max(0.0, min(1.0, next_beat - time.monotonic())))


class AgentArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Keeps one worker of each kind."""

    def spawn_worker(self) -> Any:
        kinds = {type(worker) for worker in self.WORKERS.values()}
        self.worker_class = HeartbeatWorker if ApiWorker in kinds else ApiWorker
        return super().spawn_worker()

    def spawn_workers(self) -> None:
        while len(self.WORKERS) < self.num_workers:
            self.spawn_worker()

    def murder_workers(self) -> None:
        """End workers that hang. It is done about once a second, and systemd's watchdog is told so;
        not while one does not end, which at last has systemd replace them all."""
        super().murder_workers()
        if not any(worker.aborted for worker in self.WORKERS.values()):
            sd_notify("WATCHDOG=1", self.log)

    def stop(self, graceful: bool = True) -> None:
        """End; requests under way may take longer than the watchdog's patience."""
        sd_notify("STOPPING=1", self.log)
        super().stop(graceful)

    def handle_hup(self) -> None:
        """Settings and certificates are taken up by themselves: nothing is to be done."""

    def handle_ttin(self) -> None:
        """The number of workers is fixed."""

    handle_ttou = handle_usr2 = handle_ttin


class AgentLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's messages go where all others go."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)  # its DEBUG is about gunicorn, not about the agent


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What the workers find as their `app`."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        tls: ServerTls,
        application: Flask,
        sender: Sender,
        *,
        serving: Callable[[], None],
        beating: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.sender = sender
        self.serving = serving
        self.beating = beating
        self.tick = tick
        self._application = application
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings()
        host = f"[{settings.bind_host}]" if ":" in settings.bind_host else settings.bind_host
        for name, value in {
            "bind": f"{host}:{settings.bind_port}",
            "workers": 2,
            "worker_class": ApiWorker,
            "logger_class": AgentLog,
            "timeout": _HANG_TIMEOUT,
            "graceful_timeout": _GRACE,
            "control_socket_disable": True,
            "preload_app": True,
            "proc_name": "amphora-agent",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._application

    def run(self) -> None:
        """Serve until told to stop."""
        gc.collect()
        gc.freeze()  # what is loaded now is shared by all processes, and never garbage
        AgentArbiter(self).run()
