"""From the start of `amphora-agent network up` to the first answer of a VIP, beside `ip -batch`.

As at a boot: the namespace is gone, the port waits under another name, the records are on disk.
The script beside it knows everything, looks at nothing and checks nothing: `ip netns add`,
`nft -f`, `ip link set netns`, `sysctl`, one `ip -batch`. What it leaves is compared with what
`network up` leaves, and must be the same. They take turns.

Someone far away sends an echo request every millisecond and gets the first answer by way of the
default route of the VIP's own table. IPv6 addresses are silent for one to two seconds in any case
(duplicate-address detection, after a random delay): their answer stands apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import time
import uuid
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

import msgspec

import amphora_agent
from amphora_agent.client.v2 import AmphoraClient
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from lab.agent import AgentProcess
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki
from lab.waiting import until

_COLUMNS = (
    Column("vips", "VIPs"),
    Column("answers", "answers"),
    Column("runs", "runs"),
    Column("script_ms", "ip -batch, ms", 1),
    Column("network_up_ms", "network up, ms", 1),
    Column("ratio", "ratio", 2),
    Column("fastest_ratio", "of the fastest", 2),
)

_MAC, _ROUTER_MAC = "fa:16:3e:b0:07:01", "fa:16:3e:b0:07:02"
_MTU = 1450


@dataclass(frozen=True)
class _Family:
    """`far` is the address of the one who asks, on the far side of the router."""

    name: str
    vip: str
    port: str
    gateway: str
    subnet: str
    far: str
    metric: int

    @property
    def length(self) -> str:
        return self.subnet.partition("/")[2]

    def open(self) -> socket.socket:
        """A socket for questions, of the namespace in which this is called."""
        version, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP)
            if self.name == "IPv4"
            else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        made = socket.socket(version, socket.SOCK_RAW, protocol)
        made.bind((self.far, 0))
        return made

    @property
    def echo_request(self) -> bytes:
        # With a checksum, which ICMPv6 leaves to the kernel (RFC 792, 4443).
        return (
            bytes((8, 0, 0xF7, 0xFF)) + bytes(4)
            if self.name == "IPv4"
            else bytes((128,)) + bytes(7)
        )

    def is_answer(self, packet: bytes) -> bool:
        # Raw IPv4 sockets receive the header as well, here one without options.
        return packet[20] == 0 if self.name == "IPv4" else packet[0] == 129


# Networks set aside for documentation (RFC 5737, RFC 3849).
_IPV4 = _Family(
    "IPv4", "203.0.113.10", "203.0.113.11", "203.0.113.1", "203.0.113.0/24", "198.51.100.1", 1
)
_IPV6 = _Family(
    "IPv6", "2001:db8::10", "2001:db8::11", "2001:db8::1", "2001:db8::/64", "2001:db8:f::1", 1025
)

#: Seconds without an answer after which there will be none.
_PATIENCE = 20.0


def measure(haproxy: Path, scale: Scale) -> Section:
    """`haproxy` is not needed: nothing is configured but the network."""
    rows = [
        row for families in ((_IPV4,), (_IPV4, _IPV6)) for row in _compare(families, scale.starts)
    ]
    return Section(
        "boot",
        "Network at boot, to the first answer of a VIP (medians of wall time)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "ip -batch: a shell script that leaves the same namespace, by turns; it knows what to",
            "do, and neither looks nor checks",
            "of the fastest: the same ratio of the shortest times, which other work disturbs least",
            "IPv6: both await duplicate-address detection, 1 to 2 s by the kernel's random delay",
        ),
    )


def _compare(families: Sequence[_Family], runs: int) -> Iterator[dict[str, Any]]:
    samples: dict[tuple[str, str], list[float]] = {}
    with _boot(families) as boot:
        boot.write_script()
        for run in range(runs + 1):
            for what, command in (("script", boot.script), ("network_up", boot.network_up)):
                for name, seconds in boot.run(command).items():
                    if run:  # the first reads its files from the disk
                        samples.setdefault((name, what), []).append(seconds)
    for family in families:
        script, network_up = (samples[family.name, what] for what in ("script", "network_up"))
        yield {
            "vips": " and ".join(each.name for each in families),
            "answers": family.name,
            "runs": runs,
            "script_ms": milliseconds(median(script)),
            "network_up_ms": milliseconds(median(network_up)),
            "ratio": median(network_up) / median(script),
            "fastest_ratio": min(network_up) / min(script),
            "samples_ms": {
                "script": [milliseconds(each) for each in script],
                "network_up": [milliseconds(each) for each in network_up],
            },
        }


@contextlib.contextmanager
def _boot(families: Sequence[_Family]) -> Iterator[_Boot]:
    with contextlib.ExitStack() as ending:
        lab = ending.enter_context(Lab(f"boot-{os.getpid()}"))
        directory = lab.directory()
        router = lab.namespace("router")
        lab.record.add_namespace(f"{lab.prefix}-amphora")
        agent = AgentProcess(
            directory,
            AmphoraPki.create(directory / "pki", str(uuid.uuid4())),
            namespace=f"{lab.prefix}-amphora",
            settings={"DEFAULT": {"debug": "False"}},
            record=lab.record,
        )
        ending.callback(agent.close)
        boot = _Boot(lab, directory, router, agent, families)
        boot.plug_in()
        boot.remember()
        yield boot


class _Boot:
    """One amphora that boots again and again."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        router: Namespace,
        agent: AgentProcess,
        families: Sequence[_Family],
    ) -> None:
        self._lab = lab
        self._directory = directory
        self._router = router
        self._inside = Namespace(agent.namespace)
        self._agent = agent
        self._families = families
        self._card = f"boot{os.getpid()}"
        self._script = directory / "network-up.sh"
        self._said = directory / "said"
        self._command = _installed(directory)
        self._wanted: list[str] = []

    @property
    def network_up(self) -> list[str]:
        options = self._agent.command()
        return [str(self._command), *options[options.index("--config-file") :], "network", "up"]

    @property
    def script(self) -> list[str]:
        return ["sh", "-e", str(self._script)]

    def plug_in(self) -> None:
        """A network card, as a machine finds it at boot."""
        lab, router = self._lab, self._router
        lab.cable(router, "r0", lab.host, self._card, mac_a=_ROUTER_MAC, mac_b=_MAC)
        for family in self._families:
            router.address("r0", f"{family.gateway}/{family.length}")
            # The amphora is known, so that no request waits for the neighbour's resolution.
            neighbour = [family.vip, "lladdr", _MAC, "dev", "r0", "nud", "permanent"]
            router.ip("neighbour", "replace", *neighbour)

    def remember(self) -> None:
        """Let the agent plug the port, once, so that its records are on disk."""
        for family in self._families:
            self._router.address("lo", family.far)
        first, *others = (
            {
                "subnet_cidr": family.subnet,
                "gateway": family.gateway,
                "ip_address": family.vip,
                "host_routes": [],
            }
            for family in self._families
        )
        vip = first.pop("ip_address")
        body = {"mac_address": _MAC, "mtu": _MTU, "vrrp_ip": _IPV4.port, "additional_vips": others}
        agent = self._agent.start()
        controller = AmphoraClient(
            agent.url, agent.amphora_id, agent.pki.controller_pem, agent.pki.server_ca
        )
        with contextlib.closing(controller):
            controller.plug_vip(str(vip), first | body)
        agent.stop()
        self._wanted = _state(self._inside)

    def write_script(self) -> None:
        name = str(self._inside.name)
        listing = self._inside.run(["nft", "list", "ruleset"]).stdout
        rules = self._file("rules.nft", listing)
        lines = [
            f"ip netns add {name}",
            f"ip netns exec {name} nft -f {rules}",
            f"ip link set {self._card} netns {name} name eth1",
            f"ip netns exec {name} sysctl -q -w {' '.join(_SETTINGS)}",
            f"ip -n {name} -batch {self._file('links', _LINKS + _batch(_IPV4))}",
        ]
        if _IPV6 in self._families:
            lines += [
                f"ip -n {name} -6 -batch {self._file('ipv6', _batch(_IPV6))}",
                f"while ip -n {name} -6 address show tentative | grep -q .; do sleep 0.1; done",
                f"ip -n {name} -6 {_subnet_route(_IPV6)}",
            ]
        self._script.write_text("".join(f"{line}\n" for line in lines))

    def run(self, command: Sequence[str]) -> dict[str, float]:
        """Boot once; the seconds from the start of `command` to the first answer, by family."""
        subprocess.run(["ip", "netns", "delete", str(self._inside.name)], check=True)
        self._await_no_card()
        self.plug_in()
        with _Questions(self._router, self._families) as questions:
            begun = time.perf_counter()
            with (
                self._said.open("wb") as log,
                subprocess.Popen(command, stderr=log, env=self._environment()) as process,
            ):
                answered = questions.answered()
        if process.returncode != 0:
            raise RuntimeError(f"{command}: {self._said.read_text()}")
        difference = "\n".join(unified_diff(self._wanted, _state(self._inside), lineterm="", n=0))
        if difference:
            raise RuntimeError(f"{command} left something else than the agent:\n{difference}")
        return {name: moment - begun for name, moment in answered.items()}

    def _file(self, name: str, text: str) -> Path:
        file = self._directory / name
        file.write_text(text)
        return file

    def _await_no_card(self) -> None:
        """The kernel takes a namespace down by and by, and the cable with it."""

        def gone() -> bool:
            return not self._router.ip("link", "show", "dev", "r0", check=False)

        until(gone, "the end of the cable")

    def _environment(self) -> Mapping[str, str]:
        """Python finds its bytecode, as where a package has been installed."""
        settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return settings | {"PYTHONPYCACHEPREFIX": str(self._directory / "bytecode")}


