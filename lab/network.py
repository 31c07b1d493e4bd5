"""Network namespaces and the cables between them.

    with Lab("demo") as lab:
        client = lab.namespace("client")
        lab.cable(client, "eth0", lab.host, "hotplug0", mac_b="fa:16:3e:00:00:01")
        client.address("eth0", "10.0.0.10/24")

A namespace ``x`` of the laboratory ``demo`` is called ``demo-x`` on the machine. A cable whose one
end stays in the host's namespace is a network card just plugged into an amphora: down, without
addresses, known only by its MAC address, and free to be moved away and renamed.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from lab.cleanup_registry import Record
from lab.lifecycle import Closing

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_IFNAMSIZ = 15


class CommandError(RuntimeError):
    """A command that had to succeed did not."""


@dataclass(frozen=True)
class Namespace:
    """A network namespace; ``name`` is None for the one this process is in."""

    name: str | None

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name if self.name else Path("/proc/self/ns/net")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The argument list that runs another one inside. ``ip`` replaces itself by the program,
        so the process started with it is the program's own."""
        inside = ["ip", "netns", "exec", self.name] if self.name else []
        return [*inside, *arguments]

    def run(
        self,
        arguments: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; raises CommandError when it fails and ``check`` is set."""
        return _run(self.command(arguments), check=check, timeout=timeout, stdin=stdin)

    def popen(
        self,
        arguments: Sequence[str],
        *,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program; the caller ends it."""
        return subprocess.Popen(
            self.command(arguments), text=True, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd
        )

    def ip(self, *arguments: str, check: bool = True) -> str:
        """Run ``ip`` on this namespace, and answer with its output."""
        inside = ["-netns", self.name] if self.name else []
        return _run(["ip", *inside, *arguments], check=check).stdout

    def address(self, ifname: str, *cidrs: str) -> None:
        """Add addresses; IPv6 ones are usable at once (no duplicate-address detection)."""
        for cidr in cidrs:
            nodad = ["nodad"] if ":" in cidr else []
            self.ip("address", "add", cidr, "dev", ifname, *nodad)

    def route(self, destination: str, *, via: str | None = None, ifname: str | None = None) -> None:
        """Add a route; ``destination`` may be ``default`` (give ``via``, it tells the family)."""
        family = "-6" if ":" in destination or ":" in (via or "") else "-4"
        gateway = ["via", via] if via else []
        device = ["dev", ifname] if ifname else []
        self.ip(family, "route", "replace", destination, *gateway, *device)

    def up(self, ifname: str) -> None:
        self.ip("link", "set", ifname, "up")

    def down(self, ifname: str) -> None:
        self.ip("link", "set", ifname, "down")

    def sysctl(self, key: str, value: str) -> None:
        """Set a kernel setting of this namespace, for example ``net.ipv4.ip_forward``."""
        self.run(["sysctl", "-qw", f"{key}={value}"])

    def forward(self) -> None:
        """Let the namespace be a router."""
        self.sysctl("net.ipv4.ip_forward", "1")
        self.sysctl("net.ipv6.conf.all.forwarding", "1")

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own that has entered the namespace.

        Sockets that it makes belong to the namespace for good, whichever thread uses them later.
        """
        if self.name is None:
            return function()
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self.path)
                results.append(function())
            except BaseException as error:  # handed to the caller's thread, whatever it is
                errors.append(error)

        thread = threading.Thread(target=work, name=f"inside {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def make_socket(self, address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A new socket of the namespace, of the family of the given IP address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return self.inside(lambda: socket.socket(family, kind))

    def connect(self, address: str, port: int, *, timeout: float = 10) -> socket.socket:
        """A TCP connection made from inside the namespace."""
        connection = self.make_socket(address)
        connection.settimeout(timeout)
        try:
            connection.connect((address, port))
        except BaseException:  # also an interruption leaves no connection open
            connection.close()
            raise
        return connection


@dataclass(frozen=True)
class Cable:
    """A virtual Ethernet pair. The ends' names and places are those at the time of plugging."""

    a: Namespace
    ifname_a: str
    mac_a: str
    b: Namespace
    ifname_b: str
    mac_b: str

    def unplug(self) -> None:
        """Remove the cable, wherever its ends have gone; fine when it is gone already."""
        # Deleting either end deletes both; the first is the one less likely to be moved away.
        for end, ifname in ((self.a, self.ifname_a), (self.b, self.ifname_b)):
            end.ip("link", "delete", ifname, check=False)


class Bridge:
    """A switch inside one namespace: several hosts on one segment."""

    def __init__(self, lab: Lab, namespace: Namespace, ifname: str) -> None:
        self._lab = lab
        self._ports = 0
        self.namespace = namespace
        self.ifname = ifname
        namespace.ip("link", "add", ifname, "type", "bridge", "mcast_snooping", "0")
        namespace.up(ifname)

    def port(
        self, host: Namespace, ifname: str, *, mac: str | None = None, mtu: int | None = None
    ) -> Cable:
        """Plug a host in: ``ifname`` appears in its namespace."""
        self._ports += 1
        port = f"{self.ifname}p{self._ports}"
        cable = self._lab.cable(self.namespace, port, host, ifname, mac_b=mac, mtu=mtu)
        self.namespace.ip("link", "set", port, "master", self.ifname)
        return cable


class Lab(Closing):
    """Owner of everything it makes; deletes that, and nothing else, when closed."""

    def __init__(self, prefix: str) -> None:
        """Raises leftovers.InUseError when another laboratory of this prefix is open."""
        self.prefix = prefix
        self.host = Namespace(None)
        self.record = Record.open(prefix)
        self._closed = False

    def namespace(self, name: str) -> Namespace:
        """Make the namespace ``<prefix>-<name>``, with ``lo`` up."""
        full = f"{self.prefix}-{name}"
        if (Path("/run/netns") / full).exists():
            # Not in any record, or Record.open() had removed it: not ours, so not ours to delete.
            raise CommandError(f"namespace {full} exists already")
        self.record.add_namespace(full)
        _run(["ip", "netns", "add", full])
        namespace = Namespace(full)
        # Link-local addresses would otherwise be unusable for their first second.
        namespace.run(
            [
                "sysctl",
                "-qw",
                "net.ipv6.conf.all.accept_dad=0",
                "net.ipv6.conf.default.accept_dad=0",
                # Tests listen at ports below this; an agent in here lets clients use them, too.
                "net.ipv4.ip_local_reserved_ports=1026-32767",
            ]
        )
        namespace.up("lo")
        return namespace

    def cable(
        self,
        a: Namespace,
        ifname_a: str,
        b: Namespace,
        ifname_b: str,
        *,
        mac_a: str | None = None,
        mac_b: str | None = None,
        mtu: int | None = None,
    ) -> Cable:
        """Lay a cable. Ends in namespaces are up; an end in the host's namespace stays down."""
        ends = ((a, ifname_a, mac_a), (b, ifname_b, mac_b))
        for end, ifname, _ in ends:
            if len(ifname) > _IFNAMSIZ:
                raise ValueError(f"interface name {ifname} is longer than {_IFNAMSIZ} characters")
            if end.name is None:
                self.record.add_link(ifname)
        size = ["mtu", str(mtu)] if mtu else []
        _run(
            [
                *("ip", "link", "add", *_end(*ends[0]), *size),
                *("type", "veth", "peer", *_end(*ends[1]), *size),
            ]
        )
        for end, ifname, _ in ends:
            if end.name is not None:
                end.up(ifname)
        return Cable(a, ifname_a, _mac(a, ifname_a), b, ifname_b, _mac(b, ifname_b))

    def bridge(self, namespace: Namespace, ifname: str) -> Bridge:
        return Bridge(self, namespace, ifname)

    def directory(self) -> Path:
        """A new directory, deleted on closing. Its path is short enough for haproxy's sockets."""
        path = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self.record.add_directory(path)
        return path

    def close(self) -> None:
        """End the processes inside, delete namespaces and interfaces. May be called again."""
        if not self._closed:
            self._closed = True
            self.record.remove()


def namespace_exists(name: str) -> bool:
    return (Path("/run/netns") / name).exists()


def _end(namespace: Namespace, ifname: str, mac: str | None) -> list[str]:
    place = ["netns", namespace.name] if namespace.name else []
    hardware = ["address", mac] if mac else []
    return ["name", ifname, *place, *hardware]


def _mac(namespace: Namespace, ifname: str) -> str:
    for line in namespace.ip("-oneline", "link", "show", "dev", ifname).splitlines():
        words = line.split()
        return words[words.index("link/ether") + 1]
    raise CommandError(f"interface {ifname} has no MAC address")


def _enter(path: Path) -> None:
    """Move the calling thread into a namespace (os.setns() exists from Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def _run(
    arguments: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 30,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        list(arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        # Without input of its own a program must not eat the terminal's: it gets an empty one.
        input=stdin or "",
    )
    if check and result.returncode != 0:
        said = (result.stderr or result.stdout).strip()
        raise CommandError(f"{' '.join(arguments)}: exit code {result.returncode}: {said}")
    return result
