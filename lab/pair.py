"""Two amphorae of one load balancer in ACTIVE_STANDBY, and a client on the segment of its VIP.

Each has an agent and a namespace of its own. The members are where the client is.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from amphora_agent.client.v2 import AmphoraClient
from lab import processes
from lab.agent import AgentProcess
from lab.backend import Backend
from lab.http import FAILURES, Client
from lab.listeners import TIMEOUT_CLIENT, Listener, Peer, http_listener, loadbalancer
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki, Authority
from lab.plug_bodies import vip_plug
from lab.processes import Process
from lab.waiting import until

VIP, PORT = "10.1.0.5", 80
_GATEWAY, _MEMBER_PORT = "10.1.0.1", 8001
_ADDRESSES = {"a": ("10.1.0.3", 100), "b": ("10.1.0.4", 90)}
"""Of each amphora: where VRRP speaks, and its priority, as the controller has it."""

#: How long one request of a client may take that watches the VIP, and the pause behind it: seconds.
_REQUEST, _PAUSE = 0.25, 0.01


@dataclass(frozen=True)
class Checks:
    """`[keepalived_vrrp]` of the controller, with its defaults. Seconds, and rounds."""

    interval: int = 5
    fall: int = 2
    rise: int = 2


def vrrp_configuration(
    *, base_path: Path, address: str, peer: str, priority: int, checks: Checks, router_id: int = 1
) -> str:
    """A configuration of the shape that the controller sends to one of the two."""
    return f"""\
vrrp_script check_script {{
    script {base_path}/vrrp/check_script.sh
    interval {checks.interval}
    fall {checks.fall}
    rise {checks.rise}
}}

