"""Neutron's side of an amphora, as Octavia's network driver would describe it."""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from octavia.network import data_models

from controller.loadbalancers import new_id


def subnet(
    cidr: str, *, gateway: str | None = None, routes: Mapping[str, str] | None = None
) -> data_models.Subnet:
    """A subnet; `routes` are its host routes, next hop by destination."""
    return data_models.Subnet(
        id=new_id(),
        network_id=new_id(),
        cidr=cidr,
        gateway_ip=gateway,
        ip_version=ipaddress.ip_network(cidr).version,
        host_routes=[
            data_models.HostRoute(nexthop=nexthop, destination=destination)
            for destination, nexthop in (routes or {}).items()
        ],
    )


def port(
    mac: str,
    addresses: Iterable[tuple[str, data_models.Subnet]] = (),
    *,
    mtu: int = 1450,
    port_id: str | None = None,
) -> data_models.Port:
    """A port with fixed addresses, each on its subnet."""
    fixed_ips = [
        data_models.FixedIP(subnet_id=place.id, ip_address=address, subnet=place)
        for address, place in addresses
    ]
    network_id = fixed_ips[0].subnet.network_id if fixed_ips else new_id()
    return data_models.Port(
        id=port_id or new_id(),
        mac_address=mac,
        network_id=network_id,
        network=data_models.Network(id=network_id, mtu=mtu),
        fixed_ips=fixed_ips,
    )


def additional_vip_data(
    vips: Sequence[tuple[str, data_models.Subnet]],
) -> list["data_models.AdditionalVipData"]:  # a type that old releases do not have
    return [
        data_models.AdditionalVipData(ip_address=address, subnet=place) for address, place in vips
    ]
