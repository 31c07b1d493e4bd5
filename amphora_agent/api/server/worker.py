"""The gunicorn worker of the API.

gunicorn's own threaded worker gives a thread to every connection before anything comes, so a
handful of silent connections stops it. Here a complete *request* gets a thread: one poller accepts,
shakes hands, receives headers and bodies and sends answers, all without blocking, in turns and
under deadlines.
"""

import ctypes
import json
import logging
import os
import selectors
import ssl
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.workers import base

from amphora_agent.api.server.answers import AnswerPart, Answers, Sink
from amphora_agent.api.server.bodies import Room
from amphora_agent.api.server.connection import Connection, HeaderTooLarge, Need, Phase
from amphora_agent.api.server.requests import Answer, Refused, Request, RequestHandler
from amphora_agent.api.server.threads import Threads
from amphora_agent.errors import Unavailable
from amphora_agent.metrics.shared import API_WORKER

logger = logging.getLogger(__name__)

#: Connections at a time; beyond, those that have waited longest are closed.
_MOST_CONNECTIONS = 512

#: Seconds between checks of deadlines, and between signs of life to the arbiter.
_TICK = 1.0

#: glibc's option for the size from which memory is given back at once (mallopt(3)), and the size.
_MMAP_THRESHOLD, _GIVEN_BACK = -3, 128 << 10


def save_memory() -> None:
    """Have large pieces of memory given back at once: otherwise that of one large text stays with
    the process for good."""
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _GIVEN_BACK)


class _Answer(NamedTuple):
    """The parts of an answer, and whether the connection can be used again after it."""

    parts: deque[AnswerPart]
    keep: bool


