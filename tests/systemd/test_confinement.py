"""Every unit's confinement: that each directive does something, and that the unit does its work.

One amphora runs all kinds of units. keepalived of UDP listeners cannot work here, in a kernel
without IPVS: tests/vm has it at work, and here is its confinement.
"""

import json
import re
import shlex
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraError
from amphora_agent.haproxy import replies
from lab import debian
from lab.archive import UnavailableError
from lab.backend import Backend
from lab.debian import Release
from lab.dhcp import DhcpServer
from lab.heartbeats import HeartbeatReceiver
from lab.http import Client, Tls, get
from lab.listeners import HealthMonitor, http_listener, loadbalancer
from lab.lvs import LvsListener, LvsMember
from lab.network import Lab, Namespace
from lab.nspawn import Machine
from lab.pair import Checks, vrrp_configuration
from lab.pki import AmphoraPki, Authority
from lab.waiting import until
from tests.systemd.conftest import (
    AMPHORA,
    CONTROLLER,
    HEARTBEAT_KEY,
    HEARTBEAT_PORT,
    VIP,
    ControllerClient,
    amphora,
    ask,
    vip_plug,
)

CHECKOUT = Path(__file__).resolve().parents[2]
TABLE = CHECKOUT / "docs" / "confinement.md"
#: Of 10, as `systemd-analyze security` counts.
MOST_EXPOSED = 3.0
LB = "0a1d1c52-93c6-4c3d-9d5c-1b8f3f0a7c11"
LVS = LvsListener([VIP], 53, [LvsMember("10.1.0.1", 5300)])
MACS = {
    "controller": "fa:16:3e:00:02:01",
    "client": "fa:16:3e:00:02:02",
    "leasing": "fa:16:3e:00:02:03",
}
LEASED = "10.3.0.50"
UNITS = {
    "amphora-agent.service": "amphora-agent",
    "amphora-netns.service": "amphora-netns",
    "amphora-network.service": "amphora-network",
    "amphora-dhcp-eth2.service": "amphora-dhcp-*",
    f"haproxy-{LB}.service": "haproxy-*",
    "octavia-keepalived.service": "octavia-keepalived",
    f"octavia-keepalivedlvs-{LVS.id}.service": "octavia-keepalivedlvs-*",
    "octavia-vrrp-check.service": "octavia-vrrp-check",
}
"""Of each kind one, and what the documentation calls the kind."""

MAKES_THE_NAMESPACE = "amphora-netns.service"


def foreign_program() -> bytes:
    """A program for 32-bit x86 that ends with the status `FOREIGN`."""
    place = 0x08048000
    # mov eax, 1 (exit); mov ebx, FOREIGN; int 0x80
    code = b"\xb8\1\0\0\0\xbb" + struct.pack("<I", FOREIGN) + b"\xcd\x80"
    header = b"\x7fELF\1\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, place + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = len(header) + 32 + len(code)
    return header + struct.pack("<8I", 1, 0, place, place, size, size, 5, 4096) + code


class Site:
    """An amphora with a load balancer, VRRP, a network whose addresses are leased, and a UDP
    listener that cannot start."""

    def __init__(self, lab: Lab, machine: Machine, pki: AmphoraPki, ending: ExitStack) -> None:
        self.machine = machine
        self.pki = pki
        self.tenant = Authority.create("tenant", key="ec")
        self.ends = {name: lab.namespace(f"{name}-of-confined") for name in MACS}
        addresses = {"controller": CONTROLLER, "client": "10.1.0.1", "leasing": "10.3.0.1"}
        for number, (name, mac) in enumerate(MACS.items()):
            end = self.ends[name]
            lab.cable(end, "eth0", machine.namespace, f"ens{number}", mac_b=mac)
            end.address("eth0", f"{addresses[name]}/24")
        machine.namespace.address("ens0", f"{AMPHORA}/24")
        machine.start()
        leasing = self.ends["leasing"]
        directory = lab.directory()
        ending.enter_context(DhcpServer(leasing, "eth0", LEASED, LEASED, directory=directory))
        ending.enter_context(Backend(self.client, "web", ["10.1.0.1:8001"]))

    @property
    def client(self) -> Namespace:
        return self.ends["client"]

    def api(self) -> ControllerClient:
        return ControllerClient(self.ends["controller"], self.pki)

    def configure(self, api: ControllerClient) -> None:
        api.plug_vip(VIP, vip_plug(MACS["client"]))
        api.plug_network({"mac_address": MACS["leasing"]})
        self.push(api)
        check = Checks(interval=1, fall=1, rise=1)
        api.upload_vrrp(
            vrrp_configuration(
                base_path=Path("/var/lib/octavia"),
                address="10.1.0.4",
                peer="10.1.0.3",
                priority=100,
                checks=check,
            )
        )
        api.start_vrrp()
        api.upload_udp_listener(LVS.id, LVS.text())
        with pytest.raises(AmphoraError):
            api.start(LVS.id)

    def push(self, api: ControllerClient, **changes: str) -> None:
        """An HTTP listener with a PING monitor, and one that ends TLS."""
        directory = f"/var/lib/octavia/certs/{LB}"
        issued = self.tenant.issue("site", dns=["site"], key="ec")
        api.upload_certificate(LB, "site.pem", issued.pem)
        api.upload_certificate(LB, "listener.pem", f"{directory}/site.pem\n".encode())
        members = [("10.1.0.1", 8001)]
        pinged = http_listener(
            "pinged", port=80, members=members, monitor=HealthMonitor("PING", rise=1, fall=1)
        )
        ends = http_listener(
            "ends",
            port=443,
            members=members,
            kind="TERMINATED_HTTPS",
            crt_list=f"{directory}/listener.pem",
        )
        text = loadbalancer(LB, vip=VIP, listeners=[pinged, ends])
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        api.upload_haproxy(LB, text)
        api.reload(LB)

    def holds_vip(self) -> bool:
        shown = self.machine.output(
            *("ip", "-netns", "amphora-haproxy", "address", "show", "to", VIP)
        )
        return bool(shown.strip())


