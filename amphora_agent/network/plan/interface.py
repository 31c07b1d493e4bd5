"""Compute what an interface of the amphora must have from what the controller plugged, and from the
DHCP lease of its port.

The addresses, routes and rules are those of WIRE §5. Each route and rule of the agent carries its
own protocol number: those of keepalived and the kernel are never changed.

A lease is parsed from the environment in which the client (udhcpc) runs its script. A server
deserves no more trust than the tenant whose network it is in. Its answer becomes an address, a
prefix, an MTU and routes to networks, or it is refused. It never becomes a default route: the
controller chooses that.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_interface, ip_network

import msgspec

from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import Address, Interface, Mac, Network
from amphora_agent.model.plugging import HostRoute, Mtu, NetworkPlug, PluggedVip, SubnetAddress

#: The interface that holds the VIPs, whatever the kernel called it.
VIP_INTERFACE = "eth1"

#: The protocol number of the agent's routes and rules. Unassigned in iproute2's rt_protos and in
#: the kernel's rtnetlink.h, and above RTPROT_STATIC: the kernel itself gives it no meaning.
OWN_PROTOCOL = 154

MAIN_TABLE = 254
#: Where packets from a VIP are routed (WIRE §5). keepalived uses the same in ACTIVE_STANDBY.
VIP_TABLE = 1
#: As in the controller's template for keepalived.
VIP_RULE_PRIORITY = 100

#: The default metric of IPv6 routes.
_IPV6_METRIC = 1024

#: By IP version.
DEFAULT_DESTINATION = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}

#: The shortest prefix of a subnet or a route: two halves of the world make a default route, too.
_WIDEST = 8
#: Option 121 has 255 bytes, and a route at least five.
_MOST_ROUTES = 51
#: As in udhcpc: seconds if the server names none, and the fewest.
_UNNAMED, _SHORTEST = "3600", 16
_FOREVER = 2**32 - 1
#: Characters of an error message, which quotes the server.
_MOST_WORDS = 200


class HostAddress(msgspec.Struct, frozen=True):
    """An address of an interface.

    A deprecated one answers, and is never the source of a new connection.
    """

    interface: Interface
    deprecated: bool = False

    def __str__(self) -> str:
        return f"{self.interface}{' deprecated' if self.deprecated else ''}"


class Route(msgspec.Struct, frozen=True):
    """A route through the interface. A gateway is on-link, even outside every subnet."""

    destination: Network
    metric: int
    table: int = MAIN_TABLE
    gateway: Address | None = None
    source: Address | None = None
    protocol: int = OWN_PROTOCOL

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        src = f" src {self.source}" if self.source else ""
        table = f" table {self.table}" if self.table != MAIN_TABLE else ""
        return f"{self.destination}{via}{src}{table} metric {self.metric}"


class Rule(msgspec.Struct, frozen=True):
    """Packets from `source` are routed by `table`."""

    source: Network
    table: int = VIP_TABLE
    priority: int = VIP_RULE_PRIORITY
    protocol: int = OWN_PROTOCOL

    def __str__(self) -> str:
        return f"from {self.source} lookup {self.table} priority {self.priority}"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """An address that is lent until `expires` (seconds since the epoch), and what came with it."""

    address: Interface
    routes: tuple[HostRoute, ...] = ()
    mtu: Mtu | None = None
    expires: float

    def __str__(self) -> str:
        routes = [f"{route.destination} via {route.nexthop}" for route in self.routes]
        mtu = [f"mtu {self.mtu}"] if self.mtu else []
        return ", ".join([str(self.address), *routes, *mtu])


class InterfaceSpec(msgspec.Struct, frozen=True):
    """The addresses, routes, rules and settings that an interface must have. `mtu` None leaves it.

    `dhcp`: the interface needs a DHCP client, whose lease is one more source of the spec.
    `optional`: routes that a tenant chose. One that the kernel refuses is logged and left out: it
    must not take the load balancer down.
    `retired`: addresses that an earlier spec had and this one has not. Any other address was added
    by the kernel or keepalived, and stays.
    """

    mac: Mac
    name: str
    mtu: int | None = None
    addresses: tuple[HostAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    optional: frozenset[Route] = frozenset()
    rules: tuple[Rule, ...] = ()
    up: bool = True
    dhcp: bool = False
    slaac: bool = False
    retired: frozenset[Interface] = frozenset()

    @property
    def owns_rules(self) -> bool:
        """Rules belong to no interface: the VIP interface reconciles all of the agent's."""
        return self.name == VIP_INTERFACE

    @property
    def sysctls(self) -> tuple[tuple[str, str], ...]:
        """Settings of the interface: `ipv6/accept_ra` is `net.ipv6.conf.<name>.accept_ra`.

        2 accepts router advertisements although the namespace forwards packets. Without SLAAC
        they are refused: no member network may set up addresses of its own. A default route it
        must not set up with SLAAC either.
        Promotion lets the first IPv4 address of a subnet go without taking the others with it.
        """
        settings = {"ipv6/accept_ra": "0", "ipv6/autoconf": "0", "ipv4/promote_secondaries": "1"}
        if self.slaac:
            default_route = "1" if self.name == VIP_INTERFACE else "0"
            settings |= {"ipv6/accept_ra": "2", "ipv6/autoconf": "1"}
            settings |= {"ipv6/accept_ra_defrtr": default_route}
        return tuple(settings.items())