def _installed(directory: Path) -> Path:
    """The command in an environment as an installed wheel has it: what makes a checkout importable
    runs code of its own at each start of Python, which takes longer than Python's own start."""
    venv.create(directory / "installed")
    [site] = (directory / "installed/lib").glob("*/site-packages")
    checkout = Path(amphora_agent.__file__).parent.parent
    (site / "agent.pth").write_text(f"{checkout}\n{Path(msgspec.__file__).parent.parent}\n")
    command = directory / "installed/bin/amphora-agent"
    command.write_text(
        f"#!{directory}/installed/bin/python\n"
        "import sys\nfrom amphora_agent.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return command


#: What `network up` sets.
_SETTINGS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.ip_nonlocal_bind=1",
    "net.ipv6.ip_nonlocal_bind=1",
    "'net.ipv4.ping_group_range=0 2147483647'",
    "net.ipv6.conf.eth1.accept_ra=0",
    "net.ipv6.conf.eth1.autoconf=0",
    "net.ipv4.conf.eth1.promote_secondaries=1",
)

_LINKS = f"""\
link set lo up
link set eth1 mtu {_MTU} up
address add {_IPV4.port}/{_IPV4.length} dev eth1
"""


def _batch(family: _Family) -> str:
    deprecated = "" if family is _IPV4 else " preferred_lft 0 valid_lft forever"
    default = f"route add default via {family.gateway} dev eth1 onlink proto 154"
    lines = [
        f"address add {family.vip} dev eth1{deprecated}",
        f"{default} metric {family.metric}",
        f"{default} metric {family.metric} table 1",
        f"rule add from {family.vip} table 1 priority 100 protocol 154",
    ]
    if family is _IPV4:
        lines.append(_subnet_route(family))
    else:  # the kernel makes no route of its own: no address has the subnet's length
        lines.append(f"route add {family.subnet} dev eth1 proto 154 metric {family.metric}")
    return "".join(f"{line}\n" for line in lines)


