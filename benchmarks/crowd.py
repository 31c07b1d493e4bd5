"""What a crowd of slow clients, and many large texts at once, cost whoever else comes.

One run has the idle agent, the same with a crowd of clients that take nothing of a large answer
and of uploads that stall, and many large texts at once. What others wait for is told as a ratio to
its idle median; a beat is late by what its gap exceeds the interval. "uploads in memory" is what
the agent's processes have grown by while they came, so it is an upper bound.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.memory import MIB, pss
from benchmarks.report import Column, Section, median, milliseconds, seconds
from benchmarks.scale import Scale
from benchmarks.testbed import VIP, Testbed, make_testbed
from lab.http import Client
from lab.listeners import http_listener, loadbalancer
from lab.network import Namespace
from lab.pki import Authority
from lab.processes import PROC

_COLUMNS = (
    Column("when", "when"),
    Column("there", "connections at its end"),
    Column("info_ms", "info, ms", 1),
    Column("info_ratio", "to idle", 2),
    Column("certificate_ms", "certificate, ms", 1),
    Column("certificate_ratio", "to idle", 2),
    Column("text_ms", "text, ms", 1),
    Column("text_ratio", "to idle", 2),
    Column("pss_mib", "agent's PSS, MiB", 1),
    Column("memory_mib", "uploads in memory, MiB", 1),
    Column("disk_mib", "on disk, MiB", 1),
    Column("late", "latest beat, of an interval", 2),
    Column("statuses", "answers"),
)

#: Seconds between two looks at memory.
_LOOK = 0.1
#: Bytes that are sent at once.
_PIECE = 64 << 10

#: Of a socket in proc(5) net/tcp.
_ESTABLISHED = "01"


def measure(haproxy: Path, scale: Scale) -> Section:
    with make_testbed(haproxy, heartbeat_interval=scale.crowd_interval) as bed:
        rows = _Crowd(bed, scale).rows()
        rows.append(_large_texts(bed, scale))
    return Section(
        "crowd",
        "Who comes beside slow clients and large texts (medians)",
        _COLUMNS,
        tuple(rows),
        notes=(
            f"the crowd: {scale.crowd} clients that take nothing of an answer of "
            f"{scale.crowd_answer / 1e6:.0f} MB,",
            f"{scale.crowd} uploads that send {_mib(scale.crowd_sent):.1f} MiB and stall; "
            f"full: they send {_mib(scale.crowd_most):.1f} MiB",
            f"certificate, text: uploads of 1 kB; PSS: the most that was seen each {_LOOK} s",
        ),
    )


class _Watch:
    """Looks at memory and heartbeats until it is ended."""

    def __init__(self, bed: Testbed, interval: int) -> None:
        self._bed = bed
        self._interval = interval
        self._end = threading.Event()
        self._agents = bed.agent.processes()
        self._beats: list[float] = []
        self.most = 0.0
        looks = self._look_at_memory, self._look_at_beats
        self._threads = [threading.Thread(target=look, daemon=True) for look in looks]

    def __enter__(self) -> _Watch:
        self._bed.health_manager.drain()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The next beat is awaited: the latest may be the one that has not come."""
        known = len(self._beats)
        deadline = time.monotonic() + 60
        while len(self._beats) < max(2, known + 1) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _look_at_memory(self) -> None:
        while not self._end.wait(_LOOK):
            self.most = max(self.most, self.memory())

    def _look_at_beats(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                self._beats.append(self._bed.health_manager.next(timeout=_LOOK).received)

    def memory(self) -> float:
        """MiB of all processes of the agent now."""
        return sum(map(pss, self._agents))

    def late(self) -> float:
        """How late the latest beat was, in intervals."""
        gaps = [after - before for before, after in zip(self._beats, self._beats[1:], strict=False)]
        return max(0.0, max(gaps) / self._interval - 1)


class _Crowd:
    def __init__(self, bed: Testbed, scale: Scale) -> None:
        self._bed = bed
        self._scale = scale
        self._large, self._small, self._stalled = (str(uuid.uuid4()) for _ in range(3))
        authority = Authority.create("a tenant's CA", key="ec")
        self._certificates = [authority.issue("site", key="ec").pem for _ in range(2)]
        self._text = _small_text(bed, self._small)
        self._changes = self._there = 0

    def rows(self) -> list[dict[str, Any]]:
        bed, scale = self._bed, self._scale
        bed.controller.upload_haproxy(self._small, self._text)
        text = _small_text(bed, self._large)
        bed.controller.upload_haproxy(self._large, text + _comment(scale.crowd_answer - len(text)))
        self._ask()  # what is loaded only once
        with _Watch(bed, scale.crowd_interval) as watch:
            idle = self._ask()
        rows = [self._row("idle", idle, watch)]
        with contextlib.ExitStack() as ending:
            with _Watch(bed, scale.crowd_interval) as watch:
                readers = ending.enter_context(self._readers())
                _settle(watch)
                before = watch.memory()
                uploads = [self._begin_upload(ending) for _ in range(scale.crowd)]
                _settle(watch)
                found = self._taken(watch, before)
                crowded = self._ask()
            rows.append(self._row("with the crowd", crowded, watch) | found)
            readers.close()  # the agent is about to, and others come
            with _Watch(bed, scale.crowd_interval) as watch:
                statuses = self._send_more(uploads)
                ending.enter_context(self._readers())
                found = self._taken(watch, before) | {"statuses": _shown(statuses)}
                full = self._ask()
            rows.append(self._row("with the crowd, full", full, watch) | found)
        with _Watch(bed, scale.crowd_interval) as watch:
            _settle(watch)
            after = self._ask()
        rows.append(self._row("idle again", after, watch))
        for row in rows:
            for name in idle:
                row[f"{name}_ratio"] = row[f"{name}_ms"] / median(idle[name] + after[name])
        return rows

    @contextlib.contextmanager
    def _readers(self) -> Iterator[contextlib.ExitStack]:
        """Clients that take nothing of an answer that is there."""
        with contextlib.ExitStack() as ending:
            for waiting in [self._take_nothing(ending) for _ in range(self._scale.crowd)]:
                _has_answer(waiting, 60)
            yield ending

    def _taken(self, watch: _Watch, before: float) -> dict[str, Any]:
        return {"memory_mib": max(0.0, watch.memory() - before), "disk_mib": self._on_disk()}

    def _row(self, when: str, samples: dict[str, list[float]], watch: _Watch) -> dict[str, Any]:
        return {
            "when": when,
            "there": self._there,
            "pss_mib": watch.most,
            "late": watch.late(),
            "samples_ms": samples,
            **{f"{name}_ms": median(times) for name, times in samples.items()},
        }

    def _ask(self) -> dict[str, list[float]]:
        """The times of others' requests, in turns on one connection. Each upload is a change."""
        agent = self._bed.agent
        certificate = f"/1.0/loadbalancer/{self._small}/certificates/site.pem"
        text = f"/1.0/loadbalancer/{agent.amphora_id}/{self._small}/haproxy"
        samples: dict[str, list[float]] = {"info": [], "certificate": [], "text": []}
        with _client(self._bed) as client:
            for _ in range(self._scale.crowd_runs):
                self._changes += 1
                pem = self._certificates[self._changes % 2]
                body = f"{self._text}# change {self._changes}\n".encode()
                for name, method, path, content in (
                    ("info", "GET", "/1.0/info", b""),
                    ("certificate", "PUT", certificate, pem),
                    ("text", "PUT", text, body),
                ):
                    action = partial(_request, client, method, path, content)
                    samples[name].append(milliseconds(seconds(action)))
            self._there = _connected(agent.port)
        return samples

    def _connect(self, ending: contextlib.ExitStack) -> ssl.SSLSocket:
        agent = self._bed.agent
        raw = socket.create_connection((agent.address, agent.port), 60)
        context = agent.tls.context()
        return ending.enter_context(context.wrap_socket(raw, server_hostname=agent.amphora_id))

    def _take_nothing(self, ending: contextlib.ExitStack) -> ssl.SSLSocket:
        connection = self._connect(ending)
        connection.sendall(_head("GET", f"/1.0/loadbalancer/{self._large}/haproxy"))
        return connection

    def _begin_upload(self, ending: contextlib.ExitStack) -> ssl.SSLSocket:
        connection = self._connect(ending)
        target = f"/1.0/loadbalancer/{self._bed.agent.amphora_id}/{self._stalled}/haproxy"
        head = _head("PUT", target, self._scale.crowd_answer)
        connection.sendall(head + b"#" * self._scale.crowd_sent)
        return connection

    def _send_more(self, uploads: Sequence[ssl.SSLSocket]) -> Counter[int]:
        """Send more than there is room for; return the answers, by status."""
        statuses: Counter[int] = Counter()
        for connection in uploads:
            left = self._scale.crowd_most - self._scale.crowd_sent
            while left > 0 and not _has_answer(connection, 0):
                piece = min(left, _PIECE)
                connection.sendall(b"#" * piece)
                left -= piece
            if _has_answer(connection, 0.05):
                statuses[int(connection.recv(4096).split()[1])] += 1
        return statuses

    def _on_disk(self) -> float:
        """MiB of files without a name that the agent has open."""
        total = 0
        for process in self._bed.agent.processes():
            for link in (PROC / str(process.pid) / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    found = link.stat()
                    if str(link.readlink()).startswith("/") and not found.st_nlink:
                        total += found.st_size
        return _mib(total)


def _large_texts(bed: Testbed, scale: Scale) -> dict[str, Any]:
    """All at once, each of a load balancer of its own."""
    statuses: Counter[int] = Counter()
    ids = [str(uuid.uuid4()) for _ in range(scale.crowd_texts)]

    def upload(lb_id: str) -> None:
        text = _small_text(bed, lb_id)
        body = (text + _comment(scale.crowd_text - len(text))).encode()
        target = f"/1.0/loadbalancer/{bed.agent.amphora_id}/{lb_id}/haproxy"
        with _client(bed) as client:
            statuses[client.request("PUT", target, body=body).status] += 1

    threads = [threading.Thread(target=upload, args=(lb_id,)) for lb_id in ids]
    with _Watch(bed, scale.crowd_interval) as watch:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for lb_id in ids:
        bed.controller.delete(lb_id)
    return {
        "when": f"{scale.crowd_texts} texts of {scale.crowd_text / 1e6:.0f} MB at once",
        "pss_mib": watch.most,
        "late": watch.late(),
        "statuses": _shown(statuses),
    }


def _small_text(bed: Testbed, lb_id: str) -> str:
    listener = http_listener(f"{lb_id} listener", port=80, members=[(VIP, 8080)])
    return loadbalancer(lb_id, vip=VIP, listeners=[listener], base_path=str(bed.agent.base_path))


def _comment(size: int) -> str:
    line = "# a comment of a text that is as long as the longest\n"
    return line * max(0, size // len(line))


@contextlib.contextmanager
def _client(bed: Testbed) -> Iterator[Client]:
    agent = bed.agent
    with Client(
        Namespace(None),
        agent.address,
        agent.port,
        tls=agent.tls,
        host=agent.amphora_id,
        timeout=300,
    ) as client:
        yield client


def _request(client: Client, method: str, path: str, body: bytes) -> None:
    response = client.request(method, path, body=body)
    if response.status not in (200, 202):
        raise RuntimeError(f"{method} {path} answers {response.status}: {response.text}")


def _head(method: str, target: str, length: int = 0) -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\nHost: amphora\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def _has_answer(connection: ssl.SSLSocket, patience: float) -> bool:
    return bool(connection.pending() or select.select([connection], [], [], patience)[0])


def _connected(port: int) -> int:
    """Connections to a port of this machine."""
    rows = [line.split() for line in (PROC / "net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows)


def _settle(watch: _Watch) -> None:
    """Until memory stays as it is."""
    before, now = 0.0, watch.memory()
    while abs(now - before) > 0.1:
        time.sleep(5 * _LOOK)
        before, now = now, watch.memory()


def _shown(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} of {status}" for status, count in sorted(statuses.items()))


def _mib(size: float) -> float:
    return size / MIB
