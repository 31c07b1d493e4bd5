"""A request and its answer, as they go between the worker that receives and the one that has the
routes, and the application that answers.

Both may be one process. If they are two, what comes from the receiving one is believed no more than
what comes to its port: see `Request.require_valid`.
"""

import io
import logging
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
from gunicorn.util import unquote_to_wsgi_str

from amphora_agent import files
from amphora_agent.agent.reconfiguration import Peer
from amphora_agent.agent.trust import Admission
from amphora_agent.api.http import limit_body
from amphora_agent.api.server.tls import ServerTls, WorkerSettings
from amphora_agent.api.services import KEY as CALLER
from amphora_agent.api.services import PEER
from amphora_agent.errors import Unavailable
from amphora_agent.model.events import Caller

logger = logging.getLogger(__name__)

#: A body may be larger than its limit by what was received at once.
_SLACK = 64 << 10
#: Reasons for failed handshakes, words of OpenSSL's.
_REASON = re.compile(r"[A-Za-z0-9_]{1,80}")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class InvalidMessage(Exception):
    """A message of the other process has a form that this one never sends."""


class Request(msgspec.Struct, frozen=True, tag="request"):
    """A request without its body. Names of headers are in capital letters.

    A body that did not come as a whole has a `problem`: why it was cut off, or, with `no_room`, why
    it could not be kept.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    caller: Caller
    peer: Peer
    server: tuple[str, int]
    problem: str = ""
    no_room: bool = False

    def require_valid(self) -> None:
        """Check what the parser of HTTP has checked already, in another process.

        Raises:
            InvalidMessage
        """
        names = [self.method, *(name for name, _ in self.headers)]
        values = [self.path, self.query, *(value for _, value in self.headers)]
        if not all(map(_TOKEN.fullmatch, names)) or any(map(_CONTROL.search, values)):
            raise InvalidMessage("a request has characters that HTTP does not have")

    def find_largest_body(self) -> int:
        """Return the most bytes that the body can have."""
        return limit_body(self.path) + _SLACK


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """An answer without its body. `settings` is the version of the worker's settings."""

    status: str
    headers: tuple[tuple[str, str], ...]
    settings: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The client is not served: its connection is to be closed."""


class RequestHandler(Protocol):
    """Gives the worker that receives all else that it needs: answers, TLS, settings, files."""

    def begin(self) -> None:
        """Called when the worker begins, before its first connection."""

    def tick(self) -> None:
        """Called about each second."""

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""

    def patience(self) -> float:
        """Return the seconds for a whole body, and for a whole answer."""

    def open_file(self) -> BinaryIO:
        """Open a file without a name. Raises OSError."""

    def note_failed_handshake(self, reason: str) -> None: ...

    def answer(self, request: Request, body: Any) -> tuple[Answer, bytes] | Refused:
        """Answer a request. `body` has been received.

        Raises:
            Unavailable: nobody answers now.
        """

    def close(self) -> None: ...


class KeptBody:
    """The body of a request that another process has received, in memory or in a file."""

    def __init__(self, request: Request, source: BinaryIO | io.BytesIO) -> None:
        self._request = request
        self._source = source

    def read(self, size: int = -1) -> bytes:
        """Read it, as the application does.

        Raises:
            OSError: a part of it did not come.
            Unavailable: there was no room for it.
        """
        if self._request.no_room:
            raise Unavailable("The agent has no room for this request", self._request.problem)
        if self._request.problem:
            raise OSError(self._request.problem)
        return self._source.read(size)

    def close(self) -> None:
        self._source.close()


class LocalBackend:
    """Answers requests in this process, by a WSGI application."""

    def __init__(
        self,
        wsgi: Callable[..., Any],
        admission: Admission,
        tls: ServerTls,
        *,
        begin: Callable[[], None],
        tick: Callable[[], None],
        note_failed_handshake: Callable[[str], None],
        spool: Path,
    ) -> None:
        """`begin` is called when the worker begins, `tick` each second. Files are in `spool`."""
        self._wsgi = wsgi
        self._admission = admission
        self._tls = tls
        self.begin = begin
        self.tick = tick
        self._note_failed_handshake = note_failed_handshake
        self._spool = spool

    def context(self) -> ssl.SSLContext:
        return self._tls.context()

    def patience(self) -> float:
        return self.worker_settings().patience

    def worker_settings(self) -> WorkerSettings:
        """Return what the worker that receives must know."""
        return self._tls.worker_settings()

    def open_file(self) -> BinaryIO:
        return files.open_nameless(self._spool)

    def note_failed_handshake(self, reason: str) -> None:
        self._note_failed_handshake(reason if _REASON.fullmatch(reason) else "other")

    def answer(self, request: Request, body: Any) -> tuple[Answer, bytes] | Refused:
        # At each request: a certificate may have been revoked meanwhile.
        if refusal := self._admission.find_refusal(request.caller.name, request.peer.chain):
            logger.warning("%s is not served: %s", request.caller.address, refusal)
            return Refused()
        begun: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            begun[:] = [status, tuple(headers)]

        pieces = self._wsgi(_make_environ(request, body), start_response)
        try:
            content = b"".join(pieces)
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        status, headers = begun
        return Answer(status, headers, self.worker_settings().version), content

    def close(self) -> None:
        """Do nothing: all this ends with the process."""


def _make_environ(request: Request, body: Any) -> dict[str, Any]:
    """Return the environment of WSGI (PEP 3333) for a request."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_wsgi_str(request.path),
        "QUERY_STRING": request.query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": request.server[0],
        "SERVER_PORT": str(request.server[1]),
        "REMOTE_ADDR": request.caller.address,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        CALLER: request.caller,
        PEER: lambda: request.peer,
    }
    for name, value in request.headers:
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
            value = f"{environ[key]},{value}" if key in environ else value
        environ[key] = value
    return environ
