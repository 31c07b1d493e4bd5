"""UDP and SCTP listeners as a controller describes them to keepalived.

Written from the contract; the controller's own text is in the conformance tests.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

Check = Literal["UDP-CONNECT", "SCTP", "TCP"]


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True)
class LvsMember:
    address: str
    port: int
    weight: int = 1
    enabled: bool = True
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class LvsListener:
    """``check`` is a health monitor's kind; ``delay``, ``timeout`` are in seconds."""

    vips: Sequence[str]
    port: int
    members: Sequence[LvsMember]
    protocol: Literal["UDP", "SCTP"] = "UDP"
    check: Check | None = None
    delay: int = 1
    timeout: int = 1
    fall: int = 1
    enabled: bool = True
    id: str = field(default_factory=_new_id)
    pool_id: str = field(default_factory=_new_id)
    monitor_id: str = field(default_factory=_new_id)
    balancer_id: str = field(default_factory=_new_id)

    def text(self) -> str:
        """For keepalived."""
        return "\n".join([*self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        yield f"# Configuration for Loadbalancer {self.balancer_id}"
        yield (
            f"# Configuration for Listener {self.id}"
            if self.enabled
            else f"# Listener {self.id} is disabled"
        )
        yield "net_namespace amphora-haproxy"
        for version in (4, 6):
            vips = [vip for vip in self.vips if ip_address(vip).version == version]
            if vips and self.enabled:
                yield from self._virtual(version, vips)

    def _virtual(self, version: int, vips: Sequence[str]) -> Iterator[str]:
        group = f"ipv{version}-group"
        yield from (f"virtual_server_group {group} {{", *(f"    {vip} {self.port}" for vip in vips))
        yield from ("}", f"virtual_server group {group} {{", "    lb_algo wrr", "    lb_kind NAT")
        yield f"    protocol {self.protocol}"
        if self.check:
            yield from (f"    delay_loop {self.delay}", f"    delay_before_retry {self.delay}")
            yield f"    retry {self.fall}"
        yield f"    # Configuration for Pool {self.pool_id}"
        if self.check:
            yield f"    # Configuration for HealthMonitor {self.monitor_id}"
        for member in self.members:
            if ip_address(member.address).version != version:
                continue
            if not member.enabled:
                yield f"    # Member {member.id} is disabled"
                continue
            yield f"    # Configuration for Member {member.id}"
            yield f"    real_server {member.address} {member.port} {{"
            yield f"        weight {member.weight}"
            yield from (f"        {line}" for line in self._check(member))
            yield "    }"
        yield "}"

    def _check(self, member: LvsMember) -> Iterator[str]:
        where = f"{member.address} {member.port}"
        if self.check == "UDP-CONNECT":
            command = f"/var/lib/octavia/lvs/check/udp_check.sh {where}"
            yield from ("MISC_CHECK {", f'    misc_path "{command}"')
            yield from (f"    misc_timeout {self.timeout}", "}")
        elif self.check == "SCTP":
            command = f"amphora-health-checker sctp -t {self.timeout} {where}"
            yield from ("MISC_CHECK {", f'    misc_path "{command}"')
            yield from (f"    misc_timeout {self.timeout + 1}", "}")
        elif self.check == "TCP":
            yield from ("TCP_CHECK {", f"    connect_ip {member.address}")
            yield from (f"    connect_port {member.port}", f"    connect_timeout {self.timeout}")
            yield "}"
