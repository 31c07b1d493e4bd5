"""The whole product in front of one's eyes: ``make demo``, or ``python -m lab.demo [--keep]``.

Plays every part around an amphora: the certificate authorities, the networks, a client, two web
servers, and a controller that plugs, configures and listens to heartbeats. Ends with exit code 0
only if everything was as it should be, and removes all it made in any case.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from lab.agent import AgentError, AgentProcess
from lab.backend import Backend
from lab.cleanup_registry import InUseError, remove_leftovers
from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.http import Client, Tls, spread
from lab.listeners import HealthMonitor, Listener, crt_list, http_listener, loadbalancer
from lab.network import Cable, CommandError, Lab, Namespace, namespace_exists
from lab.pki import AmphoraPki, Authority, Credentials
from lab.plug_bodies import fixed_ip, network_plug, vip_plug
from lab.processes import mentioning

PREFIX = "amphora-demo"
AMPHORA_NAMESPACE = "amphora-haproxy"
STEPS = 11

# Networks set aside for documentation (RFC 5737): no route of the machine is in the way.
VIP_CIDR, VIP_GATEWAY, VIP, VIP_PORT_ADDRESS = (
    "203.0.113.0/24",
    "203.0.113.1",
    "203.0.113.10",
    "203.0.113.11",
)
MEMBER_CIDR, MEMBER_PORT_ADDRESS = "198.51.100.0/24", "198.51.100.2"
WEB_ADDRESSES = {"web1": "198.51.100.11", "web2": "198.51.100.12"}
VIP_MAC, MEMBER_MAC = "fa:16:3e:d0:00:01", "fa:16:3e:d0:00:02"
VIP_LINK, MEMBER_LINK = "demo-hot-vip", "demo-hot-member"
SITE = "www.example.org"
REQUESTS = 20


class DemoError(RuntimeError):
    """Something is not as it should be."""


class Interrupted(BaseException):
    """Ctrl-C, or a signal that asks us to end. Not an Exception, so that nobody swallows it."""


# What may go wrong in a demo; all else is a mistake in the demo itself.
_FAILURES = (DemoError, AmphoraError, AgentError, CommandError, OSError, ValueError, RuntimeError)
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--keep", action="store_true", help="leave it running until interrupted")
    options = parser.parse_args(arguments)
    missing = [name for name in ("ip", "haproxy", "sysctl") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(f"the demo needs root, and: {', '.join(missing)}", file=sys.stderr)
        return 2

    for number in _ENDING_SIGNALS:
        signal.signal(number, _interrupt)
    narrator = Narrator()
    demo: Demo | None = None
    try:
        for name in remove_leftovers():
            narrator.say(f"removed what a killed run had left behind ({name})")
        with Lab(PREFIX) as lab, ExitStack() as ending:
            try:
                demo = Demo(lab, ending, narrator)
                demo.run(keep=options.keep)
            finally:
                # What cleans up must not itself be interrupted.
                _ignore_signals()
                error = sys.exception()
                failed = isinstance(error, Exception)
                if failed and demo is not None and not isinstance(error, AgentError):
                    narrator.say("", "the agent's last words:", *demo.agent_log()[-20:])
                narrator.step(f"Cleaning up{' after a failure' if failed else ''}")
    except Interrupted:
        narrator.say("interrupted")
        code = 0 if demo is not None and demo.complete else 130
    except InUseError as busy:
        print(f"a demo is running already: {busy}", file=sys.stderr)
        return 2
    except _FAILURES as failure:
        narrator.fail(f"{type(failure).__name__}: {failure}")
        code = 1
    else:
        code = 0
    left = demo.remains() if demo is not None else []
    if left:
        narrator.fail(f"left behind: {', '.join(left)}")
        return 1
    narrator.say("nothing is left of it: no namespace, no interface, no process, no file")
    narrator.end("the demo succeeded" if code == 0 else f"the demo ended with exit code {code}")
    return code


class Narrator:
    """Tells a person what happens, with the time since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._number = 0

    def step(self, title: str) -> None:
        self._number += 1
        self._print(f"\n[{self._elapsed()}] {self._number}/{STEPS}  {title}")

    def say(self, *lines: str) -> None:
        for line in lines:
            self._print(f"           {line}")

    def fail(self, reason: str) -> None:
        print(f"\n[{self._elapsed()}] FAILED: {reason}", file=sys.stderr, flush=True)

    def end(self, text: str) -> None:
        self._print(f"\n[{self._elapsed()}] {text}")

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # Who read us has gone (`| head`): end, and let the rest go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Interrupted("nobody reads") from None

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._begun:6.1f} s"