vrrp_instance vips {{
    interface eth1
    virtual_router_id {router_id}
    priority {priority}
    nopreempt
    accept
    garp_master_refresh 5
    garp_master_refresh_repeat 2
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass a1b2c3d
    }}
    unicast_src_ip {address}
    unicast_peer {{
        {peer}
    }}
    virtual_ipaddress {{
        {VIP}
    }}
    virtual_routes {{
        10.1.0.0/24 dev eth1 src {VIP} scope link table 1
        default via {_GATEWAY} dev eth1 onlink table 1
    }}
    virtual_rules {{
        from {VIP}/32 table 1 priority 100
    }}
    track_script {{
        check_script
    }}
}}
"""


@dataclass
class Half:
    """One of the two amphorae."""

    name: str
    namespace: Namespace
    agent: AgentProcess
    api: AmphoraClient

    @property
    def address(self) -> str:
        return _ADDRESSES[self.name][0]

    def configuration(self, checks: Checks) -> str:
        (other,) = _ADDRESSES.keys() - {self.name}
        return vrrp_configuration(
            base_path=self.agent.base_path,
            address=self.address,
            peer=_ADDRESSES[other][0],
            priority=_ADDRESSES[self.name][1],
            checks=checks,
        )

    def has_vip(self) -> bool:
        shown = self.namespace.ip("-oneline", "address", "show", "to", VIP, check=False)
        return bool(shown.strip())

    def of(self, program: str) -> list[Process]:
        """haproxy's or keepalived's processes, parents and children."""
        return [process for process in self.agent.services() if process.program == program]

    def check(self) -> int:
        """The exit status of the check, as keepalived has it run."""
        script = self.agent.base_path / "vrrp" / "check_script.sh"
        return subprocess.run([script], capture_output=True, check=False).returncode

    def healthy(self) -> bool:
        """Whether it could have the VIP: everything runs, and keepalived believes so."""
        said = (self.agent.run_path / "octavia-keepalived.log").read_text()
        states = re.findall(r"Entering (\w+) STATE", said.rpartition("Starting VRRP child")[2])
        return (
            self.check() == 0
            and self.agent.running
            and len(self.of("keepalived")) == 2
            and bool(states)
            and states[-1] != "FAULT"
        )

    def die(self) -> None:
        """As a machine does: from one moment to the next it neither runs nor answers."""
        self.namespace.down("eth1")
        self.agent.kill()
        processes.end(self.agent.services())


@dataclass(frozen=True)
class Outage:
    """`seconds` from the last answer before to the first one after; `failed` requests between."""

    seconds: float
    failed: int


@dataclass
class Pair:
    lab: Lab
    client: Namespace
    halves: Mapping[str, Half]
    lb_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    version: int = 0

    @property
    def listener(self) -> Listener:
        return http_listener(
            f"{self.lb_id} listener", port=PORT, members=[(_GATEWAY, _MEMBER_PORT)]
        )

    def push(self, half: Half) -> None:
        """Upload and reload, as the controller does for every change."""
        self.version += 1
        text = loadbalancer(
            self.lb_id,
            vip=VIP,
            listeners=[self.listener],
            base_path=str(half.agent.base_path),
            peers=[Peer(each.agent.amphora_id, each.address) for each in self.halves.values()],
            timeout_client=TIMEOUT_CLIENT + self.version,
        )
        half.api.upload_haproxy(self.lb_id, text)
        half.api.reload(self.lb_id)

    def deploy(self, checks: Checks | None = None) -> None:
        """The load balancer on both, then VRRP, then wait until the VIP is served."""
        for half in self.halves.values():
            self.push(half)
        for half in self.halves.values():
            half.api.upload_vrrp(half.configuration(checks or Checks()))
            half.api.start_vrrp()
        self.await_service()

    def await_service(self) -> None:
        until(lambda: len(self.holders()) == 1 and self.answers(), "one has the VIP", timeout=60)

    def holders(self) -> list[Half]:
        return [half for half in self.halves.values() if half.has_vip()]

    @property
    def master(self) -> Half:
        (half,) = self.holders()
        return half

    @property
    def standby(self) -> Half:
        (half,) = (half for half in self.halves.values() if not half.has_vip())
        return half

    def restore(self, half: Half) -> None:
        """Bring back what was ended, stopped or unplugged of one, and wait until both are well."""
        for process in half.of("haproxy"):
            process.send(signal.SIGCONT)
        half.namespace.up("eth1")
        if not half.agent.running:
            half.agent.start()
        if not half.of("keepalived"):
            half.api.start_vrrp()
        for each in self.halves.values():
            until(each.healthy, f"{each.name} is well", timeout=60)
        self.await_service()

    def answers(self) -> bool:
        try:
            with Client(self.client, VIP, PORT, timeout=_REQUEST) as client:
                return client.get("/").status == 200
        except FAILURES:
            return False

    def outage(self, action: Callable[[], object], over: Callable[[], bool]) -> Outage:
        """What a client sees from before `action` until `over`, and an answer after that.

        The longest time between two answers; it asks every few milliseconds.
        """
        watch = _Watch(self)
        with watch:
            watch.wait_for_answer()
            action()
            until(over, "the outage is over", timeout=30)
            watch.wait_for_answer()
        return Outage(watch.longest, watch.failed)


class _Watch:
    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._stop = threading.Event()
        self._answered = threading.Condition()
        self._count = 0
        self.longest = 0.0
        self.failed = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_answer(self) -> None:
        with self._answered:
            seen = self._count
            if not self._answered.wait_for(lambda: self._count > seen + 1, timeout=90):
                raise TimeoutError("the VIP does not answer any more")

    def _work(self) -> None:
        last = None
        while not self._stop.is_set():
            if self._pair.answers():
                now = time.monotonic()
                with self._answered:
                    self.longest = max(self.longest, now - (last or now))
                    self._count += 1
                    self._answered.notify_all()
                last = now
            else:
                self.failed += 1
            time.sleep(_PAUSE)


@contextlib.contextmanager
def make_pair(lab: Lab, *, controllers: Mapping[str, str] | None = None) -> Iterator[Pair]:
    """Boot both amphorae. `controllers` are heartbeat receivers by the name of an amphora."""
    with contextlib.ExitStack() as ending:
        client = lab.namespace("client")
        segment = lab.bridge(client, "vips")
        client.address("vips", f"{_GATEWAY}/24")
        ending.enter_context(Backend(client, "web", [f"{_GATEWAY}:{_MEMBER_PORT}"]))
        authorities = [Authority.create(name, key="ec") for name in ("servers", "controllers")]
        halves = {}
        for name, (address, _) in _ADDRESSES.items():
            namespace = Namespace(f"{lab.prefix}-{name}")
            directory = lab.directory()
            pki = AmphoraPki.create(
                directory / "pki",
                str(uuid.uuid4()),
                server_authority=authorities[0],
                client_authority=authorities[1],
                key="ec",
            )
            agent = AgentProcess(
                directory,
                pki,
                namespace=str(namespace.name),
                topology="ACTIVE_STANDBY",
                controllers=[controllers[name]] if controllers else [],
                record=lab.record,
                start_timeout=60,
            )
            ending.callback(agent.close)
            agent.start()
            api = AmphoraClient(agent.url, pki.amphora_id, pki.controller_pem, pki.server_ca)
            ending.callback(api.close)
            card = segment.port(lab.host, f"{lab.prefix[:12]}-{name}")
            api.plug_vip(
                VIP,
                vip_plug(card.mac_b, subnet="10.1.0.0/24", gateway=_GATEWAY, vrrp_ip=address),
            )
            halves[name] = Half(name, namespace, agent, api)
        yield Pair(lab, client, halves)
