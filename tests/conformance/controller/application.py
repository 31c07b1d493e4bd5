"""A member that tells what a load balancer said to it: its checks, its TLS, its PROXY header."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from lab.backend import ProxyHeader, read_proxy_header
from lab.network import Namespace

#: Requests below this path are health checks.
CHECKED = "/check"

#: Of the PROXY protocol's specification, 2.2.
_PP2_TYPE_SSL = 0x20


class Application:
    """Answers everything with 200, and checks with `check_status`, after `check_delay` seconds.

    `cookie` is the name of a session cookie that it gives to clients who have none.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        address: str,
        port: int,
        *,
        tls: Path | None = None,
        check_status: int = 200,
        check_delay: float = 0,
        cookie: str = "",
        proxy: bool = False,
    ) -> None:
        self.name = name
        self.at = (address, port)
        self.first_status = self.check_status = check_status
        self.check_delay = check_delay
        self.cookie = cookie
        self.proxy = proxy
        self.sessions = 0
        self.checks: Counter[str] = Counter()
        self.ended = threading.Event()
        self._server = namespace.inside(lambda: _Server(self.at, self, tls))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def begin_again(self, check_status: int | None = None) -> None:
        """Forget checks, and answer them with the first status or another one."""
        self.check_status = self.first_status if check_status is None else check_status
        self.checks.clear()

    def heard(self) -> str:
        """The checks that came, each kind once."""
        return ", ".join(sorted(self.checks))

    def at_least(self, checks: int) -> str:
        """Whether so many checks have come."""
        came = self.checks.total()
        return f"at least {checks}" if came >= checks else f"only {came}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, at: tuple[str, int], application: Application, tls: Path | None) -> None:
        self.application = application
        self.context: ssl.SSLContext | None = None
        if tls is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls)
            self.context.set_alpn_protocols(["http/1.1"])
            self.context.sni_callback = _remember_sni
        super().__init__(at, _Handler)

    def server_bind(self) -> None:
        # Not the inherited one, which looks for its own host's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "member", self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        header, records = None, ()
        if self.application.proxy:
            records = _records(request.recv(1024, socket.MSG_PEEK))
            header = read_proxy_header(request)
        if self.context is not None:
            request = self.context.wrap_socket(request, server_side=True)
        _Handler(request, client_address, self, header, records)
        if self.context is not None:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Checks leave early, and clients that like no certificate: that is no error here."""


def _records(start: bytes) -> tuple[int, ...]:
    """The types of what a PROXY header of version 2 for IPv4 has beside addresses."""
    if not start.startswith(b"\r\n\r\n\x00\r\nQUIT\n"):
        return ()
    length = int.from_bytes(start[14:16], "big")
    rest = start[16 + 12 : 16 + length]
    types = []
    while rest:
        types.append(rest[0])
        rest = rest[3 + int.from_bytes(rest[1:3], "big") :]
    return tuple(types)


def _remember_sni(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
    connection.asked_for = name


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def __init__(
        self,
        request: Any,
        client: Any,
        server: _Server,
        header: ProxyHeader | None,
        records: tuple[int, ...],
    ) -> None:
        self.header, self.records = header, records
        super().__init__(request, client, server)

    def do_GET(self) -> None:
        application = self.server.application
        if not self.path.startswith(CHECKED):
            self._answer(200, self._facts())
            return
        host = self.headers.get("Host")
        application.checks[f"{self.command} {self.path} {self.request_version} Host={host}"] += 1
        status = application.check_status
        application.ended.wait(application.check_delay)
        self._answer(status, {})

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_TRACE = do_CONNECT = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "name": self.server.application.name,
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        if self.header:
            facts |= {"proxy": self.header.version, "tells_tls": _PP2_TYPE_SSL in self.records}
        if isinstance(self.connection, ssl.SSLSocket):
            facts |= {
                "tls_version": self.connection.version(),
                "alpn": self.connection.selected_alpn_protocol(),
                "cipher": (self.connection.cipher() or ("",))[0],
                "sni": getattr(self.connection, "asked_for", None),
            }
        return facts

    def _answer(self, status: int, facts: dict[str, Any]) -> None:
        application = self.server.application
        body = json.dumps(facts).encode()
        self.send_response(status)
        if application.cookie and application.cookie not in self.headers.get("Cookie", ""):
            application.sessions += 1
            given = f"{application.name}-{application.sessions}"
            self.send_header("Set-Cookie", f"{application.cookie}={given}; path=/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
