"""Load balancers that tests push through API 1.0, as the controller does for every change."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from amphora_agent.client.v2 import AmphoraClient
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import Workers
from amphora_agent.haproxy.runtime.socket import MasterSocket
from lab.agent import AgentProcess
from lab.listeners import TIMEOUT_CLIENT, Listener, loadbalancer


class Pushable(Protocol):
    """An agent, and the controller's client of it."""

    @property
    def agent(self) -> AgentProcess: ...

    @property
    def api(self) -> AmphoraClient: ...


@dataclass
class PushedBalancer:
    vip: ClassVar[str]

    amphora: Pushable
    id: str = field(default_factory=lambda: str(uuid.uuid4()), kw_only=True)
    version: int = field(default=0, kw_only=True)

    def text(self, *listeners: Listener) -> str:
        """Return a configuration that no runtime command could reach from the one before."""
        self.version += 1
        return loadbalancer(
            self.id,
            vip=self.vip,
            listeners=listeners,
            base_path=str(self.amphora.agent.base_path),
            timeout_client=TIMEOUT_CLIENT + self.version,
        )

    def upload(self, *listeners: Listener) -> None:
        self.amphora.api.upload_haproxy(self.id, self.text(*listeners))

    def reload(self) -> None:
        self.amphora.api.reload(self.id)

    def push(self, *listeners: Listener) -> None:
        self.upload(*listeners)
        self.reload()

    def delete(self) -> None:
        self.amphora.api.delete(self.id)

    @property
    def directory(self) -> Path:
        return self.amphora.agent.base_path / self.id

    @property
    def configuration(self) -> Path:
        return self.directory / "haproxy.cfg"

    def ask(self, command: str) -> str:
        """Return haproxy's own answer, over its master socket."""
        return MasterSocket(self.amphora.agent.run_path / f"{self.id}.master").command(
            command, timeout=5
        )

    def workers(self) -> Workers:
        return replies.read_workers(self.ask("show proc"))
