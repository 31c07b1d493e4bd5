"""An amphora's network in the laboratory: one router, ports that lead to it, the agent's part."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amphora_agent.namespace import Namespace
from amphora_agent.network.plug import Network
from lab.network import Cable, Lab
from lab.network import Namespace as LabNamespace

VIP_MAC = "fa:16:3e:aa:00:01"
MEMBER_MAC = "fa:16:3e:aa:00:02"
OTHER_MAC = "fa:16:3e:aa:00:03"

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

_numbers = itertools.count()


class Rig:
    """Everything of one test, and what `ip` says about it."""

    def __init__(self, lab: Lab, records: Path) -> None:
        self.lab = lab
        self.records = records
        self.namespace = Namespace(Path("/run/netns", f"{lab.prefix}-amphora"))
        lab.record.add_namespace(self.namespace.name)
        self.inside = LabNamespace(self.namespace.name)
        self.router = lab.namespace("router")
        self.router.forward()
        self.network = self.agent()

    def agent(self, port_timeout: float = 0.05) -> Network:
        """An agent that has just been started."""
        return Network(
            self.namespace,
            self.records,
            port_timeout=port_timeout,
            pci_rescan=self.records.parent / "no-pci",
        )

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
        self.network.ensure_namespace()
        self.inside.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.inside.sysctl("net.ipv6.conf.all.accept_dad", "0")

    def plug_vip(self, vip: str = "10.1.0.5", *, single: bool = True, **changes: Any) -> str:
        return self.network.plug_vip(vip, _body(VIP4 | changes), single=single)

    def plug_vip6(self, vip: str = "fd01::5", *, single: bool = True, **changes: Any) -> str:
        return self.network.plug_vip(vip, _body(VIP6 | changes), single=single)

    def plug_member(self, *fixed_ips: dict[str, Any], single: bool = True, **changes: Any) -> str:
        sent = {"mac_address": MEMBER_MAC, "fixed_ips": fixed_ips or [MEMBER4], "mtu": 1450}
        return self.network.plug_network(_body(sent | changes), single=single)

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

    def everything(self) -> dict[str, Any]:
        """All that a plug makes, to be compared."""
        names = sorted(link["ifname"] for link in self.ip("link", "show"))
        return {
            "links": [(name, self.link(name)["mtu"], self.link(name)["flags"]) for name in names],
            "addresses": {name: self.addresses(name) for name in names},
            "routes": {
                (name, table): self.routes(table, name)
                for name in names
                for table in (MAIN, VIP_TABLE)
            },
            "rules": self.rules(),
        }

    def answers(self, address: str, source: LabNamespace | None = None) -> bool:
        ping = ["ping", "-c1", "-W2", address]
        return (source or self.router).run(ping, check=False).returncode == 0

    def reboot(self) -> None:
        """The namespace is gone. Plug cables with the same MAC addresses to go on."""
        subprocess.run(["ip", "netns", "delete", self.namespace.name], check=True)


@contextmanager
def rig(records: Path) -> Iterator[Rig]:
    with Lab(f"plug{os.getpid()}-{next(_numbers)}") as lab:
        yield Rig(lab, records)


def _body(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
