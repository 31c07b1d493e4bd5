"""The workers where the API is two processes: one that receives and sends, as an unprivileged user,
and one that has the routes, the services and all effects, as root."""

import logging
import os
import selectors
import time
from typing import Any

from gunicorn.workers import base

from amphora_agent.api.server.bodies import Room
from amphora_agent.api.server.channel import Channel, ChannelServer
from amphora_agent.api.server.requests import RequestHandler
from amphora_agent.api.server.worker import ApiWorker, save_memory
from amphora_agent.daemon import privileges
from amphora_agent.metrics.shared import SERVICES_WORKER

logger = logging.getLogger(__name__)

#: Seconds between signs of life.
_TICK = 1.0


class FrontWorker(ApiWorker):
    """Speaks TLS and HTTP as the unprivileged user `app.user`, and has another process answer."""

    def init_process(self) -> None:
        privileges.become(self.app.user)
        super().init_process()

    def run(self) -> None:
        self.app.keep_for_root()
        super().run()

    def make_backend(self) -> RequestHandler:
        return Channel(
            self.app.listener.getsockname(), lambda: self.alive and self.ppid == os.getppid()
        )


class ServicesWorker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Answers by `app.backend` what the worker that receives passes on.

    It keeps the API's sockets, at which it does not listen: by these it tells the agent's own use
    of an address from that of others.
    """

    name = SERVICES_WORKER

    def init_process(self) -> None:
        save_memory()
        super().init_process()

    def load_wsgi(self) -> None:
        """Load nothing: the backend has the application."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.alive = False

    handle_quit = handle_exit

    def handle_abort(self, sig: int, frame: Any) -> None:
        # The arbiter takes this worker for hung. Leave at once, without waiting for threads.
        os._exit(1)

    def run(self) -> None:
        backend, listener = self.app.backend, self.app.listener
        backend.begin()
        server = ChannelServer(backend, self.app.user.uid, Room(backend.open_file))
        listener.setblocking(False)
        deadline = float("inf")
        next_tick = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(self.PIPE[0], selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            # The other worker keeps a connection until it has answered all that it has received.
            while self.alive or (server.connections and time.monotonic() < deadline):
                if self.ppid != os.getppid():
                    break
                for key, _ in selector.select(_TICK if self.alive else 0.1):
                    if key.fileobj is listener:
                        self._accept(server, listener)
                    else:
                        os.read(self.PIPE[0], 4096)
                if not self.alive and deadline == float("inf"):
                    deadline = time.monotonic() + self.cfg.graceful_timeout
                    for sock in self.sockets:
                        sock.close()  # who connects now shall be refused
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + _TICK
                    self.notify()
                    backend.tick()
        if server.connections:
            logger.warning("requests are cut off")

    def _accept(self, server: ChannelServer, listener: Any) -> None:
        try:
            server.accept(listener)
        except OSError as error:  # gone already, or out of descriptors: others go on
            logger.warning("cannot accept a connection to the services: %s", error)