def build_interface_spec(
    mac: Mac,
    name: str,
    *,
    vip: PluggedVip | None,
    network: NetworkPlug | None,
    single: bool,
    lease: Lease | None = None,
    owned: Iterable[Interface] = (),
) -> InterfaceSpec:
    """Return the spec of the port `mac` as interface `name`.

    Args:
        vip: what was plugged as VIP on this port, if anything.
        network: what was plugged as member network on this port, if anything.
        single: whether the agent holds the VIPs; otherwise keepalived does.
        lease: what DHCP gave the port, where it takes DHCP.
        owned: addresses that earlier specs have put on the interface.
    """
    vips = vip.vips if vip else ()
    fixed_ips = (network.fixed_ips if network else None) or ()
    automatic = vip.vrrp_ip is None if vip else not fixed_ips
    dhcp = automatic and (vip is None or any(own_vip.ip_address.version == 4 for own_vip in vips))
    lease = lease if dhcp else None
    addresses: list[HostAddress] = []
    if vip and vip.vrrp_ip is not None:
        addresses.append(_add_prefix(vip.vrrp_ip, vip.subnet_cidr))
    if lease:
        addresses.append(HostAddress(lease.address))
    if single:
        addresses += (_as_host(own_vip.ip_address) for own_vip in vips)
    addresses += (_add_prefix(fixed.ip_address, fixed.subnet_cidr) for fixed in fixed_ips)
    by_ip: dict[Address, HostAddress] = {}
    for address in addresses:
        by_ip.setdefault(address.interface.ip, address)
    wanted = {address.interface for address in by_ip.values()}

    connected = {interface.network for interface in wanted}
    routing = _Routing(metric=int(name.removeprefix("eth")), connected=connected)
    tables = (MAIN_TABLE, VIP_TABLE) if single else (MAIN_TABLE,)
    for own_vip, table in itertools.product(vips, tables):
        routing.add_vip(own_vip, table)
    for fixed_ip in fixed_ips:
        routing.add_host_routes(fixed_ip.host_routes, MAIN_TABLE)
        # A member network gets a default route only on the VIP's own port, where it may be the
        # only one of its family.
        for table in tables if vip else ():
            routing.add_default(fixed_ip.gateway, table)
    if lease and not vip:
        routing.add_host_routes(lease.routes, MAIN_TABLE)

    mtus = (network and network.mtu, vip and vip.mtu, lease and lease.mtu)
    return InterfaceSpec(
        mac=mac,
        name=name,
        mtu=next((mtu for mtu in mtus if mtu), None),
        addresses=tuple(by_ip.values()),
        routes=tuple(routing.routes.values()),
        optional=frozenset(routing.chosen),
        rules=tuple(Rule(ip_network(own_vip.ip_address)) for own_vip in vips) if single else (),
        dhcp=dhcp,
        slaac=automatic,
        retired=frozenset(owned) - wanted,
    )


def remove_all(spec: InterfaceSpec) -> InterfaceSpec:
    """Return the spec of the same interface set down, without anything of the agent."""
    ours = frozenset(address.interface for address in spec.addresses)
    return InterfaceSpec(spec.mac, spec.name, up=False, retired=ours | spec.retired)


