"""An amphora to test: an agent, the controller's side of it, and one namespace with everything in.

VIPs, members and clients share the namespace's loopback interface. How traffic reaches an amphora
is tested elsewhere; here it only has to be real.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import socket
import ssl
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amphora_agent.client.v2 import AmphoraClient
from lab import processes
from lab.agent import AgentProcess
from lab.heartbeats import HeartbeatReceiver
from lab.http import Client, Tls, start_tls
from lab.listeners import (
    HealthMonitor,
    Listener,
    ListenerKind,
    http_listener,
)
from lab.load import Load
from lab.network import Namespace
from lab.processes import Process
from tests.builders.pushed import PushedBalancer

VIP = "127.0.0.1"
WEB_PORTS = (8001, 8002)

#: What the controller takes for an error; it takes every other status for success.
ERRORS_UNDERSTOOD = frozenset({400, 401, 403, 404, 405, 409, 500, 503})

_ports = itertools.count(10001)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Amphora:
    agent: AgentProcess
    api: AmphoraClient
    heartbeats: HeartbeatReceiver
    namespace: Namespace
    patience: float = 30
    """Seconds for an answer."""

    def new_balancer(self, **options: Any) -> LoadBalancer:
        """A load balancer that does not exist yet, on a port of its own."""
        return LoadBalancer(self, next(_ports), **options)

    # One request each, as raw as it has to be

    def connect(self, tls: Tls | None = None, *, timeout: float = 30) -> ssl.SSLSocket:
        """A TLS connection as the controller, or as `tls` says."""
        tls = tls or self.agent.tls
        raw = socket.create_connection(("127.0.0.1", self.agent.port), timeout)
        return start_tls(raw, tls.context(), tls.server_name)

    def send(self, data: bytes) -> Answer:
        """Send exactly these bytes and read one answer."""
        with self.connect(timeout=self.patience) as connection:
            connection.sendall(data)
            return read_answer(connection)

    def send_all(self, data: bytes) -> Answer:
        """Send these bytes, say that they are all, and read what there is in answer.

        An SSLSocket cannot do that: it ends both directions at once.
        """
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.agent.tls
        end = tls.context().wrap_bio(received, to_send, server_hostname=tls.server_name)
        with socket.create_connection(("127.0.0.1", self.agent.port), 30) as raw:

            def run(step: Callable[[], object]) -> bytes:
                while True:
                    try:
                        result = step()
                    except ssl.SSLWantReadError:
                        raw.sendall(to_send.read())
                        piece = raw.recv(65536)
                        if piece:
                            received.write(piece)
                        else:
                            received.write_eof()
                        continue
                    except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                        return b""
                    raw.sendall(to_send.read())
                    return result if isinstance(result, bytes) else b""

            run(end.do_handshake)
            run(lambda: end.write(data))
            with contextlib.suppress(ssl.SSLWantReadError):
                end.unwrap()
            raw.sendall(to_send.read())
            answer = b""
            while piece := run(lambda: end.read(65536)):
                answer += piece
        return read_answer(_Received(answer))

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request whose target is sent as it is written."""
        return self.send(request_bytes(method, target, body, headers))

    # What there is

    def files(self) -> dict[str, tuple[str, str]]:
        """Every file of the agent by its path, as (mode, digest), and every directory.

        Left out is what changes by itself: logs, the record, sockets, what heartbeats remember, and
        contents that are removed after the answer. References to revisions have what they name.
        """
        top = self.agent.directory
        found = {}
        for path in walk(top):
            if "journal" in path.parts or path.name == "heartbeat-counters":
                continue
            if path.suffix == ".log" or {"heartbeat", "final-counters"} & set(path.parts):
                continue
            with contextlib.suppress(FileNotFoundError):  # it was there a moment ago
                mode = path.lstat().st_mode
                if path.parent.name == "revisions" and stat.S_ISREG(mode):
                    continue
                if stat.S_ISSOCK(mode):
                    continue
                digest = ""
                if stat.S_ISREG(mode):
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                elif stat.S_ISLNK(mode):
                    digest = str(path.readlink())
                found[str(path.relative_to(top))] = (stat.filemode(mode), digest)
        return found

    def haproxies(self) -> list[Process]:
        """haproxy's processes, masters and workers."""
        return self.agent.services()

    def agents(self) -> dict[str, Process]:
        """The agent's processes: "main", "api" (who holds the port besides) and "heartbeat"; and
        "services" where "api" is not root's."""
        main = Process.of(self.agent.pid)
        assert main is not None
        children = [p for p in self.agent.processes() if p.parent == main.pid]
        services = [p for p in children if _holds(p, _find_channels())]
        api = [p for p in children if p not in services and _listens(p, self.agent.port)]
        heartbeat = [p for p in children if p not in (*api, *services)]
        assert len(api) == len(heartbeat) == 1, (api, heartbeat, services)
        found = {"main": main, "api": api[0], "heartbeat": heartbeat[0]}
        return found | ({"services": services[0]} if services else {})