@pytest.fixture(scope="module")
def site(lab: Lab, release: Release, pki: AmphoraPki) -> Iterator[Site]:
    with ExitStack() as ending:
        try:
            layers = debian.tree(release, more=("keepalived",))
            machine = amphora(lab, "confined", layers, pki, topology="ACTIVE_STANDBY")
            ending.callback(machine.close)
            machine.write("/opt/confined.py", Path(__file__).with_name("confined.py").read_bytes())
            # Directories that every amphora has, and one that nobody else may look into.
            machine.write("/usr/lib/modules/none/x", b"")
            machine.write("/opt/other-architecture", foreign_program(), 0o755)
            made = Site(lab, machine, pki, ending)
        except UnavailableError as missing:
            pytest.skip(str(missing))
        with made.api() as api:
            made.configure(api)
        machine.run(["touch", "/tmp/of-the-machine"])
        yield made


@pytest.fixture
def machine(site: Site) -> Machine:
    return site.machine


# Scores


def scores_in_documentation(release: Release) -> dict[str, float]:
    """By kind of unit."""
    rows = re.findall(r"(?m)^\| `([\w*-]+)` \| ([\d.]+) \| ([\d.]+) \|", TABLE.read_text())
    column = ["bookworm", "trixie"].index(release.codename)
    return {kind: float((first, second)[column]) for kind, first, second in rows}


def score(machine: Machine, unit: str) -> float:
    said = machine.output("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found
    return float(found[1])


def test_b6_every_unit_is_exposed_little_as_documented(
    machine: Machine, release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {kind: score(machine, unit) for unit, kind in UNITS.items()}
    with capsys.disabled():
        print(f"\n{release.codename}: {found}")
    making = found.pop(UNITS[MAKES_THE_NAMESPACE])
    assert max(found.values()) <= MOST_EXPOSED
    assert {**found, UNITS[MAKES_THE_NAMESPACE]: making} == scores_in_documentation(release)


# Directives

#: What of a section [Service] is no confinement.
NOT_CONFINING = re.compile(
    r"Type|NotifyAccess|Exec\w+|KillMode|Restart(Sec)?|RemainAfterExit|Timeout\w+|WatchdogSec"
    r"|RuntimeDirectory\w*|StateDirectory|LimitNOFILE"
)
CAPABILITIES = {
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
}
#: Errors of what is refused, whichever wall is met first.
REFUSED = {"EACCES", "ENOENT", "EPERM", "EROFS"}
#: What a confined process finds otherwise, whatever the value of the directive.
FOUND: dict[str, Any] = {
    "LimitCORE": [0, 0],
    "NoNewPrivileges": "1",
    "PrivateDevices": False,
    "PrivateNetwork": ["lo"],
    "PrivateTmp": False,
    "ProcSubset": False,
    "ProtectProc": False,
    "ProtectSystem": ["EROFS"] * 4,
    "UMask": "0o77",
}
#: What the program for another architecture says when it runs.
FOREIGN = 42


def directives(machine: Machine, unit: str) -> list[tuple[str, str]]:
    service = machine.output("systemctl", "cat", unit).partition("[Service]")[2]
    lines = re.findall(r"(?m)^([A-Z]\w+)=(.*)$", service.partition("\n[")[0])
    return [(name, value) for name, value in lines if not NOT_CONFINING.fullmatch(name)]


def try_out(machine: Machine, lines: list[tuple[str, str]], writable: list[str]) -> dict[str, Any]:
    """What a process finds that is confined by these lines."""
    command = shlex.join(["/usr/bin/python3", "/opt/confined.py", *writable])
    own = ("Type=oneshot", "StandardOutput=truncate:/run/tried.json", f"ExecStart={command}")
    unit = "\n".join(["[Service]", *own, *(f"{name}={value}" for name, value in lines), ""])
    machine.path("/run/systemd/system/tried.service").write_text(unit)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "tried.service"])
    found = json.loads(machine.path("/run/tried.json").read_text())
    assert isinstance(found, dict)
    return found