class _Routing:
    """Collects routes; of several to one destination in one table the first stays.

    The metric is the interface's number: the kernel's own routes (0) come before ours, and those
    of the VIP interface before those of members, in whatever order the interfaces were plugged.
    """

    def __init__(self, metric: int, connected: set[Network]) -> None:
        self._metric = metric
        self._connected = connected
        self.routes: dict[tuple[int, Network], Route] = {}
        #: The routes that stand here only because a tenant chose them.
        self.chosen: set[Route] = set()

    def add_vip(self, vip: SubnetAddress, table: int) -> None:
        source = vip.ip_address if table == VIP_TABLE else None
        self._add(vip.subnet_cidr, table, source=source)
        self.add_default(vip.gateway, table)
        self.add_host_routes(vip.host_routes, table)

    def add_default(self, gateway: Address | None, table: int) -> None:
        if gateway is not None:
            self._add(DEFAULT_DESTINATION[gateway.version], table, gateway=gateway)

    def add_host_routes(self, host_routes: Iterable[HostRoute] | None, table: int) -> None:
        for sent in host_routes or ():
            if route := self._add(sent.destination, table, gateway=sent.nexthop):
                self.chosen.add(route)

    def _add(
        self,
        destination: Network,
        table: int,
        *,
        gateway: Address | None = None,
        source: Address | None = None,
    ) -> Route | None:
        """Add and return a route; return None if there is one to the destination."""
        if table == MAIN_TABLE and destination in self._connected:
            return None  # the kernel makes this route, with the address
        if (table, destination) in self.routes:
            return None
        metric = self._metric + (_IPV6_METRIC if destination.version == 6 else 0)
        route = Route(destination, metric, table=table, gateway=gateway, source=source)
        self.routes[table, destination] = route
        return route


def _add_prefix(address: Address, subnet: Network) -> HostAddress:
    return HostAddress(ip_interface((address, subnet.prefixlen)))


def _as_host(vip: Address) -> HostAddress:
    # Connections to members come from vrrp_ip. IPv4 chooses it by its subnet; IPv6 would choose
    # the VIP when that has more bits in common with the member. keepalived deprecates it, too.
    return HostAddress(ip_interface(vip), deprecated=vip.version == 6)


# DHCP leases


def parse_lease(environment: Mapping[str, str], now: float) -> Lease:
    """Return the lease that udhcpc describes to its script at `bound` and `renew`.

    Args:
        environment: `ip`, `subnet` (a mask) and `lease` (seconds), `mtu` when the server has one,
            `staticroutes` ("10.0.0.0/8 10.1.0.9 …", option 121) likewise. Others are not read.
        now: seconds since the epoch.

    Raises:
        InvalidRequest: one of them is missing or invalid.
    """
    try:
        mtu, duration = environment.get("mtu"), environment.get("lease", _UNNAMED)
        return Lease(
            address=_parse_address(environment),
            routes=tuple(_parse_routes(environment.get("staticroutes", ""))),
            mtu=_parse_number(mtu, 68, 65535) if mtu is not None else None,
            expires=now + max(_SHORTEST, _parse_number(duration, 0, _FOREVER)),
        )
    except ValueError as error:
        raise InvalidRequest("Invalid DHCP lease", str(error)[:_MOST_WORDS]) from None


def _parse_address(environment: Mapping[str, str]) -> IPv4Interface:
    ip = _parse_host(environment.get("ip", ""))
    mask = environment.get("subnet", "")
    address = IPv4Interface(f"{ip}/{mask}")
    network = address.network
    # ipaddress would understand an inverted mask.
    if str(address.netmask) != mask or network.prefixlen < _WIDEST:
        raise ValueError(f"{mask!r} is not the mask of a subnet")
    if network.prefixlen < 31 and ip in (network.network_address, network.broadcast_address):
        raise ValueError(f"{address} is not the address of a host")
    return address


def _parse_routes(text: str) -> Iterator[HostRoute]:
    hosts = text.split()
    if len(hosts) % 2 or len(hosts) > 2 * _MOST_ROUTES:
        raise ValueError(f"{text!r} are not routes")
    for destination, nexthop in zip(hosts[::2], hosts[1::2], strict=True):
        network = IPv4Network(destination, strict=False)
        # Next hop 0.0.0.0 means a network on the link, which is what the prefix is for.
        if network.prefixlen >= _WIDEST and nexthop != "0.0.0.0":  # noqa: S104 - nothing is bound
            yield HostRoute(destination=network, nexthop=_parse_host(nexthop))


def _parse_host(text: str) -> IPv4Address:
    address = IPv4Address(text)
    # Reserved are 240.0.0.0/4, the broadcast address among them; the first network is "this" one.
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_reserved
        or address in IPv4Network("0.0.0.0/8")
    ):
        raise ValueError(f"{address} is not the address of a host")
    return address


def _parse_number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise ValueError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)