def _subnet_route(family: _Family) -> str:
    """The kernel refuses it for IPv6 until duplicate-address detection is through."""
    return (
        f"route add {family.subnet} dev eth1 src {family.vip} proto 154 "
        f"metric {family.metric} table 1"
    )


class _Questions:
    """Echo requests to each VIP, one each millisecond, until it answers."""

    def __init__(self, router: Namespace, families: Sequence[_Family]) -> None:
        self._sockets = {family: router.inside(family.open) for family in families}

    def __enter__(self) -> _Questions:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in self._sockets.values():
            each.close()

    def answered(self) -> dict[str, float]:
        """The moment of each first answer, by family."""
        answered: dict[str, float] = {}
        silent = {each: family for family, each in self._sockets.items()}
        deadline = time.perf_counter() + _PATIENCE
        while silent:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"no answer within {_PATIENCE:g} s from {silent.values()}")
            for each, family in silent.items():
                with contextlib.suppress(OSError):  # no way there yet
                    each.sendto(family.echo_request, (family.vip, 0))
            for each in select.select(list(silent), [], [], 0.001)[0]:
                if silent[each].is_answer(each.recv(2048)):
                    answered[silent.pop(each).name] = time.perf_counter()
        return answered


def _state(namespace: Namespace) -> list[str]:
    """All that was made and can be compared, a line for each thing."""
    lines: list[str] = []
    for link in json.loads(namespace.ip("-json", "address", "show")):
        lines.append(f"{link['ifname']} {link['mtu']} {link['flags']} {link.get('address')}")
        for each in sorted(link["addr_info"], key=str):
            deprecated = "deprecated" if each.get("deprecated") else ""
            lines.append(f"{each['local']}/{each['prefixlen']} {deprecated}")
    for version in ("-4", "-6"):
        lines += sorted(namespace.ip(version, "route", "show", "table", "all").splitlines())
        lines += namespace.ip(version, "rule", "show").splitlines()
    pattern = r"^net\.ipv[46]\.(conf\.(all|eth1)\.|ip_forward)"
    for command in (["nft", "list", "ruleset"], ["sysctl", "-e", "-a", "--pattern", pattern]):
        lines += namespace.run(command).stdout.splitlines()
    # The kernel makes these itself, some of them when duplicate-address detection is through.
    return [line for line in lines if "fe80:" not in line]
