"""A DHCP server: dnsmasq, on one interface of a namespace.

    with DhcpServer(router, "eth0", "10.2.0.50", "10.2.0.60", directory=lab.directory()) as server:
        ...

It remembers nothing over its end, and refuses leases that are not of its range at once.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.lifecycle import Closing
from lab.network import CommandError, Namespace
from lab.waiting import until

#: dnsmasq lends for two minutes at least.
SHORTEST = 120

_numbers = itertools.count()


class DhcpServer(Closing):
    """Lends the addresses from ``first`` to ``last`` to whoever asks on ``ifname``.

    ``options`` are dnsmasq's, for example ``121,192.168.7.0/24,10.2.0.9``; clients get those that
    they ask for, and all of ``unasked``.
    """

    def __init__(
        self,
        namespace: Namespace,
        ifname: str,
        first: str,
        last: str,
        *,
        directory: Path,
        netmask: str = "255.255.255.0",
        seconds: int = SHORTEST,
        options: Sequence[str] = (),
        unasked: Sequence[str] = (),
    ) -> None:
        self._log_file = directory / f"dnsmasq{next(_numbers)}.log"
        arguments = [
            *("/usr/sbin/dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file="),
            *("--user=root", "--leasefile-ro", "--log-dhcp"),
            *("--port=0", "--no-hosts", "--no-resolv"),
            *(f"--interface={ifname}", "--bind-dynamic", "--dhcp-authoritative", "--no-ping"),
            f"--dhcp-range={first},{last},{netmask},{seconds}",
            *(f"--dhcp-option={option}" for option in options),
            *(f"--dhcp-option-force={option}" for option in unasked),
        ]
        with self._log_file.open("w") as log:
            self._process = namespace.popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            until(self._serves, "the DHCP server serves")
        except BaseException:  # also Ctrl-C: nothing that was started may stay
            self.close()
            raise

    @property
    def log(self) -> str:
        """What it said, every option of every answer included."""
        return self._log_file.read_text()

    @property
    def leases(self) -> int:
        """How many leases it has granted, renewals included."""
        return self.log.count(" DHCPACK(")

    def close(self) -> None:
        """End it; nobody is told. May be called again."""
        self._process.kill()
        self._process.wait()

    def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise CommandError(f"dnsmasq ended: {self.log.strip()}")
        return "sockets bound exclusively to interface" in self.log