class ApiWorker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serves over TLS what `app.backend` answers in this process."""

    name = API_WORKER

    def init_process(self) -> None:
        save_memory()
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._watched: dict[Connection, int] = {}
        #: Those that go on without waiting for their socket.
        self._ready: set[Connection] = set()
        self._backend = self.make_backend()
        self._room = Room(self._backend.open_file)
        self._answers = Answers(self._room)
        self._threads = Threads(lambda: self.PIPE[1])
        super().init_process()

    def make_backend(self) -> RequestHandler:
        """Return what answers requests."""
        backend: RequestHandler = self.app.backend
        return backend

    def load_wsgi(self) -> None:
        """Load nothing: the backend has the application."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        # Python writes the signal's number to PIPE (set_wakeup_fd): the poller wakes.
        self.alive = False

    def handle_abort(self, sig: int, frame: Any) -> None:
        # The arbiter takes this worker for hung. Leave at once, without waiting for threads.
        os._exit(1)

    def run(self) -> None:
        self._backend.begin()
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, self._wake_up)
        for listener in self.sockets:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        next_tick = 0.0
        while self.alive and self.ppid == os.getppid():
            self._poll(_TICK)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self.notify()
                self._end_overdue()
                self._backend.tick()
        self._finish()

    # The poller

    def _poll(self, timeout: float) -> None:
        """Give each connection that can go on one turn."""
        due, self._ready = self._ready, set()
        for key, _ in self._selector.select(0 if due else timeout):
            if isinstance(key.data, Connection):
                due.add(key.data)
            else:
                key.data(key.fileobj)
        for connection in due & self._connections:
            self._advance(connection)
        self._threads.run_finished()
        self._threads.start_waiting(self._serve, self._take_back)

    def _wake_up(self, pipe: int) -> None:
        try:
            while os.read(pipe, 4096):
                pass
        except BlockingIOError:
            pass

    def _accept(self, listener: Any) -> None:
        for _ in range(64):
            try:
                accepted, client = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # closed already, or out of descriptors: others go on
                logger.warning("cannot accept a connection: %s", error)
                return
            if len(self._connections) >= _MOST_CONNECTIONS and not self._make_room():
                accepted.close()
                continue
            try:
                connection = Connection(
                    accepted,
                    self._backend.context(),
                    client,
                    listener.getsockname(),
                    self.cfg,
                    self._room,
                    self._backend.patience,
                )
            except OSError:  # reset meanwhile
                accepted.close()
                continue
            self._connections.add(connection)
            self._watch(connection, selectors.EVENT_READ)

    def _make_room(self) -> bool:
        """Close the connection that has been silent longest; return False if none is silent."""
        for phases in (
            (Phase.HANDSHAKE,),
            (Phase.HEADER, Phase.DISCARD),
            (Phase.BODY, Phase.ANSWER),
        ):
            silent = [c for c in self._connections if c.phase in phases and not c.is_lent]
            if silent:
                self._close(min(silent, key=lambda c: min(c.deadline, c.stalled_at)))
                return True
        return False

    def _watch(self, connection: Connection, events: int) -> None:
        """Wait for events of a connection's socket; 0 for none."""
        before = self._watched.get(connection, 0)
        if events == before:
            return
        if not events:
            self._selector.unregister(connection.sock)
            del self._watched[connection]
            return
        change = self._selector.modify if before else self._selector.register
        change(connection.sock, events, connection)
        self._watched[connection] = events

    def _advance(self, connection: Connection) -> None:
        try:
            need = connection.advance()
        except (HeaderTooLarge, ParseException) as error:
            self._refuse(connection, error)
        except ssl.SSLError as error:
            if connection.phase is Phase.HANDSHAKE:
                self._note_failed_handshake(connection, error)
            self._close(connection)
        except OSError as error:
            if connection.phase in (Phase.BODY, Phase.ANSWER):
                logger.info("connection of %s ended: %s", connection.client[0], error)
            self._close(connection)
        else:
            self._provide(connection, need)

    def _provide(self, connection: Connection, need: Need) -> None:
        """Give a connection what it waits for."""
        match need:
            case Need.READ | Need.WRITE:
                self._watch(connection, need.value)
            case Need.TURN:
                self._ready.add(connection)
            case Need.CLOSE:
                self._close(connection)
            case Need.DISK:
                self._watch(connection, 0)
                connection.is_lent = True
                self._threads.write(connection.body.write_waiting, partial(self._go_on, connection))
            case Need.ANSWER:
                self._watch(connection, 0)
                self._threads.add(connection)

    def _note_failed_handshake(self, connection: Connection, error: ssl.SSLError) -> None:
        reason = error.reason or type(error).__name__
        # A refused certificate concerns a controller; all else may be anybody's noise.
        level = logging.WARNING if "CERT" in reason else logging.INFO
        logger.log(level, "TLS handshake with %s failed: %s", connection.client[0], error)
        self._backend.note_failed_handshake(reason)

    def _go_on(self, connection: Connection, _: object) -> None:
        connection.is_lent = False
        self._ready.add(connection)

    def _take_back(self, connection: Connection, answer: _Answer | None) -> None:
        size = sum(part.size for part in answer.parts) if answer else 0
        self._threads.done(connection, size)
        if answer is None:
            self._close(connection)
            return
        connection.answer(answer.parts, keep=answer.keep and self.alive)
        self._advance(connection)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections if c.is_overdue(now)]:
            if connection.give_up():
                self._provide(connection, Need.ANSWER)
            else:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._ready.discard(connection)
        self._connections.discard(connection)
        connection.close()

    def _finish(self) -> None:
        """Stop accepting, let requests end, and leave."""
        for listener in self.sockets:
            self._selector.unregister(listener)
            listener.close()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        idle = (Phase.HANDSHAKE, Phase.HEADER, Phase.DISCARD)
        while self._connections and time.monotonic() < deadline:
            for connection in [c for c in self._connections if c.phase in idle]:
                self._close(connection)
            self._poll(0.1)
            self._end_overdue()
            self.notify()
        self._threads.shut_down()
        self._backend.close()
        if self._connections:
            # Their threads would keep the interpreter from ending.
            logger.warning("%d requests are cut off", len(self._connections))
            os._exit(0)

    def _refuse(self, connection: Connection, error: Exception) -> None:
        """Answer 400 to bytes that are no HTTP request."""
        # Without the request's own words: what is taken for a header, or for the length of a
        # chunk, may be a part of a body, with a key in it.
        reason = str(error).partition(":")[0]
        if isinstance(error, HeaderTooLarge):
            reason = "the request header is too large"
        logger.warning("no valid request from %s: %s", connection.client[0], reason)
        connection.body.cut = True
        parts = _make_answer("400 Bad Request", {"error": reason, "http_code": 400})
        connection.answer(parts, keep=False)
        self._advance(connection)

    # In the threads

    def _serve(self, connection: Connection) -> _Answer | None:
        """Answer one request."""
        started = time.monotonic()
        try:
            reply = self._backend.answer(_make_request(connection), connection.body)
            if isinstance(reply, Refused):
                return None
            made, status = self._write(connection, *reply)
        except Unavailable as error:
            made, status = _refuse_for_now(error), 503
        except OSError as error:
            logger.info("connection of %s ended: %s", connection.client[0], error)
            return None
        except Exception:  # the last resort of a thread: one request must not end the service
            logger.exception("a request was not answered")
            return None
        logger.info(
            "client=%r method=%s path=%r status=%s ms=%.1f",
            connection.caller().name,
            connection.request.method,
            connection.request.path,
            status,
            (time.monotonic() - started) * 1000,
        )
        return made

    def _write(self, connection: Connection, answer: Answer, body: bytes) -> tuple[_Answer, int]:
        """Return the parts of an answer, and its status. Raises Unavailable."""
        sink = Sink()
        response = wsgi.Response(connection.request, sink, self.cfg)
        response.start_response(answer.status, [*answer.headers])
        if not self.alive or connection.body.cut:
            response.force_close()
        if body:
            response.write(body)
        response.close()
        parts = self._answers.keep(sink.pieces)
        return _Answer(parts, not response.should_close()), response.status_code


def _make_request(connection: Connection) -> Request:
    parsed = connection.request
    return Request(
        parsed.method,
        parsed.path,
        parsed.query,
        tuple(parsed.headers),
        connection.caller(),
        connection.peer(),
        (str(connection.server[0]), int(connection.server[1])),
    )


def _refuse_for_now(error: Unavailable) -> _Answer:
    logger.warning("%s", error)
    content = {"message": error.message, "details": error.details}
    return _Answer(_make_answer("503 Service Unavailable\r\nRetry-After: 5", content), keep=False)


def _make_answer(status: str, content: Mapping[str, object]) -> "deque[AnswerPart]":
    """Make an answer without the application. `status` may be followed by headers."""
    text = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 {status}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    return deque([AnswerPart(head.encode() + text)])