@dataclass(frozen=True)
class Website:
    """The load balancer of the demo: one address, HTTP and HTTPS, two members each."""

    id: str
    http: Listener
    https: Listener
    authority: Authority
    certificate: Credentials
    certificate_name: str

    @classmethod
    def create(cls, cert_path: Path) -> Website:
        authority = Authority.create("a tenant's CA")
        certificate = authority.issue(SITE, dns=[SITE], client=False)
        # The controller calls a certificate by the SHA-1 of itself.
        digest = hashlib.sha1(certificate.certificate, usedforsecurity=False).hexdigest()
        lb_id = str(uuid.uuid4())
        members = [(address, 80) for address in WEB_ADDRESSES.values()]
        monitor = HealthMonitor(delay=1, timeout=1, fall=2, rise=2)
        https = http_listener("demo https", port=443, members=members, monitor=monitor)
        return cls(
            id=lb_id,
            http=http_listener("demo http", port=80, members=members, monitor=monitor),
            https=Listener(
                id=https.id,
                port=https.port,
                pool=https.pool,
                kind="TERMINATED_HTTPS",
                crt_list=str(cert_path / lb_id / f"{https.id}.pem"),
            ),
            authority=authority,
            certificate=certificate,
            certificate_name=f"{digest}.pem",
        )

    @property
    def listeners(self) -> dict[str, Listener]:
        return {"HTTP": self.http, "TERMINATED_HTTPS": self.https}


