"""An amphora's network in the laboratory: one router, ports that lead to it, the agent's part."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amphora_agent.model.addressing import Address
from amphora_agent.namespace import Namespace
from amphora_agent.network.dhcp_client import DhcpClients
from amphora_agent.network.plan.firewall_rules import parse_listing
from amphora_agent.network.port_service import Patience
from amphora_agent.network.records import Leases
from amphora_agent.network.service import Network
from amphora_agent.paths import Layout
from amphora_agent.settings.reader import parse_settings
from amphora_agent.wiring import Options, make_network
from lab.network import Cable, Lab
from lab.network import Namespace as LabNamespace

#: Ports wait in the namespace of the machine: those of another run must not be taken for ours.
_RUN = f"{os.getpid() >> 8 & 0xFF:02x}:{os.getpid() & 0xFF:02x}"
VIP_MAC = f"fa:16:3e:{_RUN}:01"
MEMBER_MAC = f"fa:16:3e:{_RUN}:02"
OTHER_MAC = f"fa:16:3e:{_RUN}:03"

VIP4: dict[str, Any] = {
    "subnet_cidr": "10.1.0.0/24",
    "gateway": "10.1.0.1",
    "mac_address": VIP_MAC,
    "vrrp_ip": "10.1.0.7",
    "mtu": 1450,
    "host_routes": [],
    "additional_vips": [],
    "is_sriov": False,
}
VIP6: dict[str, Any] = VIP4 | {
    "subnet_cidr": "fd01::/64",
    "gateway": "fd01::1",
    "vrrp_ip": "fd01::7",
}
MORE6: dict[str, Any] = {
    "ip_address": "fd01::5",
    "subnet_cidr": "fd01::/64",
    "gateway": "fd01::1",
    "host_routes": [],
}
MEMBER4: dict[str, Any] = {
    "ip_address": "10.2.0.5",
    "subnet_cidr": "10.2.0.0/24",
    "gateway": "10.2.0.1",
    "host_routes": [],
}
MEMBER6: dict[str, Any] = MEMBER4 | {
    "ip_address": "fd02::5",
    "subnet_cidr": "fd02::/64",
    "gateway": "fd02::1",
}

MAIN, VIP_TABLE = 254, 1
NO_TABLES = '{"nftables": []}'

CONFIGURATION = """\
[amphora_agent]
amphora_id = the-amphora
agent_server_network_dir = {network}

