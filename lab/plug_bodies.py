"""Bodies of the requests that plug ports, as the controller sends them.

What else is given is added, or replaces what is there.
"""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]


def vip_plug(mac: str, *, subnet: str, gateway: str, vrrp_ip: str, **more: Any) -> Body:
    return {
        "subnet_cidr": subnet,
        "gateway": gateway,
        "mac_address": mac,
        "vrrp_ip": vrrp_ip,
        "mtu": 1450,
        "host_routes": [],
        "additional_vips": [],
        **more,
    }


def fixed_ip(address: str, subnet: str, **more: Any) -> Body:
    return {"ip_address": address, "subnet_cidr": subnet, "host_routes": [], **more}


def network_plug(mac: str, *fixed_ips: Body, **more: Any) -> Body:
    return {"mac_address": mac, "fixed_ips": list(fixed_ips), "mtu": 1450, **more}
