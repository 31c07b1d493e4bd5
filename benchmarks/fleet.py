"""A load balancer's haproxy processes: one for all of its listeners, or one for each.

Configurations are rendered and processes kept alive by the agent's own code; everything else is
told to haproxy directly, so that the two models are compared, not what the agent does beside.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import psutil

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import Workers
from amphora_agent.haproxy.runtime.socket import MasterSocket
from amphora_agent.loadbalancer import render
from amphora_agent.loadbalancer.render import Places
from amphora_agent.loadbalancer.translate.certificate_files import name_file
from amphora_agent.loadbalancer.translate.to_haproxy import Backend, BackendServer, Process
from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import ListenerProtocol, LoadBalancer, Pool
from amphora_agent.model.responses import ProcessModel
from amphora_agent.supervisor.contract import Mark, ProcessSpec
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from lab import rendered
from lab.network import Namespace
from lab.pki import Credentials
from tests.builders import bodies

VIP = "127.0.0.1"
#: Where members answer requests, and where they answer health checks.
MEMBER_PORT, CHECK_PORT = 8080, 8081

#: Seconds between the checks of a member.
CHECK_DELAY = 5

_FIRST_PORT = 10001
#: Of ten listeners so many share one pool; one of five is TERMINATED_HTTPS, neither the
#: first nor the last.
_TEN, _SHARING, _ENCRYPTED = 10, 5, 5
#: Connections that all listeners together may have, and one at most: haproxy wants two and a half
#: descriptors for each.
_CONNECTIONS, _CONNECTIONS_EACH = 7000, 1000

_PATIENCE = 15.0
_PAUSE = 0.002
#: Processes that are started or reloaded at the same time.
_ABREAST = os.cpu_count() or 1


@dataclass(frozen=True)
class Site:
    """A load balancer of many listeners. Those of each ten that share a pool are the first; where
    there is one listener, its pool is shared by none."""

    balancer: LoadBalancer
    ports: tuple[int, ...]
    encrypted: tuple[int, ...]
    own_pool: str
    shared_pool: str

    @classmethod
    def of(cls, listeners: int, members: int) -> Site:
        pool_ids = [f"pool-{n - n % _TEN if n % _TEN < _SHARING else n}" for n in range(listeners)]
        encrypted = [n for n in range(listeners) if n % _ENCRYPTED == _ENCRYPTED - 2]
        limit = min(_CONNECTIONS_EACH, _CONNECTIONS // listeners)
        body = bodies.balancer(
            *(
                _listener(n, pool_ids[n], encrypted=n in encrypted) | {"connection_limit": limit}
                for n in range(listeners)
            ),
            pools=tuple(_pool(pool_id, members) for pool_id in dict.fromkeys(pool_ids)),
            loadbalancer_id="loadbalancer",
            vip_address=VIP,
        )
        return cls(
            bodies.decoded(body),
            tuple(_FIRST_PORT + n for n in range(listeners)),
            tuple(_FIRST_PORT + n for n in encrypted),
            own_pool=pool_ids[-1],
            shared_pool=pool_ids[0],
        )

    def with_another_member(self, pool_id: str) -> Site:
        pools = self.balancer.pools
        assert pools is not None
        number = [pool.pool_id for pool in pools].index(pool_id)
        count = len(pools[number].members or ())
        grown = decode(msgspec.json.encode(_pool(pool_id, count + 1)), Pool)
        changed = (*pools[:number], grown, *pools[number + 1 :])
        return replace(self, balancer=msgspec.structs.replace(self.balancer, pools=changed))

    def plain_port(self, listener_ids: Sequence[str]) -> int:
        """Where one of these listeners is that is not encrypted."""
        return next(
            listener.protocol_port
            for listener in self.balancer.listeners or ()
            if listener.listener_id in listener_ids and listener.protocol is ListenerProtocol.HTTP
        )

    def processes(self, model: ProcessModel) -> tuple[Process, ...]:
        if model is ProcessModel.LOADBALANCER:
            return (rendered.translate_whole(self.balancer),)
        return tuple(rendered.translate_each(self.balancer))


def _listener(number: int, pool_id: str, *, encrypted: bool) -> dict[str, Any]:
    return bodies.listener(
        "TERMINATED_HTTPS" if encrypted else "HTTP",
        f"listener-{number}",
        default_tls_container_ref="site" if encrypted else None,
        protocol_port=_FIRST_PORT + number,
        default_pool_id=pool_id,
        insert_headers={"X-Forwarded-For": "true"},
    )


def _pool(pool_id: str, members: int) -> dict[str, Any]:
    return bodies.pool(
        name=pool_id,
        members=[
            bodies.member(
                f"member-{n}",
                address=f"127.0.{1 + n // 250}.{1 + n % 250}",
                protocol_port=MEMBER_PORT,
                monitor_port=CHECK_PORT,
            )
            for n in range(members)
        ],
        healthmonitor=bodies.monitor(
            healthmonitor_id=f"monitor-of-{pool_id}", delay=CHECK_DELAY, timeout=3, max_retries=2
        ),
    )


class Instance:
    """One haproxy: a master, its worker, and its files."""

    def __init__(
        self,
        process: Process,
        directory: Path,
        certificates: Path,
        program: Path,
        name: str,
    ) -> None:
        self.listeners = tuple(frontend.id for frontend in process.frontends)
        self.pools = frozenset(backend.pool_id for backend in process.backends)
        self._configuration = directory / "configuration"
        self._configuration.mkdir(parents=True)
        self._program = program
        self._places = Places(
            loadbalancer_id="loadbalancer",
            project_id="project",
            configuration=str(self._configuration),
            certificates=str(certificates),
            stats_socket=str(directory / "stats"),
            state_file=str(directory / "state"),
            ping_wrapper="",
            # Nobody reads it: what haproxy does for it is done all the same.
            log=str(directory / "log"),
            user="nobody",
            group="nogroup",
            hard_stop_after="1h",
            max_reloads=5,
            first_check=100,
            namespace="",
            udp_check="",
        )
        self.name = name
        self.socket = MasterSocket(directory / "master")

    def write(self, process: Process) -> None:
        """Write the files."""
        for name, text in rendered.render(process, self._places).items():
            (self._configuration / name).write_text(text)

    def write_pool(self, backends: Sequence[Backend]) -> None:
        """Write the file of the pool that these backends are."""
        text = render.render_pool(backends, self._places).made()
        (self._configuration / f"pool-{backends[0].pool_id}.cfg").write_text(text)

    def specification(self, namespace: Path) -> ProcessSpec:
        command = (
            *(str(self._program), "-W", "-db", "-S", f"{self.socket.path},mode,600"),
            *("-f", f"{self._configuration}/", "-L", self.name),
        )
        return ProcessSpec(self.name, self.name, "", command, namespace)

    def check(self, namespace: Namespace) -> None:
        """`haproxy -c` of the files."""
        namespace.run([str(self._program), "-c", "-f", f"{self._configuration}/"])

    def workers(self) -> Workers:
        return replies.read_workers(self.socket.command("show proc", timeout=_PATIENCE))

    def worker(self) -> int:
        pid = self.workers().current
        assert pid is not None
        return pid

    def master(self) -> int:
        return psutil.Process(self.worker()).ppid()

    def command(self, text: str) -> str:
        """Said to the worker."""
        return self.socket.command(f"@!{self.worker()} {text}", timeout=_PATIENCE)

    def reload(self) -> None:
        """Return when a new worker answers."""
        before = self.worker()
        with contextlib.suppress(OperationFailed):  # haproxy 2.6 hangs up at once
            self.socket.command("reload", timeout=_PATIENCE)
        self.await_worker(before)

    def await_worker(self, before: int | None = None) -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                found = self.workers()
                if found.failed:
                    raise RuntimeError(f"{self.name}: the reload failed")
                if found.current is not None and found.current != before:
                    self.socket.command(f"@!{found.current} show version", timeout=_PATIENCE)
                    return
            except OperationFailed:
                pass  # not yet there, or executing itself anew
            time.sleep(_PAUSE)
        raise TimeoutError(f"{self.name}: no new worker within {_PATIENCE:g} s")


class Fleet:
    """All haproxies of a site. `supervisor` keeps them alive from `start` to the end."""

    def __init__(
        self,
        site: Site,
        model: ProcessModel,
        *,
        credentials: Credentials,
        program: Path,
        directory: Path,
        namespace: Namespace,
        supervisor: EmbeddedSupervisor,
    ) -> None:
        self.site = site
        self.model = model
        self._namespace = namespace
        self._supervisor = supervisor
        self._certificates = directory / "certificates"
        self._certificates.mkdir(parents=True)
        for listener in site.balancer.listeners or ():
            if listener.default_tls_container_ref:
                self._write_certificate(listener.listener_id, credentials)
        self.instances = []
        for number, process in enumerate(site.processes(model)):
            instance = Instance(
                process,
                directory / str(number),
                self._certificates,
                program,
                f"{directory.name}-{number}",
            )
            instance.write(process)
            self.instances.append(instance)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        _abreast(lambda each: self._supervisor.forget(each.name), self.instances)

    def start(self) -> None:
        """Return when all serve."""

        def start(instance: Instance) -> None:
            self._supervisor.start(instance.specification(self._namespace.path))
            try:
                instance.await_worker()
            except TimeoutError as error:
                said = self._supervisor.output(instance.name, Mark(0))
                raise RuntimeError(f"{instance.name} has not come up: {said}") from error

        _abreast(start, self.instances)

    def reload(self) -> None:
        _abreast(Instance.reload, self.instances)

    def having(self, pool_id: str) -> list[Instance]:
        return [instance for instance in self.instances if pool_id in instance.pools]

    def add_by_reload(self, pool_id: str, server: BackendServer) -> None:
        """Let haproxy load the files that have it, one after the other."""
        for instance in self.having(pool_id):
            instance.reload()

    def has(self, pool_id: str, server: BackendServer) -> bool:
        """Whether all of them know the member."""
        return all(
            f" {server.id} " in instance.command(f"show servers state {pool_id}")
            for instance in self.having(pool_id)
        )

    def add_to_files(self, pool_id: str) -> BackendServer:
        """Write one member more into a pool; answer with it."""
        self.site = self.site.with_another_member(pool_id)
        for process, instance in zip(self.site.processes(self.model), self.instances, strict=True):
            if pool_id in instance.pools:
                backends = [each for each in process.backends if each.pool_id == pool_id]
                instance.write_pool(backends)
        return backends[0].servers[-1]

    def add_by_command(self, pool_id: str, server: BackendServer) -> None:
        """Add a member while haproxy runs."""
        name = f"{pool_id}/{server.id}"
        options = f"weight {server.weight} check inter {CHECK_DELAY}s port {server.check_port}"
        for instance in self.having(pool_id):
            instance.command(f"add server {name} {server.address} {options}")
            instance.command(f"enable health {name}")
            instance.command(f"enable server {name}")

    def check(self, pool_id: str) -> None:
        """`haproxy -c` of all that has a pool."""
        for instance in self.having(pool_id):
            instance.check(self._namespace)

    def pids(self) -> list[int]:
        """Of masters and their workers."""
        found = []
        for instance in self.instances:
            said = instance.workers()
            workers = [said.current, *said.leaving]
            found += [instance.master(), *(pid for pid in workers if pid is not None)]
        return found

    def pss(self) -> float:
        """MiB, of all processes."""
        return sum(pss(pid) for pid in self.pids())

    def _write_certificate(self, listener_id: str, credentials: Credentials) -> None:
        certificate = self._certificates / name_file(listener_id, "default")
        certificate.write_bytes(credentials.pem)
        listed = self._certificates / name_file(listener_id)
        listed.write_text(f"{certificate}\n")


def pss(pid: int) -> float:
    """MiB that a process has for itself, with its share of what it shares."""
    return float(psutil.Process(pid).memory_full_info().pss) / (1 << 20)


def cpu_seconds(pids: Iterable[int]) -> float:
    """What processes have used so far, to the nanosecond (proc(5), schedstat)."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for pid in pids
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


def _abreast(action: Callable[[Instance], None], instances: Sequence[Instance]) -> None:
    with ThreadPoolExecutor(_ABREAST) as threads:
        for _ in threads.map(action, instances):
            pass
