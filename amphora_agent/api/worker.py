"""The gunicorn worker of the API.

gunicorn's own threaded worker gives a thread to every connection before it has said anything,
and so a handful of silent connections stops it. Here a thread is given to a *request*: one poller
accepts, shakes hands and receives headers, all without blocking and under deadlines, and passes a
connection on once a whole header is there. Requests that only read have threads of their own:
they never wait for a change.
"""

import contextlib
import json
import logging
import os
import selectors
import ssl
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import ParseException
from gunicorn.workers import base

from amphora_agent.api.caller import KEY as CALLER
from amphora_agent.api.connection import Connection, HeaderTooLarge, Phase

logger = logging.getLogger(__name__)

#: Threads for requests that read, and for requests that change.
_READERS, _CHANGERS = 4, 12

#: Connections at a time; beyond, those that have waited longest for a handshake are closed.
_MOST_CONNECTIONS = 512

#: What an answered client may still send before the connection is closed under it: seconds, bytes.
_DISCARD_SECONDS, _DISCARD_BYTES = 10.0, 1 << 30

#: Methods that change nothing.
_READING = ("GET", "HEAD")

#: Seconds between looks at deadlines, and between signs of life to the arbiter.
_TICK = 1.0


class ApiWorker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serves `app.wsgi()` over TLS. `app` gives `tls`, `settings`, and `serving()`, which is
    called once when the worker begins and `tick()` about each second."""

    def init_process(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._finished: deque[tuple[Connection, bool]] = deque()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
        self._changers = ThreadPoolExecutor(_CHANGERS, thread_name_prefix="change")
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        # Python writes the signal's number to PIPE (set_wakeup_fd): the poller wakes.
        self.alive = False

    def handle_abort(self, sig: int, frame: Any) -> None:
        # The arbiter takes this worker for hung. Leave at once, without waiting for threads.
        os._exit(1)

    def run(self) -> None:
        self.app.serving()
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, self._wake_up)
        for listener in self.sockets:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        next_tick = 0.0
        while self.alive and self.ppid == os.getppid():
            for key, _ in self._selector.select(_TICK):
                key.data(key.fileobj)
            self._take_back_finished()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self.notify()
                self._close_overdue()
                self.app.tick()
        self._finish()

    # The poller

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
            except OSError as error:  # gone already, or out of descriptors: others go on
                logger.warning("cannot accept a connection: %s", error)
                return
            if len(self._connections) >= _MOST_CONNECTIONS and not self._make_room():
                accepted.close()
                continue
            try:
                connection = Connection(
                    accepted, self.app.tls.context(), client, listener.getsockname(), self.cfg
                )
            except OSError:  # reset before it was looked at
                accepted.close()
                continue
            self._connections.add(connection)
            self._wait_for(connection, selectors.EVENT_READ)

    def _make_room(self) -> bool:
        """Close the connection that has been silent longest; False when none is silent."""
        silent = [c for c in self._connections if c.phase is Phase.HANDSHAKE]
        if not silent:
            silent = [c for c in self._connections if c.phase is Phase.HEADER]
        if not silent:
            return False
        self._close(min(silent, key=lambda connection: connection.deadline))
        return True

    def _wait_for(self, connection: Connection, events: int) -> None:
        self._selector.register(
            connection.sock, events, lambda _, connection=connection: self._advance(connection)
        )

    def _advance(self, connection: Connection) -> None:
        try:
            events = connection.advance()
        except HeaderTooLarge:
            self._selector.unregister(connection.sock)
            connection.begin_request()
            self._submit(connection, self._refuse_header, self._changers)
            return
        except ssl.SSLError as error:
            logger.info("TLS handshake with %s failed: %s", connection.client[0], error)
            self._close(connection)
            return
        except OSError:
            self._close(connection)
            return
        if events:
            self._selector.modify(
                connection.sock, events, lambda _, connection=connection: self._advance(connection)
            )
            return
        self._selector.unregister(connection.sock)
        self._dispatch(connection)

    def _dispatch(self, connection: Connection) -> None:
        pool = self._readers if connection.only_reads() else self._changers
        connection.begin_request()
        self._submit(connection, self._serve, pool)

    def _submit(
        self,
        connection: Connection,
        work: Callable[[Connection], bool],
        pool: ThreadPoolExecutor,
    ) -> None:
        def done(future: "Future[bool]") -> None:
            keep = not future.cancelled() and future.exception() is None and future.result()
            self._finished.append((connection, keep))
            with contextlib.suppress(BlockingIOError):  # full: the poller is about to wake anyway
                os.write(self.PIPE[1], b"\0")

        pool.submit(work, connection).add_done_callback(done)

    def _take_back_finished(self) -> None:
        while self._finished:
            connection, keep = self._finished.popleft()
            if not keep or not self.alive:
                self._drop(connection)
                continue
            connection.end_request()
            if connection.has_header():
                self._dispatch(connection)
                continue
            self._wait_for(connection, selectors.EVENT_READ)
            self._advance(connection)  # TLS may have decrypted more than was taken

    def _close_overdue(self) -> None:
        now = time.monotonic()
        waiting = [c for c in self._connections if c.phase is not Phase.REQUEST]
        for connection in waiting:
            if connection.deadline < now:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.sock)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        connection.close()

    def _finish(self) -> None:
        """Stop accepting, let requests end, and leave."""
        for listener in self.sockets:
            self._selector.unregister(listener)
            listener.close()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        for connection in [c for c in self._connections if c.phase is not Phase.REQUEST]:
            self._close(connection)
        while self._connections and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.1):
                key.data(key.fileobj)
            self._take_back_finished()
            self.notify()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._changers.shutdown(wait=False, cancel_futures=True)
        if self._connections:
            # Their threads would keep the interpreter from ending.
            logger.warning("%d requests are cut off", len(self._connections))
            os._exit(0)

    # In the threads

    def _serve(self, connection: Connection) -> bool:
        """Answer one request; return whether the connection can be used again."""
        request = None
        try:
            connection.body_deadline = (
                time.monotonic() + self.app.settings().agent_request_read_timeout
            )
            request = next(connection.parser, None)
            if request is None:
                return False
            return self._answer(connection, request)
        except ParseException as error:
            return self._refuse(connection, str(error))
        except (OSError, EOFError) as error:
            logger.info("connection of %s ended: %s", connection.client[0], error)
        except Exception:  # the last resort of a thread: one request must not end the service
            logger.exception("a request was not answered")
        return False

    def _answer(self, connection: Connection, request: Any) -> bool:
        started = time.monotonic()
        response, environ = wsgi.create(
            request, connection.sock, connection.client, connection.server, self.cfg
        )
        environ["wsgi.multithread"] = True
        environ["wsgi.url_scheme"] = "https"
        environ["wsgi.input"] = _Body(environ["wsgi.input"])
        caller = environ[CALLER] = connection.caller()
        body = self.wsgi(environ, response.start_response)
        if not self.alive:  # perhaps only since the request began; the header is not yet sent
            response.force_close()
        try:
            for piece in body:
                response.write(piece)
            response.close()
        finally:
            if hasattr(body, "close"):
                body.close()
        logger.info(
            "client=%r method=%s path=%r status=%s ms=%.1f",
            caller.name,
            request.method,
            request.path,
            response.status_code,
            (time.monotonic() - started) * 1000,
        )
        if self._is_taken_whole(connection, environ["wsgi.input"], request):
            return not response.should_close()
        if request.method in _READING:
            return False  # nobody sends a body with these in good faith: no thread waits for it
        connection.discard_input(seconds=_DISCARD_SECONDS, most=_DISCARD_BYTES)
        return False

    def _is_taken_whole(self, connection: Connection, body: "_Body", request: Any) -> bool:
        """Whether nothing of the request is left in the socket, after a short look."""
        patience = 0.0 if request.method in _READING else _TICK
        connection.body_deadline = time.monotonic() + patience
        try:
            return not body.failed and connection.parser.finish_body(deadline=float("inf"))
        except (OSError, ParseException):
            return False

    def _refuse_header(self, connection: Connection) -> bool:
        return self._refuse(connection, "the request header is too large")

    def _refuse(self, connection: Connection, reason: str) -> bool:
        """Answer what is not HTTP, as far as that can be answered."""
        logger.warning("no valid request from %s: %s", connection.client[0], reason)
        text = json.dumps({"error": reason, "http_code": 400}).encode()
        try:
            connection.sock.sendall(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(text), text)
            )
        except OSError:
            return False
        connection.discard_input(seconds=_DISCARD_SECONDS, most=_DISCARD_BYTES)
        return False


class _Body:
    """The body of a request. What is wrong with it is an OSError to whoever reads."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.failed = False

    def read(self, size: int = -1) -> bytes:
        try:
            piece: bytes = self._body.read(None if size < 0 else size)
        except ParseException as error:
            self.failed = True
            raise OSError(f"broken body: {error}") from error
        except OSError:
            self.failed = True
            raise
        return piece
