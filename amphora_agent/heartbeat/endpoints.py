"""Where heartbeats go: the entries of `controller_ip_port_list`."""

import ipaddress
from typing import NamedTuple


class Endpoint(NamedTuple):
    """An address and port of a health manager."""

    host: str
    port: int
    ipv6: bool


def parse(entry: str) -> Endpoint:
    """Read `192.0.2.1:5555` or `[2001:db8::1]:5555` (also without brackets: the last colon
    counts).

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = entry.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{entry!r} is not ADDRESS:PORT")
    address = ipaddress.ip_address(host)
    return Endpoint(str(address), int(port), address.version == 6)
