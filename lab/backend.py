"""A small web or TCP server that plays a member of a pool, and the handle to run one.

As a program (``python -m lab.backend --name web1 --bind 10.1.0.11:80``) it prints one line of JSON,
``{"ready": …}``, once it listens. With ``--control`` it answers commands on its standard input and
ends when that closes, so that it never outlives a parent that was killed.

HTTP answers are JSON: who served it, and everything it saw of the request. Special paths:

* ``/health``: the status that was set for it (200), not counted as a request;
* ``/slow?seconds=2``: answers after so long;
* ``/stream?seconds=2``: a body that arrives piece by piece during so long.

TCP mode is a line protocol: its name first, then each line comes back. With ``--proxy`` a PROXY
header, version 1 or 2, must come first on each connection, and what it said is in the answer.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import ipaddress
import json
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from lab.lifecycle import Closing
from lab.network import Namespace

Mode = Literal["http", "tcp"]
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Counts:
    """What a backend has seen since it started."""

    connections: int
    requests: int
    """HTTP requests without health checks, or lines in TCP mode."""
    health: int


class Backend(Closing):
    """A backend that runs in a namespace.

    ``binds`` are ``address:port`` or ``[address]:port``. ``tls`` is a file with certificate and
    key, ``client_ca`` one with the authority whose certificates clients must have.
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        binds: Sequence[str],
        *,
        mode: Mode = "http",
        status: int = 200,
        proxy: bool = False,
        tls: Path | None = None,
        client_ca: Path | None = None,
    ) -> None:
        self.name = name
        arguments = [sys.executable, "-m", "lab.backend", "--control", "--name", name]
        arguments += ["--mode", mode, "--status", str(status)]
        for bind in binds:
            arguments += ["--bind", bind]
        if proxy:
            arguments.append("--proxy")
        if tls is not None:
            arguments += ["--tls", str(tls)]
        if client_ca is not None:
            arguments += ["--client-ca", str(client_ca)]
        self._lock = threading.Lock()
        self._process = namespace.popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
        )
        try:
            self._read("ready")
        except BaseException:  # also Ctrl-C: nothing that was started may stay
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def counts(self) -> Counts:
        return Counts(**self._ask("counts"))

    @property
    def requests(self) -> int:
        """How many requests it served, health checks not counted."""
        return self.counts.requests

    def set_health(self, status: int) -> None:
        """What ``/health`` answers from now on."""
        self._ask(f"health {status}")

    def set_status(self, status: int) -> None:
        """What every other path answers from now on."""
        self._ask(f"status {status}")

    def close(self) -> None:
        """End it at once, connections and all. May be called again."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, command: str) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{command}\n")
            self._process.stdin.flush()
            return self._read("answer")

    def _read(self, key: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"backend {self.name} ended: exit code {self._process.wait()}")
        return json.loads(line)[key]


@dataclass(frozen=True)
class ProxyHeader:
    version: int
    source: str | None
    """``address:port``; None for LOCAL or UNKNOWN, which haproxy's own checks send."""
    destination: str | None


class BrokenProxyHeaderError(ValueError):
    pass


def read_proxy_header(connection: socket.socket) -> ProxyHeader:
    """Take a PROXY header off a connection, and not a byte more."""
    start = _receive(connection, 12)
    if start == b"\r\n\r\n\x00\r\nQUIT\n":
        return _read_version_2(connection)
    line = start
    while not line.endswith(b"\r\n"):
        if len(line) > 107:
            raise BrokenProxyHeaderError("no end of line within 107 bytes")
        line += _receive(connection, 1)
    words = line.decode("ascii", errors="replace").split()
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return ProxyHeader(1, None, None)
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
        raise BrokenProxyHeaderError(f"not a PROXY header: {line!r}")
    return ProxyHeader(1, _endpoint(words[2], int(words[4])), _endpoint(words[3], int(words[5])))