def is_bound(name: str, value: str, free: Any, bound: Any) -> bool:
    """Whether a directive does what it says, to a process that could do otherwise without it."""
    match name:
        case "CapabilityBoundingSet":
            # A container may lack some itself.
            named = sum(1 << CAPABILITIES[each] for each in value.split())
            return int(bound, 16) == named & int(free, 16) != int(free, 16)
        case "RestrictAddressFamilies":
            return set(bound) == set(value.split()) < set(free)
        case "RestrictNamespaces":
            return bound == ([value] if value == "net" else []) and len(free) == 7
        case "NetworkNamespacePath" | "ProtectHostname":
            return bool(bound != free)
        case "SystemCallArchitectures":
            return bool(free == FOREIGN != bound)
        case _ if name in FOUND:
            return bool(bound == FOUND[name] != free)
    return bool(bound in REFUSED and free not in REFUSED)


@pytest.mark.parametrize("unit", UNITS)
def test_b6_every_directive_has_an_effect(machine: Machine, unit: str) -> None:
    lines = directives(machine, unit)
    opened = " ".join(value for name, value in lines if name == "ReadWritePaths").split()
    writable = [place.lstrip("-") for place in opened if not place.startswith("-/sys")]
    writable = [place for place in writable if not place.startswith("/proc")]
    writable = writable or ["/var/lib/octavia"]
    writable = [place for place in writable if machine.path(place).is_dir()]
    others = [line for line in lines if line[0] != "ReadWritePaths"]
    if "/proc/sys/net" in opened:
        # All else below /proc/sys is read-only in a container anyway.
        others = [line for line in others if line[0] != "ProtectKernelTunables"]
    free, bound = try_out(machine, [], writable), try_out(machine, lines, writable)
    unbound = [
        (name, value, free.get(name), bound.get(name))
        for name, value in others
        if not is_bound(name, value, free.get(name), bound.get(name))
    ]
    assert unbound == []
    if opened:
        closed = try_out(machine, [line for line in lines if line[0] != "ReadWritePaths"], writable)
        assert set(closed["ReadWritePaths"]) <= {"EROFS"}
        assert set(bound["ReadWritePaths"]) <= {""}


# Work


def test_haproxy_serves_and_ends_tls(site: Site) -> None:
    assert get(site.client, VIP, 80).status == 200
    tls = Tls(server_name="site", ca=site.tenant.certificate)
    with Client(site.client, VIP, 443, tls=tls) as visitor:
        assert visitor.get().status == 200


def test_a_ping_monitor_finds_its_member(site: Site) -> None:
    def listen() -> HeartbeatReceiver:
        return HeartbeatReceiver(HEARTBEAT_KEY, address=CONTROLLER, port=HEARTBEAT_PORT)

    with site.ends["controller"].inside(listen) as heartbeats:
        heartbeats.wait_for(lambda beat: "UP" in beat.members.values())


def test_b3_the_worker_is_nobody_over_a_reload_with_pinned_threads(site: Site) -> None:
    pin = "    daemon\n    cpu-map auto:1/1 0\n"
    with site.api() as api:
        site.push(api, **{"    daemon\n": pin, "    user nobody\n": ""})
    worker = replies.read_workers(ask(site.machine, LB, "show proc")).current
    status = site.machine.output("cat", f"/proc/{worker}/status")
    nobody = site.machine.output("id", "-u", "nobody")
    assert re.search(rf"(?m)^Uid:\s+{nobody}\s+{nobody}\s+{nobody}\s+{nobody}$", status)
    assert re.search(r"(?m)^CapEff:\s+0+$", status)
    assert re.search(r"(?m)^Cpus_allowed_list:\s+0$", status)
    assert get(site.client, VIP, 80).status == 200


def test_keepalived_gives_the_vip_away_and_takes_it_back(site: Site) -> None:
    until(site.holds_vip, "it holds the VIP")
    site.machine.run(["systemctl", "stop", f"haproxy-{LB}.service"])
    until(lambda: not site.holds_vip(), "it has given the VIP away")
    site.machine.run(["systemctl", "start", f"haproxy-{LB}.service"])
    until(site.holds_vip, "it holds the VIP again")


def test_a_lease_is_seen_to_by_its_client(site: Site) -> None:
    inside = ("ip", "-netns", "amphora-haproxy", "address")
    assert LEASED in site.machine.output(*inside, "show", "dev", "eth2")
    site.machine.run([*inside, "flush", "dev", "eth2"])
    site.machine.run(["systemctl", "restart", "amphora-dhcp-eth2.service"])
    until(lambda: LEASED in site.machine.output(*inside, "show", "dev", "eth2"), "the address")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "lvs" not in unit])
def test_nothing_was_refused_to_a_unit(site: Site, unit: str) -> None:
    """In all that it has done until now, and not found worth an error."""
    refused = (
        "not permitted|ermission denied|Read-only file system|Address family not supported|Couldn't"
    )
    said = site.machine.output("journalctl", "--boot", f"--unit={unit}", "--output=cat")
    assert [line for line in said.splitlines() if re.search(refused, line)] == []
