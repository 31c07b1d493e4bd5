"""The bodies of requests that plug interfaces and open them, as the controller sends them.

Nulls stand where a controller has nothing to say. The field names are the controller's.
"""

import enum
from typing import Annotated, TypeAlias

import msgspec

from amphora_agent.model.addressing import Address, Mac, Network

#: Bytes. 68 is the least that IPv4 works with, 65535 the most that a packet can have.
Mtu = Annotated[int, msgspec.Meta(ge=68, le=65535)]


class HostRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the subnet's own, chosen by the tenant."""

    destination: Network
    nexthop: Address

    def __post_init__(self) -> None:
        _same_family(self.destination, "nexthop", self.nexthop)


class SubnetAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a port, with what its subnet brings."""

    ip_address: Address
    subnet_cidr: Network
    gateway: Address | None = None
    host_routes: tuple[HostRoute, ...] | None = None

    def __post_init__(self) -> None:
        _assignable("ip_address", self.ip_address)
        _same_family(self.subnet_cidr, "ip_address", self.ip_address)
        _same_family(self.subnet_cidr, "gateway", self.gateway)


class VipPlug(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /plug/vip/{vip}`. `additional_vips` may be of other subnets."""

    subnet_cidr: Network
    gateway: Address | None
    mac_address: Mac
    mtu: Mtu | None = None
    vrrp_ip: Address | None = None
    host_routes: tuple[HostRoute, ...] | None = None
    additional_vips: tuple[SubnetAddress, ...] | None = None
    is_sriov: bool | None = None

    def __post_init__(self) -> None:
        _same_family(self.subnet_cidr, "gateway", self.gateway)
        _same_family(self.subnet_cidr, "vrrp_ip", self.vrrp_ip)
        if self.vrrp_ip is not None:
            _assignable("vrrp_ip", self.vrrp_ip)


class PluggedVip(VipPlug, frozen=True, kw_only=True):
    """A VIP body together with the VIP itself, which `/plug/vip/{vip}` has in its path."""

    vip: Address

    def __post_init__(self) -> None:
        VipPlug.__post_init__(self)
        _assignable("vip", self.vip)
        _same_family(self.subnet_cidr, "vip", self.vip)

    @property
    def vips(self) -> tuple[SubnetAddress, ...]:
        """Every VIP of the port in one form; the load balancer's own is the first."""
        own = SubnetAddress(
            ip_address=self.vip,
            subnet_cidr=self.subnet_cidr,
            gateway=self.gateway,
            host_routes=self.host_routes,
        )
        return (own, *(self.additional_vips or ()))


class NetworkPlug(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /plug/network`, a network of members. With `vip_net_info` the port is the
    VIP's own."""

    mac_address: Mac
    fixed_ips: tuple[SubnetAddress, ...] | None = None
    mtu: Mtu | None = None
    vip_net_info: PluggedVip | None = None
    is_sriov: bool | None = None


def _same_family(subnet: Network, name: str, address: Address | None) -> None:
    if address is not None and address.version != subnet.version:
        raise ValueError(f"{name} {address} is not of the family of {subnet}")


def _assignable(name: str, address: Address) -> None:
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise ValueError(f"{name} {address} is not the address of a host")


class Protocol(enum.StrEnum):
    """Controllers write VRRP in lower case and the others in upper case: any case is read."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    VRRP = "VRRP"

    @classmethod
    def _missing_(cls, value: object) -> "Protocol | None":
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


_MOST_RULES = 10_000


class InterfaceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lets in what comes from `cidr`, None being anywhere. VRRP has no ports: `port` says
    nothing then."""

    protocol: Protocol
    cidr: Network | None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


#: One rule for each port of a listener and each network that may reach it.
InterfaceRules: TypeAlias = Annotated[
    tuple[InterfaceRule, ...], msgspec.Meta(max_length=_MOST_RULES)
]
