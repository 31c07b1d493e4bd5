"""The server state file: how member states come through a reload.

haproxy believes the port in this file more than the one in its configuration, and ignores a
changed one silently. So only rows that agree with the configuration to be loaded go into it.
"""

import ipaddress

from amphora_agent.haproxy.text import Config

#: Columns of version 1 (management manual, "show servers state"), counted from 0.
_BACKEND, _SERVER, _ADDRESS, _PORT = 1, 3, 4, 18


def carry_over(state: str, wanted: Config) -> str:
    """The rows of `state` (a reply to `show servers state`) for servers that `wanted` has
    unchanged in backend, name, address and port; with the final newline that haproxy needs."""
    addresses = _addresses(wanted)
    kept = []
    for line in state.splitlines():
        if not line or line == "1" or line.startswith("#"):
            kept.append(line)
            continue
        columns = line.split(" ")
        if len(columns) <= _PORT:
            continue
        row = columns[_BACKEND], columns[_SERVER], columns[_ADDRESS], columns[_PORT]
        if row in addresses:
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def _addresses(config: Config) -> set[tuple[str, str, str, str]]:
    return {
        (backend.name, server.words[1], *_split(server.words[2]))
        for backend in config.of_kind("backend")
        for server in backend.all("server")
        if len(server.words) > 2
    }


def _split(address: str) -> tuple[str, str]:
    """`address:port`, also of IPv6, as the state file writes them."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        return host, port