[haproxy_amphora]
base_path = {base}
base_cert_dir = {base}/certs
"""

_numbers = itertools.count()


class Rig:
    """Everything of one test, and what `ip` says about it."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.layout = layout_below(directory, f"{lab.prefix}-amphora")
        self.options = Options(
            config_file=directory / "agent.conf",
            namespace=self.layout.namespace.name,
            run_directory=self.layout.run,
        )
        self.options.config_file.write_text(
            CONFIGURATION.format(base=self.layout.base, network=self.layout.network)
        )
        self.records = self.layout.network
        self.namespace = Namespace(self.layout.namespace)
        #: The name of an interface, and its addresses that were announced.
        self.announced: list[tuple[str, list[str]]] = []
        lab.record.add_namespace(self.namespace.name)
        self.inside = LabNamespace(self.namespace.name)
        self.router = lab.namespace("router")
        self.router.forward()
        self.network = self.agent()

    def agent(
        self,
        port_timeout: float = 0.05,
        address_timeout: float = 20.0,
        dhcp: DhcpClients | None = None,
    ) -> Network:
        """An agent that has just been started."""
        return make_network(
            self.layout,
            Leases(self.layout.leases),
            dhcp=dhcp,
            announce=self._note_announcement,
            patience=Patience(port_timeout, address_timeout),
            pci_rescan=self.layout.base / "no-pci",
        )

    def _note_announcement(self, ifname: str, addresses: Iterable[Address]) -> None:
        self.announced.append((ifname, [str(address) for address in addresses]))

    def ensure_namespace(self) -> bool:
        return self.namespace.ensure()

    def port(self, mac: str, *addresses: str, ifname: str = "") -> Cable:
        """A network card for the amphora, not yet plugged, leading to the router."""
        number = next(_numbers)
        far_end = f"r{number}"
        cable = self.lab.cable(
            self.router,
            far_end,
            self.lab.host,
            ifname or f"hot{os.getpid()}n{number}",
            mac_b=mac,
        )
        self.router.address(far_end, *addresses)
        return cable

    def vip_port(self, ifname: str = "") -> Cable:
        return self.port(VIP_MAC, "10.1.0.1/24", "fd01::1/64", ifname=ifname)

    def member_port(self, ifname: str = "") -> Cable:
        return self.port(MEMBER_MAC, "10.2.0.1/24", "fd02::1/64", ifname=ifname)

    def late_vip_port(self, seconds: float) -> threading.Timer:
        """A VIP port that appears after a while; to be joined."""
        shelf = self.lab.namespace("shelf")
        number = next(_numbers)
        self.lab.cable(self.router, f"r{number}", shelf, "card", mac_b=VIP_MAC)
        self.router.address(f"r{number}", "10.1.0.1/24")
        shelf.ip("link", "set", "card", "down", "name", f"late{os.getpid()}")
        plugging = ["link", "set", f"late{os.getpid()}", "netns", str(os.getpid())]
        timer = threading.Timer(seconds, shelf.ip, plugging)
        timer.start()
        return timer

    def quick_ipv6(self) -> None:
        """Make the amphora's namespace, where new interfaces do without DAD."""
        self.ensure_namespace()
        without_dad = [f"net.ipv6.conf.{where}.accept_dad=0" for where in ("default", "all")]
        self.inside.run(["sysctl", "-qw", *without_dad])

    def plug_vip(self, vip: str = "10.1.0.5", *, single: bool = True, **changes: Any) -> str:
        return self.network.plug_vip(vip, _body(VIP4 | changes), single=single)

    def plug_vip6(self, vip: str = "fd01::5", *, single: bool = True, **changes: Any) -> str:
        return self.network.plug_vip(vip, _body(VIP6 | changes), single=single)

    def plug_member(self, *fixed_ips: dict[str, Any], single: bool = True, **changes: Any) -> str:
        sent = {"mac_address": MEMBER_MAC, "fixed_ips": fixed_ips or [MEMBER4], "mtu": 1450}
        return self.network.plug_network(_body(sent | changes), single=single)

    @contextmanager
    def advertising(self, ifname: str, prefix: str) -> Iterator[None]:
        """Advertise again and again: whoever listens from now on hears it soon."""
        enough = threading.Event()

        def work() -> None:
            while not enough.wait(0.2):
                self.advertise(ifname, prefix)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()

    def advertise(self, ifname: str, prefix: str) -> None:
        """Send a router advertisement with a prefix for SLAAC (RFC 4861, 4862)."""
        packet = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        address = socket.inet_pton(socket.AF_INET6, prefix)
        on_link_and_autonomous = 0xC0
        packet += struct.pack(
            "!BBBBIII16s", 3, 4, 64, on_link_and_autonomous, 3600, 3600, 0, address
        )

        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                index = socket.if_nametoindex(ifname)
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                raw.sendto(packet, ("ff02::1", 0, 0, index))

        self.router.inside(send)

    # What ip says about the namespace

    def ip(self, *arguments: str) -> Any:
        return json.loads(self.inside.ip("-json", *arguments) or "[]")

    def link(self, ifname: str) -> dict[str, Any]:
        [found] = self.ip("link", "show", "dev", ifname)
        assert isinstance(found, dict)
        return found

    def addresses(self, ifname: str) -> set[str]:
        """Without those that the kernel makes itself."""
        [link] = self.ip("address", "show", "dev", ifname)
        return {
            f"{address['local']}/{address['prefixlen']}"
            for address in link["addr_info"]
            if address["scope"] != "link"
        }

    def routes(self, table: int, ifname: str = "eth1") -> set[str]:
        """Those of the agent, and those that the kernel makes of addresses."""
        found = set()
        for family in ("-4", "-6"):
            for route in self.ip(family, "route", "show", "table", "all"):
                if route.get("dev") != ifname or route["dst"].startswith("fe80"):
                    continue
                if route.get("table", "254") == str(table):
                    words = [route["dst"]]
                    words += ["via", route["gateway"]] if "gateway" in route else []
                    words += ["src", route["prefsrc"]] if "prefsrc" in route else []
                    found.add(" ".join([*words, "proto", route["protocol"]]))
        return found

    def rules(self) -> set[str]:
        found = set()
        for family in ("-4", "-6"):
            for rule in self.ip("-details", family, "rule", "show"):
                if rule["src"] != "all":
                    found.add(f"{rule['src']} lookup {rule['table']} proto {rule['protocol']}")
        return found

    def firewall(self) -> list[Any]:
        """What nft lists, without the handles that differ each time."""
        listed = json.loads(self.inside.run(["nft", "--json", "list", "ruleset"]).stdout)
        objects = [each for each in listed["nftables"] if "metainfo" not in each]
        for each in objects:
            for members in each.values():
                members.pop("handle", None)
        return objects

    def everything(self) -> dict[str, Any]:
        """All that a plug makes, as it is listed, to be compared.

        Without what the kernel does in its own time: link-local addresses, carriers.
        """
        [links] = self._listed("-4", "link show")
        commands = ["address show", "route show table all", "rule show"]
        addresses, routes, rules = (
            [*of_ipv4, *of_ipv6]
            for of_ipv4, of_ipv6 in zip(
                self._listed("-4", *commands), self._listed("-6", *commands), strict=True
            )
        )
        table = ["nft", "--json", "--numeric", "list", "table", "inet", "amphora_table"]
        seen = ("ifname", "address", "mtu", "altnames")
        return {
            "links": _sorted(
                {key: link.get(key) for key in seen} | {"up": "UP" in link["flags"]}
                for link in links
            ),
            "addresses": _sorted(
                # A label is the name that the interface once had.
                address | {"dev": link["ifname"], "label": None}
                for link in addresses
                for address in link["addr_info"]
                if not address["local"].startswith("fe80")
            ),
            "routes": _sorted(
                route for route in routes if not route["dst"].startswith(("fe80", "ff00"))
            ),
            "rules": _sorted(rules),
            # In one spelling: nft lists the members of a set in any order.
            "firewall": str(parse_listing(self.inside.run(table, check=False).stdout or NO_TABLES)),
        }

    def _listed(self, family: str, *commands: str) -> list[list[dict[str, Any]]]:
        """What `ip` answers to each of the commands."""
        ip = ["ip", "-json", "-details", family, "-batch", "-"]
        text = self.inside.run(ip, stdin="\n".join(commands)).stdout
        answers = []
        while text := text.lstrip():
            answer, end = json.JSONDecoder().raw_decode(text)
            answers.append(answer)
            text = text[end:]
        return answers

    def answers(self, address: str, source: LabNamespace | None = None) -> bool:
        ping = ["ping", "-c1", "-W2", address]
        return (source or self.router).run(ping, check=False).returncode == 0

    def reboot(self) -> None:
        """The namespace is gone. Plug cables with the same MAC addresses to go on."""
        subprocess.run(["ip", "netns", "delete", self.namespace.name], check=True)


@contextmanager
def rig(directory: Path) -> Iterator[Rig]:
    with Lab(f"plug{os.getpid()}-{next(_numbers)}") as lab:
        yield Rig(lab, directory)


def layout_below(directory: Path, namespace: str) -> Layout:
    """Everything of an agent below one directory, but its namespace."""
    text = CONFIGURATION.format(base=directory / "octavia", network=directory / "interfaces")
    settings = parse_settings(text, "the rig's")
    return Layout.of(settings, run=directory / "run", namespace=namespace)


def _sorted(listed: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(each) for each in listed)


def _body(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
