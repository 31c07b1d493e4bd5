"""Load balancers of API 2.0: bodies, and requests as a provider driver sends them."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amphora_agent.haproxy import replies
from amphora_agent.haproxy.runtime.socket import MasterSocket
from lab.http import Client
from lab.load import Load
from lab.network import Namespace
from lab.processes import Process, mentioning
from tests.builders import bodies
from tests.builders.bodies import Body
from tests.integration.amphora import VIP as WEB
from tests.integration.amphora import WEB_PORTS, Amphora, Answer

#: On the loopback interface: an address of that itself cannot be a VIP.
VIP = "192.0.2.10"

_ports = itertools.count(11001)


def new_id() -> str:
    return str(uuid.uuid4())


def member(port: int = WEB_PORTS[0], **more: Any) -> Body:
    return bodies.member(f"member-{port}") | {"address": WEB, "protocol_port": port, **more}


def monitor(**more: Any) -> Body:
    """Quick to find out."""
    quick = {"delay": 1, "timeout": 1, "max_retries": 1, "max_retries_down": 1}
    return bodies.monitor(url_path="/health") | quick | more


def pool(name: str = "pool", *members: Body, **more: Any) -> Body:
    return bodies.pool(name=name) | {"members": list(members or map(member, WEB_PORTS)), **more}


def listener(name: str, port: int, **more: Any) -> Body:
    return bodies.listener(name=name) | {"protocol_port": port, "default_pool_id": "pool", **more}


def have_vip(namespace: Namespace) -> None:
    """See that the namespace has the VIP."""
    if VIP not in namespace.ip("address", "show", "dev", "lo"):
        namespace.address("lo", f"{VIP}/32")


@dataclass
class DeclaredBalancer:
    """A load balancer with one HTTP listener and one pool; `body` is what tests change."""

    amphora: Amphora
    id: str = field(default_factory=new_id)
    port: int = field(default_factory=lambda: next(_ports))
    body: Body = field(default_factory=dict)

    def __post_init__(self) -> None:
        have_vip(self.amphora.namespace)
        self.body = self.body or bodies.balancer(
            listener(f"{self.id}-a", self.port),
            pools=(pool(),),
            loadbalancer_id=self.id,
            vip_address=VIP,
        )

    @property
    def url(self) -> str:
        return f"/2.0/loadbalancers/{self.id}"

    def put(
        self, query: str = "", headers: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Answer:
        content = json.dumps(self.body if body is None else body).encode()
        return self.amphora.request("PUT", f"{self.url}{query}", content, headers)

    def push(self, query: str = "") -> Body:
        """Put it; return what was done."""
        answer = self.put(query)
        assert answer.status in (200, 201), answer.json()
        done: Body = answer.json()
        return done

    def get(self, path: str = "") -> Answer:
        return self.amphora.request("GET", f"{self.url}{path}")

    def patch(self, path: str, change: Body, headers: Mapping[str, str] | None = None) -> Answer:
        content = json.dumps(change).encode()
        return self.amphora.request("PATCH", f"{self.url}{path}", content, headers)

    def delete(self) -> Answer:
        return self.amphora.request("DELETE", self.url)

    def client(self, port: int | None = None, **options: Any) -> Client:
        return Client(self.amphora.namespace, VIP, port or self.port, **options)

    def load(self, *, clients: int = 2, keep_alive: bool = False) -> Load:
        return Load(lambda: self.client(keep_alive=keep_alive), clients=clients)

    def served_by(self, count: int = 6) -> set[str]:
        """Which web servers answer."""
        with self.client(keep_alive=False) as client:
            return {str(client.get("/").json()["name"]) for _ in range(count)}

    def ask(self, command: str, process: str = "") -> str:
        """haproxy's own answer, over a master socket."""
        path = self.amphora.agent.run_path / f"{process or self.id}.master"
        return MasterSocket(path).command(command, timeout=5)

    def worker(self, process: str = "") -> int:
        found = replies.read_workers(self.ask("show proc", process)).current
        assert found is not None
        return found

    def processes(self, name: str = "") -> list[Process]:
        directory = self.amphora.agent.base_path / (name or self.id)
        return [p for p in mentioning(directory) if p.program == "haproxy"]