def _read_version_2(connection: socket.socket) -> ProxyHeader:
    version_command, family, length = struct.unpack("!BBH", _receive(connection, 4))
    body = _receive(connection, length)
    if version_command >> 4 != 2:
        raise BrokenProxyHeaderError(f"version {version_command >> 4}")
    size = {1: 4, 2: 16}.get(family >> 4)
    if version_command & 0xF == 0 or size is None:
        return ProxyHeader(2, None, None)
    source, destination = body[:size], body[size : 2 * size]
    ports = struct.unpack("!HH", body[2 * size : 2 * size + 4])
    return ProxyHeader(
        2,
        _endpoint(str(ipaddress.ip_address(source)), ports[0]),
        _endpoint(str(ipaddress.ip_address(destination)), ports[1]),
    )


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise BrokenProxyHeaderError(f"connection closed after {data!r}")
        data += piece
    return data


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class _State:
    """What the threads of the program share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.name: str = arguments.name
        self.status: int = arguments.status
        self.health = 200
        self.proxy: bool = arguments.proxy
        self.tls: ssl.SSLContext | None = None
        if arguments.tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(arguments.tls)
            if arguments.client_ca:
                self.tls.load_verify_locations(arguments.client_ca)
                self.tls.verify_mode = ssl.CERT_REQUIRED
        self._lock = threading.Lock()
        self._connections = self._requests = self._health_checks = 0

    def count(self, *, connections: int = 0, requests: int = 0, health: int = 0) -> None:
        with self._lock:
            self._connections += connections
            self._requests += requests
            self._health_checks += health

    @property
    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._connections, self._requests, self._health_checks)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, bind: str, state: _State, handler: type[socketserver.BaseRequestHandler]):
        host, _, port = bind.rpartition(":")
        address = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.state = state
        super().__init__((address, int(port)), handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # In the connection's own thread: neither a PROXY header that does not come nor a slow
        # handshake may keep others waiting.
        self.state.count(connections=1)
        connection: socket.socket = request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        header: ProxyHeader | None = None
        try:
            if self.state.proxy:
                header = read_proxy_header(connection)
            if self.state.tls is not None:
                connection = self.state.tls.wrap_socket(connection, server_side=True)
        except (OSError, BrokenProxyHeaderError):
            # Health checks connect and leave; a client may refuse our certificate.
            return
        try:
            if isinstance(self.RequestHandlerClass, type):
                handler: Any = self.RequestHandlerClass
                handler(connection, client_address, self, header)
        except OSError:
            return
        finally:
            if connection is not request:
                # The TLS socket has taken the descriptor over.
                connection.close()


class _HttpHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One packet for head and body: two would meet delayed acknowledgements.
    wbufsize = -1

    def __init__(self, request: Any, client: Any, server: _Server, header: ProxyHeader | None):
        self.lab_state = server.state
        self.lab_header = header
        super().__init__(request, client, server)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if url.path == "/health":
            self.lab_state.count(health=1)
            self._answer(self.lab_state.health, b"{}\n")
            return
        self.lab_state.count(requests=1)
        seconds = float(parse_qs(url.query).get("seconds", ["1"])[0])
        if url.path == "/stream":
            self._stream(seconds)
            return
        if url.path == "/slow":
            # Slowness is what was asked for; nothing ever sets this event.
            threading.Event().wait(seconds)
        self._answer(self.lab_state.status, self._description(body))

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _description(self, body: bytes) -> bytes:
        header = self.lab_header
        connection = self.connection
        certificate = None
        if isinstance(connection, ssl.SSLSocket):
            certificate = connection.getpeercert()
        seen = {
            "name": self.lab_state.name,
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "client": _endpoint(self.client_address[0], self.client_address[1]),
            "proxy": asdict(header) if header else None,
            "tls": isinstance(connection, ssl.SSLSocket),
            "client_certificate": _common_name(certificate),
            "body_size": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest() if body else None,
        }
        return json.dumps(seen).encode() + b"\n"

    def _answer(self, status: int, body: bytes) -> None:
        self._head(status, "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, seconds: float, pieces: int = 20) -> None:
        self._head(200, "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(pieces):
            piece = f"{self.lab_state.name} {number}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            threading.Event().wait(seconds / pieces)
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Backend", self.lab_state.name)


class _LineHandler(socketserver.StreamRequestHandler):
    def __init__(self, request: Any, client: Any, server: _Server, header: ProxyHeader | None):
        self.lab_state = server.state
        self.lab_header = header
        super().__init__(request, client, server)

    def handle(self) -> None:
        source = f" {self.lab_header.source}" if self.lab_header else ""
        self.wfile.write(f"{self.lab_state.name}{source}\n".encode())
        for line in self.rfile:
            self.lab_state.count(requests=1)
            self.wfile.write(line)


def _common_name(certificate: Any) -> str | None:
    for parts in (certificate or {}).get("subject", ()):
        for name, value in parts:
            if name == "commonName":
                return str(value)
    return None


def _say(key: str, value: object) -> None:
    print(json.dumps({key: value}), flush=True)


def _obey(state: _State) -> None:
    """Answer commands until there are no more."""
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "counts":
            _say("answer", asdict(state.counts))
        elif command in ("health", "status"):
            setattr(state, command, int(argument))
            _say("answer", int(argument))
        else:
            _say("answer", f"unknown command: {command}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.backend", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--name", required=True)
    parser.add_argument("--bind", action="append", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--mode", choices=["http", "tcp"], default="http")
    parser.add_argument("--status", type=int, default=200, help="of every answer but /health")
    parser.add_argument("--proxy", action="store_true", help="expect a PROXY header")
    parser.add_argument("--tls", metavar="PEM", help="speak TLS with this certificate and key")
    parser.add_argument("--client-ca", metavar="PEM", help="require client certificates of it")
    parser.add_argument("--control", action="store_true", help="obey standard input, end with it")
    options = parser.parse_args(arguments)

    state = _State(options)
    handler = _HttpHandler if options.mode == "http" else _LineHandler
    servers = [_Server(bind, state, handler) for bind in options.bind]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    _say("ready", options.bind)
    if options.control:
        # Ctrl-C at the terminal is for the parent, who will close our standard input.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _obey(state)
    else:
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
