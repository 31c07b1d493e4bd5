"""An agent of one's own: configuration written, process started, API awaited, everything ended.

Everything that it keeps is below one directory, so that several agents live side by side.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import processes
from lab.cleanup_registry import Record, delete_namespace
from lab.http import FAILURES, Response, Tls, get
from lab.lifecycle import Starting
from lab.network import Namespace, namespace_exists
from lab.pki import AmphoraPki
from lab.processes import Process

# What an agent starts and leaves running on purpose when it ends.
_SERVICES = ("haproxy", "keepalived", "dhclient")
# This one is an interpreter, too.
_PROBE = "/keepalived/probe.py"

# A Unix socket's path holds 107 bytes. haproxy binds "<base_path>/<uuid>.sock" under a temporary
# name first, with a dot, a process id and ".tmp" behind it.
_BASE_PATH_LIMIT = 107 - len("/" + "x" * 36 + ".sock" + ".4194304.tmp")

_HOST = Namespace(None)


class AgentError(RuntimeError):
    """The agent did not do what it was started for; the text ends with its log."""


class AgentProcess(Starting):
    """An agent under its embedded supervisor, reachable at ``address``:``port`` (a free one).

    ``namespace`` is the network namespace that the agent makes for its load balancers.
    ``controllers`` are heartbeat receivers (``address:port``). ``settings`` overrides or adds
    configuration: ``{"section": {"key": "value"}}``. ``options`` are more words for its command
    line; the memory limit lets controllers size TLS caches for a small machine. With
    $AMPHORA_API_USER that user has the process that speaks TLS and HTTP. ``record`` is a
    laboratory's, which then knows what to remove if this process is killed. ``place`` is the
    namespace of its management network.
    """

    def __init__(
        self,
        directory: Path,
        pki: AmphoraPki,
        *,
        namespace: str,
        controllers: Sequence[str] = (),
        heartbeat_key: str = "insecure",
        heartbeat_interval: int = 1,
        topology: str = "SINGLE",
        settings: Mapping[str, Mapping[str, str]] | None = None,
        options: Sequence[str] = ("--memory-limit", "1024"),
        environment: Mapping[str, str] | None = None,
        record: Record | None = None,
        start_timeout: float = 15,
        address: str = "127.0.0.1",
        port: int | None = None,
        place: Namespace = _HOST,
    ) -> None:
        self._place = place
        self.directory = directory.resolve()
        self.pki = pki
        self.amphora_id = pki.amphora_id
        self.namespace = namespace
        self.address = address
        self.port = port or place.inside(lambda: free_port(address))
        self.base_path = self.directory / "octavia"
        self.cert_path = self.base_path / "certs"
        self.network_path = self.directory / "interfaces"
        self.run_path = self.directory / "run"
        self.config_file = self.directory / "amphora-agent.conf"
        self.log_file = self.directory / "agent.log"
        self._controllers = list(controllers)
        self._heartbeat_key = heartbeat_key
        self._heartbeat_interval = heartbeat_interval
        self._topology = topology
        self._settings = settings or {}
        self._options = list(options)
        self._environment = dict(environment or {})
        self._record = record
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._made_namespace = not namespace_exists(namespace)
        if len(str(self.base_path)) > _BASE_PATH_LIMIT:
            raise ValueError(
                f"{self.base_path} is longer than {_BASE_PATH_LIMIT} characters: haproxy could not "
                "make its sockets there"
            )

    @property
    def url(self) -> str:
        """Where the API is; the certificate there is for the amphora id, not for this address."""
        return f"https://{self.address}:{self.port}"

    @property
    def tls(self) -> Tls:
        """What a controller needs to speak to this agent."""
        return Tls(
            server_name=self.amphora_id,
            ca=self.pki.server_authority.certificate,
            credentials=self.pki.controller,
        )

    @property
    def log(self) -> str:
        """Everything the agent has said, over all its starts."""
        try:
            return self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def running(self) -> bool:
        """Whether it was started and neither stopped nor killed since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        if self._process is None:
            raise AgentError("the agent is not running")
        return self._process.pid

    def config(self) -> str:
        """The configuration file's text."""
        sections: dict[str, dict[str, str]] = {
            "DEFAULT": {"debug": "True", "use_syslog": "False"},
            "haproxy_amphora": {
                "base_path": str(self.base_path),
                "base_cert_dir": str(self.cert_path),
                "bind_host": self.address,
                "bind_port": str(self.port),
            },
            "health_manager": {
                "controller_ip_port_list": ", ".join(self._controllers),
                "heartbeat_interval": str(self._heartbeat_interval),
                "heartbeat_key": self._heartbeat_key,
            },
            "amphora_agent": {
                "amphora_id": self.amphora_id,
                "agent_server_ca": str(self.pki.client_ca),
                "agent_server_cert": str(self.pki.server_pem),
                "agent_server_network_dir": str(self.network_path),
            },
            "controller_worker": {"loadbalancer_topology": self._topology},
        }
        for section, values in self._settings.items():
            sections.setdefault(section, {}).update(values)
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]
        return "\n".join(lines)

    def command(self) -> list[str]:
        user = os.environ.get("AMPHORA_API_USER")
        return [
            *agent_executable(),
            *("--config-file", str(self.config_file)),
            *("--supervisor", "embedded"),
            *("--netns", self.namespace),
            *("--run-dir", str(self.run_path)),
            *(("--api-user", user) if user else ()),
            *self._options,
        ]

    def start(self, *, status: int = 200) -> AgentProcess:
        """Start it and wait until it answers, with this status. An existing configuration file is
        kept, for the controller may have replaced it. Raises AgentError."""
        if self._process is not None:
            raise AgentError("the agent is running already")
        for directory in (self.directory, self.base_path, self.cert_path):
            if not directory.is_dir():  # to make one that is there would wait for a stalled disk
                directory.mkdir(parents=True, exist_ok=True)
        if not self.config_file.exists():
            self.config_file.write_text(self.config())
        if self._record is not None:
            self._record.add_workplace(self.directory)
            if self._made_namespace:
                self._record.add_namespace(self.namespace)
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                self._place.command(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                # A Ctrl-C at the terminal is for the demo, which then stops the agent in order.
                start_new_session=True,
            )
        self._await_api(status)
        return self

    def get(self, path: str, *, timeout: float = 10) -> Response:
        """One request as the controller, over a connection of its own."""
        return get(
            self._place,
            self.address,
            self.port,
            path,
            tls=self.tls,
            host=self.amphora_id,
            timeout=timeout,
        )

    def stop(self, *, timeout: float = 15) -> None:
        """SIGTERM, and wait for the end. Traffic goes on. Raises AgentError if it does not."""
        if self._process is None:
            return
        agents = self.processes()
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AgentError(f"the agent did not end within {timeout} s{self._said()}") from None
        self._process = None
        lingering = [agent.pid for agent in agents if not (agent.wait(2) or agent.waits_for_disk)]
        if lingering:
            processes.end(agent for agent in agents if agent.pid in lingering)
            raise AgentError(f"the agent ended without its processes {lingering}{self._said()}")

    def kill(self) -> None:
        """SIGKILL every process of the agent at once, and none of those that carry traffic."""
        # Once more after the first round: a process may have been born between look and kill.
        for _ in range(2):
            agents = self.processes()
            for agent in agents:
                agent.send(signal.SIGKILL)
            if self._process is not None:
                self._process.wait()
            processes.end(agents)
        self._process = None

    def restart(self) -> None:
        """Stop in order, start again."""
        self.stop()
        self.start()

    def pids(self) -> list[int]:
        """Of every process of the agent, but not of haproxy and its like."""
        return [process.pid for process in self.processes()]

    def processes(self) -> list[Process]:
        found = set(processes.mentioning(self.config_file))
        if self._process is not None:
            main = Process.of(self._process.pid)
            found |= set(processes.descendants(self._process.pid))
            # A child whose parent has died is nobody's descendant, but still of the session.
            found |= {p for p in processes.running() if p.session == self._process.pid}
            found |= {main} if main else set()
        return sorted(p for p in found if not _is_service(p) and not _is_check(p))

    def services(self) -> list[Process]:
        """The processes that carry traffic: detached from the agent, they survive it."""
        mentioned = processes.mentioning(self.directory)
        return sorted(process for process in mentioned if _is_service(process))

    def close(self) -> None:
        """End the agent and all that it started, delete the namespace if it was not there before.

        The files stay, for whoever wants to look. May be called again.
        """
        # Coverage is written by a process that ends in order.
        if "COVERAGE_DATA" in os.environ:
            with contextlib.suppress(AgentError):
                self.stop()
        self.kill()
        processes.end(self.services())
        if self._made_namespace:
            delete_namespace(self.namespace)

    def _await_api(self, status: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout
        last: object = "nothing was tried"
        while time.monotonic() < deadline:
            try:
                response = self.get("/1.0/info", timeout=2)
            except FAILURES as error:
                last = f"{type(error).__name__}: {error}"
            else:
                if response.status == status:
                    return
                last = f"{response.status} {response.text}"
            try:
                # Its death is what is waited for; that nothing happens for a moment is the pace.
                code = self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            self._process = None
            raise AgentError(f"the agent ended with exit code {code}{self._said()}")
        raise AgentError(
            f"the API did not answer within {self._start_timeout} s (last: {last}){self._said()}"
        )

    def _said(self, lines: int = 60) -> str:
        tail = self.log.splitlines()[-lines:]
        return "\n--- the agent's log ---\n" + "\n".join(tail) if tail else "; its log is empty"


def _is_service(process: Process) -> bool:
    if process.program in _SERVICES:
        return True
    return any(word.endswith(_PROBE) for word in process.arguments)


def _is_check(process: Process) -> bool:
    """Whether a process ends by itself: it examines a certificate."""
    return any(word.endswith("_check") for word in process.arguments)


def agent_executable() -> list[str]:
    """The command ``amphora-agent``: $AMPHORA_AGENT, or beside this Python, or on the PATH."""
    chosen = os.environ.get("AMPHORA_AGENT")
    if chosen:
        return [chosen]
    beside = Path(sys.executable).parent / "amphora-agent"
    if beside.exists():
        return [str(beside)]
    found = shutil.which("amphora-agent")
    if found is None:
        raise AgentError("the command amphora-agent is not installed (pip install -e .)")
    return [found]


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