@dataclass
class LoadBalancer(PushedBalancer):
    """One load balancer with an HTTP listener on `port` and the two web servers as members."""

    vip = VIP

    amphora: Amphora
    port: int
    monitor: HealthMonitor | None = None
    kind: ListenerKind = "HTTP"
    crt_list: str = ""

    @property
    def listener(self) -> Listener:
        return http_listener(
            f"{self.id} listener",
            port=self.port,
            members=[(VIP, port) for port in WEB_PORTS],
            monitor=self.monitor,
            kind=self.kind,
            crt_list=self.crt_list,
        )

    def text(self, *more: Listener) -> str:
        """Return a configuration that differs from the one before in a way that needs a reload."""
        return super().text(self.listener, *more)

    def client(self, *, keep_alive: bool = False, **options: Any) -> Client:
        return Client(self.amphora.namespace, VIP, self.port, keep_alive=keep_alive, **options)

    def load(self, *, clients: int = 2, keep_alive: bool = False) -> Load:
        return Load(lambda: self.client(keep_alive=keep_alive), clients=clients)

    def get(self, path: str = "/") -> str:
        """Which web server answered."""
        with self.client() as client:
            response = client.get(path)
        assert response.status == 200, response.text
        return str(response.json()["name"])

    def accepts(self) -> bool:
        """Whether anybody listens at the VIP."""
        try:
            self.amphora.namespace.connect(VIP, self.port).close()
        except ConnectionRefusedError:
            return False
        return True

    def processes(self) -> list[Process]:
        """haproxy's processes of this load balancer, the master first."""
        found = [p for p in processes.mentioning(self.directory) if p.program == "haproxy"]
        masters = {process.pid for process in found}
        return sorted(found, key=lambda process: (process.parent in masters, process))

    @property
    def master(self) -> Process:
        return self.processes()[0]


def request_bytes(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """A request with a right Content-Length, unless `headers` has another."""
    all_headers = {"Host": "amphora", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in all_headers.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


class _Received:
    """Bytes, read like a connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_answer(connection: Any, method: str = "GET") -> Answer:
    """The next answer on a connection."""
    with contextlib.closing(http.client.HTTPResponse(connection, method=method)) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def with_setting(config: str, key: str, value: str) -> str:
    """An agent configuration in which one key has another value."""
    changed, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", config)
    assert count == 1, f"{key} is there {count} times"
    return changed


def damage(balancer: LoadBalancer) -> None:
    """Have haproxy not start again, by what no upload would do: the configuration is nonsense, and
    so is what the agent would put in its place."""
    digest = hashlib.sha256(balancer.configuration.read_bytes()).hexdigest()
    for path in (balancer.directory / "revisions" / digest, balancer.configuration):
        path.chmod(0o600)
        path.write_text("frontend broken\n    nonsense here\n")


def walk(top: Path) -> list[Path]:
    """All that is below a directory, sorted; what goes meanwhile may be left out."""
    return sorted(
        Path(directory, name)
        for directory, directories, files in os.walk(top)
        for name in (*directories, *files)
    )


def differences(
    before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]
) -> set[str]:
    """The names that came, went or changed."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@contextmanager
def stopped(targets: Sequence[Process], stop: Any, go_on: Any) -> Iterator[None]:
    """Processes that do nothing meanwhile."""
    for process in targets:
        process.send(stop)
    try:
        yield
    finally:
        for process in targets:
            process.send(go_on)


@contextmanager
def taken(balancer: LoadBalancer) -> Iterator[None]:
    """Somebody else listens at its port."""
    with balancer.amphora.namespace.make_socket(VIP) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((VIP, balancer.port))
        other.listen()
        yield


def _find_channels() -> set[str]:
    """The sockets without a file at which a process listens."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    listening = [row for row in rows if int(row[3], 16) & 0x10000]
    return {f"socket:[{row[6]}]" for row in listening if row[7:] and row[7].startswith("@")}


def _listens(process: Process, port: int) -> bool:
    """Whether a process holds a socket that listens on a TCP port (of this namespace)."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{columns[9]}]")
    return _holds(process, inodes)


def _holds(process: Process, inodes: Collection[str]) -> bool:
    try:
        descriptors = list(Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()) in inodes:
                return True
        except OSError:
            continue
    return False
