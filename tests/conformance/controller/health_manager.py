"""Octavia's health manager: the UDP socket, the envelope and what it makes of a heartbeat."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from octavia.amphorae.drivers.health import heartbeat_udp
from octavia.common import exceptions
from octavia.common.config import cfg

from controller import old
from controller.database import Database

Message = Mapping[str, Any]


class HealthManager:
    """Octavia's receiver, taking one heartbeat at a time instead of running for ever.

    `complaints` is what Octavia logged as a warning or worse about the heartbeats.
    """

    def __init__(self, database: Database, key: str | None = None) -> None:
        self._database = database
        self._getter = heartbeat_udp.UDPStatusGetter()
        if key is not None:
            bind = cfg.CONF.health_manager
            self._getter.update(key, bind.bind_ip, bind.bind_port)
        self.complaints: list[str] = []
        self._ear = _Ear(self.complaints)
        self._logger = logging.getLogger(heartbeat_udp.__name__)
        self._logger.addHandler(self._ear)

    @property
    def address(self) -> str:
        """As it is written in `controller_ip_port_list`."""
        host, port = self._getter.sock.getsockname()[:2]
        return f"{host}:{port}"

    def next(self, timeout: float = 10) -> Message:
        """Receive one heartbeat and let Octavia draw its conclusions from it."""
        deadline = time.monotonic() + timeout
        while True:
            self._getter.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                received: tuple[Message, str] = self._getter.dorecv()
            except exceptions.InvalidHMACException:
                continue
            except TimeoutError:
                raise TimeoutError(
                    f"no heartbeat within {timeout} s; complaints: {self.complaints}"
                ) from None
            message, source = received
            # What Octavia does in a process of a pool.
            if hasattr(self._getter, "health_updater"):
                # The method without the underscore is this one, with every exception swallowed.
                self._getter.health_updater._update_health(message, source)
                heartbeat_udp.update_stats(message)
            else:
                old.take(message, source)
            return message

    def wait_for(self, condition: Callable[[Message], object], timeout: float = 20) -> Message:
        """Receive heartbeats until one of them, or what Octavia made of it, is as wanted. One that
        does not tell of what is asked for (KeyError) is not."""
        deadline = time.monotonic() + timeout
        message: Message | None = None
        while time.monotonic() < deadline:
            message = self.next(deadline - time.monotonic())
            with contextlib.suppress(KeyError):
                if condition(message):
                    return message
        raise TimeoutError(f"not within {timeout} s; the last heartbeat: {message}")

    def settle(self) -> None:
        """Let pass what was under way before a change; complaints from now on are earned."""
        self.fresh()
        self.complaints.clear()

    def fresh(self) -> Message:
        """A heartbeat that was built after this call.

        What waits in the socket is older, and the next one may have been under way.
        """
        self.forget()
        self.next()
        return self.next()

    def forget(self) -> None:
        """Throw away what has come and was not looked at."""
        self._getter.sock.settimeout(0)
        while True:
            try:
                self._getter.sock.recv(heartbeat_udp.UDP_MAX_SIZE)
            except BlockingIOError:
                return

    def close(self) -> None:
        self._logger.removeHandler(self._ear)
        self._getter.sock.close()
        for name in ("health_executor", "stats_executor", "executor"):  # the last in old releases
            if hasattr(self._getter, name):
                getattr(self._getter, name).shutdown()


class _Ear(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())