class Demo:
    """The story, one method per step."""

    def __init__(self, lab: Lab, ending: ExitStack, narrator: Narrator) -> None:
        self.complete = False
        self._lab = lab
        self._ending = ending
        self._tell = narrator
        self._directory = lab.directory()
        self._amphora_id = str(uuid.uuid4())
        taken = namespace_exists(AMPHORA_NAMESPACE)
        self._amphora_namespace = f"{AMPHORA_NAMESPACE}-demo" if taken else AMPHORA_NAMESPACE
        self._connections: Counter[str] = Counter()
        self._heartbeats: list[Heartbeat] = []

    def run(self, *, keep: bool) -> None:
        pki = self._certificates()
        self._networks()
        self._start_agent(pki)
        self._plug()
        self._configure()
        self._requests()
        self._listen_to_heartbeats()
        self._change()
        self._show_to_operator()
        self.complete = True
        self._tell.step("Done: everything was as it should be")
        if keep:
            self._keep_running()

    def agent_log(self) -> list[str]:
        """What the agent has said; its directory is deleted by the clean-up."""
        try:
            return (self._directory / "agent.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def remains(self) -> list[str]:
        """What is still there of all that the demo made; to be asked after the clean-up."""
        left = [
            f"namespace {path.name}"
            for path in Path("/run/netns").glob("*")
            if path.name.startswith(f"{PREFIX}-") or path.name == f"{AMPHORA_NAMESPACE}-demo"
        ]
        if self._amphora_namespace == AMPHORA_NAMESPACE and namespace_exists(AMPHORA_NAMESPACE):
            left.append(f"namespace {AMPHORA_NAMESPACE}")
        for ifname in (VIP_LINK, MEMBER_LINK):
            if Path("/sys/class/net", ifname).exists():
                left.append(f"interface {ifname}")
        left += [f"process {process.pid}" for process in mentioning(self._directory)]
        if self._directory.exists():
            left.append(f"directory {self._directory}")
        return left

    def _certificates(self) -> AmphoraPki:
        self._tell.step("Certificates, as Octavia makes them")
        pki = AmphoraPki.create(self._directory / "pki", self._amphora_id)
        self._tell.say(
            f"amphora id {self._amphora_id}",
            f"server.pem      {pki.server.subject}, by the server CA: the agent shows it",
            f"controller.pem  {pki.controller.subject}, by the client CA: the agent asks for it",
        )
        return pki

    def _networks(self) -> None:
        self._tell.step("Networks, a client and two web servers")
        lab = self._lab
        self._client = lab.namespace("client")
        members = lab.bridge(lab.namespace("members"), "br0")
        # Two cards, as Nova plugs them into the machine: down, nameless, known by their MAC.
        self._vip_card = lab.cable(
            self._client, "eth0", lab.host, VIP_LINK, mac_b=VIP_MAC, mtu=1450
        )
        self._member_card = members.port(lab.host, MEMBER_LINK, mac=MEMBER_MAC, mtu=1450)
        # The client is the VIP network's gateway too; there is nobody else on it.
        self._client.address("eth0", f"{VIP_GATEWAY}/24")
        for name, address in WEB_ADDRESSES.items():
            web = lab.namespace(name)
            members.port(web, "eth0", mtu=1450)
            web.address("eth0", f"{address}/24")
            self._ending.enter_context(Backend(web, name, [f"{address}:80"]))
            self._tell.say(f"{name} serves http://{address}/ in namespace {web.name}")
        self._tell.say(f"the client is {VIP_GATEWAY} in namespace {self._client.name}")

    def _start_agent(self, pki: AmphoraPki) -> None:
        self._tell.step("The agent, under its embedded supervisor")
        self._receiver = self._ending.enter_context(HeartbeatReceiver("demo-heartbeat-key"))
        self._agent = AgentProcess(
            self._directory,
            pki,
            namespace=self._amphora_namespace,
            controllers=[self._receiver.address],
            heartbeat_key=self._receiver.key,
            heartbeat_interval=1,
            record=self._lab.record,
        )
        begun = time.monotonic()
        self._ending.enter_context(self._agent)
        took = time.monotonic() - begun
        self._api = AmphoraClient(
            self._agent.url, self._amphora_id, pki.controller_pem, pki.server_ca
        )
        self._ending.callback(self._api.close)
        info = self._api.info()
        self._tell.say(
            shlex.join(self._agent.command()),
            f"answered after {took:.2f} s: API {info['api_version']}, "
            f"haproxy {info['haproxy_version']}, host {info['hostname']}",
        )

    def _plug(self) -> None:
        self._tell.step("Plugging the VIP and the member network")
        self._api.plug_vip(
            VIP,
            vip_plug(
                self._vip_card.mac_b,
                subnet=VIP_CIDR,
                gateway=VIP_GATEWAY,
                vrrp_ip=VIP_PORT_ADDRESS,
            ),
        )
        self._plugged(self._vip_card, "eth1", f"{VIP}/32")
        self._api.plug_network(
            network_plug(self._member_card.mac_b, fixed_ip(MEMBER_PORT_ADDRESS, MEMBER_CIDR))
        )
        self._plugged(self._member_card, "eth2", f"{MEMBER_PORT_ADDRESS}/24")

    def _plugged(self, card: Cable, ifname: str, expected: str) -> None:
        amphora = Namespace(self._amphora_namespace)
        shown = amphora.ip("-brief", "address", "show", "dev", ifname).split()
        if expected not in shown:
            raise DemoError(f"{ifname} has not got {expected}: {' '.join(shown)}")
        addresses = [word for word in shown if "/" in word and not word.startswith("fe80")]
        self._tell.say(
            f"{card.ifname_b} ({card.mac_b}) is now {ifname} in {self._amphora_namespace}: "
            + ", ".join(addresses)
        )

    def _configure(self) -> None:
        self._tell.step("Pushing an HTTP and a TERMINATED_HTTPS listener")
        site = self._site = Website.create(self._agent.cert_path)
        self._api.upload_certificate(site.id, site.certificate_name, site.certificate.pem)
        path = self._agent.cert_path / site.id / site.certificate_name
        self._api.upload_certificate(
            site.id, f"{site.https.id}.pem", crt_list([str(path)]).encode()
        )
        self._tell.say(f"certificate {site.certificate.subject} and the crt-list that names it")
        text = self._text(site.http)
        self._tell.say(
            f"configuration of {len(text.splitlines())} lines for load balancer {site.id}"
        )
        self._push(text)
        expected = {(listener.id, kind) for kind, listener in site.listeners.items()}
        shown = self._api.listeners()
        if {(row["uuid"], row["type"]) for row in shown} != expected:
            raise DemoError(f"GET /1.0/listeners answers {shown}")
        for row in shown:
            if row["status"] != "ACTIVE":
                raise DemoError(f"listener {row['uuid']} is {row['status']}")
            self._tell.say(f"listener {row['uuid']}  {row['type']:16}  {row['status']}")

    def _text(self, http: Listener) -> str:
        """The load balancer with its HTTP listener like this."""
        return loadbalancer(
            self._site.id,
            vip=VIP,
            listeners=[http, self._site.https],
            base_path=str(self._agent.base_path),
        )

    def _push(self, text: str) -> None:
        begun = time.monotonic()
        self._api.upload_haproxy(self._site.id, text)
        uploaded = time.monotonic()
        self._api.reload(self._site.id)
        reloaded = time.monotonic()
        self._tell.say(
            f"uploaded and checked in {(uploaded - begun) * 1000:.0f} ms, "
            f"serving after another {(reloaded - uploaded) * 1000:.0f} ms"
        )

    def _requests(self) -> None:
        self._tell.step("Requests from the client, through both listeners")
        self._send_requests()

    def _send_requests(self) -> None:
        secure = Tls(server_name=SITE, ca=self._site.authority.certificate)
        self._balanced(f"http://{VIP}/", "HTTP", Client(self._client, VIP, 80))
        client = Client(self._client, VIP, 443, tls=secure, host=SITE)
        self._balanced(f"https://{SITE}/", "TERMINATED_HTTPS", client)

    def _balanced(self, url: str, kind: str, client: Client) -> None:
        with client:
            peer = client.get().peer
            counts = spread(client, REQUESTS)
        self._connections[kind] += 1 + client.reconnects
        shares = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
        protocol = f"  ({peer.protocol}, {peer.subject})" if peer else ""
        self._tell.say(f"{url:25} {REQUESTS} requests: {shares}{protocol}")
        if set(counts) != set(WEB_ADDRESSES) or min(counts.values()) < REQUESTS * 0.4:
            raise DemoError(f"{url} is not balanced over {', '.join(WEB_ADDRESSES)}: {shares}")
        if (peer is not None) != (kind == "TERMINATED_HTTPS"):
            raise DemoError(f"{url}: unexpected protocol")

    def _listen_to_heartbeats(self) -> None:
        self._tell.step("Heartbeats, as the controller's health manager sees them")
        members = {
            member.id
            for listener in self._site.listeners.values()
            if listener.pool
            for member in listener.pool.members
        }

        def counted(heartbeat: Heartbeat) -> bool:
            """Everything is up, and the deltas since the start account for every connection."""
            self._heartbeats.append(heartbeat)
            if heartbeat.listeners:
                self._tell.say(*self._describe(heartbeat))
            up = {member for member, status in heartbeat.members.items() if status == "UP"}
            return up == members and self._sums() == self._connections

        self._receiver.wait_for(counted, timeout=15)
        self._tell.say("once more the same requests; then one second without any")
        self._send_requests()
        last = self._receiver.wait_for(counted, timeout=15)
        # Nothing has happened in between: a delta must not count anything twice.
        quiet = self._receiver.next(5)
        self._tell.say(*self._describe(quiet))
        if any(row["stats"]["totconns"] for row in quiet.listeners.values()):
            raise DemoError("a heartbeat counts connections that were counted before")
        for listener in self._site.listeners.values():
            if last.listeners[listener.id]["status"] != "OPEN":
                raise DemoError(f"listener {listener.id}: {last.listeners[listener.id]}")
        if self._receiver.refused:
            raise DemoError(f"heartbeats refused: {self._receiver.refused}")
        self._tell.say("all members UP; the deltas add up to the connections that were made")

    def _sums(self) -> Counter[str]:
        return Counter(
            {
                kind: sum(
                    heartbeat.listeners[listener.id]["stats"]["totconns"]
                    for heartbeat in self._heartbeats
                    if listener.id in heartbeat.listeners
                )
                for kind, listener in self._site.listeners.items()
            }
        )

    def _describe(self, heartbeat: Heartbeat) -> list[str]:
        kinds = {listener.id: kind for kind, listener in self._site.listeners.items()}
        lines = [f"seq {heartbeat.sequence}, version {heartbeat.version}, {heartbeat.size} bytes"]
        for listener_id, row in heartbeat.listeners.items():
            stats = " ".join(
                # Current connections are a number of now, all else is what came since the last.
                f"{name} {value}" if name == "conns" else f"{name} {value:+d}"
                for name, value in row["stats"].items()
            )
            pools = [
                f"pool {pool['status']}, members {' '.join(sorted(pool['members'].values()))}"
                for key, pool in heartbeat.pools.items()
                if key.endswith(f":{listener_id}")
            ]
            kind = kinds.get(listener_id, listener_id)
            lines.append(f"    {kind:16} {row['status']}  {stats}  {'; '.join(pools)}")
        return lines

    def _change(self) -> None:
        self._tell.step("A member gets three times the weight, while a client is connected")
        http, workers = self._site.http, self._workers()
        assert http.pool is not None
        first, second = http.pool.members
        members = (replace(first, weight=3), second)
        with Client(self._client, VIP, 80) as client:
            client.get()
            self._push(self._text(replace(http, pool=replace(http.pool, members=members))))
            counts = spread(client, REQUESTS)
            self._push(self._text(http))
            client.get()
        shares = ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
        self._tell.say(f"{f'http://{VIP}/':25} {REQUESTS} requests: {shares}", "and back again:")
        for change in self._api.changes(self._site.id)[:4]:
            words = "; ".join(change["words"])
            self._tell.say(f"    {change['operation']:8} {change.get('plan', ''):8} {words}")
        if counts != {"web1": REQUESTS * 3 // 4, "web2": REQUESTS // 4}:
            raise DemoError(f"three times the weight is not three times the requests: {shares}")
        if client.reconnects or self._workers() != workers:
            raise DemoError("somebody noticed")
        self._tell.say("no worker was replaced, and the client's connection stayed")

    def _workers(self) -> list[int]:
        """The processes of haproxy that serve, and those that are about to end."""
        shown = self._api.instance(self._site.id)
        return [worker["pid"] for worker in (shown["current"], *shown["leaving"])]

    def _show_to_operator(self) -> None:
        self._tell.step("For an operator: lines to paste while it runs (make demo KEEP=1)")
        pki, site = self._agent.pki, self._site
        authority = self._directory / "site_ca.pem"
        authority.write_bytes(site.authority.certificate)
        to_agent = [
            *("curl", "--cacert", str(pki.server_ca), "--cert", str(pki.controller_pem)),
            *("--resolve", f"{self._amphora_id}:{self._agent.port}:127.0.0.1"),
        ]
        api = f"https://{self._amphora_id}:{self._agent.port}/1.0"
        in_client = self._client.command(["curl"])
        lines = [
            [*to_agent, f"{api}/info"],
            [*to_agent, f"{api}/details"],
            [*to_agent, f"{api}/listeners"],
            [*to_agent, f"{api}/loadbalancer/{site.id}/haproxy"],
            [*in_client, f"http://{VIP}/"],
            [
                *(*in_client, "--cacert", str(authority)),
                *("--resolve", f"{SITE}:443:{VIP}", f"https://{SITE}/"),
            ],
            ["ip", "netns", "exec", self._amphora_namespace, "ip", "-brief", "address"],
        ]
        for line in lines:
            self._tell.say(shlex.join(line))
        if shutil.which("curl") is None:
            self._tell.say("(curl is not installed here, so they were not tried)")
            return
        for line in lines:
            quiet = ["--silent", "--show-error", "--fail"] if "curl" in line else []
            result = subprocess.run(
                [*line, *quiet],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            if result.returncode != 0:
                raise DemoError(f"{shlex.join(line)}: {result.stderr.strip()}")
        self._tell.say("(each was tried just now, and works)")

    def _keep_running(self) -> NoReturn:
        self._tell.say("it runs until Ctrl-C; heartbeats that bring news are shown", "")
        shown: object = None
        while True:
            try:
                heartbeat = self._receiver.next(10)
            except TimeoutError:
                self._tell.say("no heartbeat for 10 s")
                continue
            stats = [row["stats"]["totconns"] for row in heartbeat.listeners.values()]
            news = (heartbeat.members, [row["status"] for row in heartbeat.listeners.values()])
            if news != shown or any(stats):
                self._tell.say(*self._describe(heartbeat))
                shown = news


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _ignore_signals()
    raise Interrupted(signal.Signals(number).name)


def _ignore_signals() -> None:
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
