"""The server state file: how member states come through a reload.

haproxy believes the port in this file more than the one in its configuration, and ignores a
changed one silently. So only rows that agree with the configuration to be loaded go into it.
"""

import ipaddress

from amphora_agent.haproxy.text import Config

#: What of a configuration must be parsed to know what is carried over.
KEYWORDS = frozenset({"server"})

#: The file without any server; haproxy warns when there is none at all.
NOTHING = "1\n"

#: Columns of version 1 (management manual, "show servers state"), counted from 0.
_BACKEND, _SERVER, _ADDRESS, _PORT = 1, 3, 4, 18


def may_be_read(wanted: str) -> bool:
    """Whether haproxy may read the file when it loads this configuration: the controller lets it
    for pools with a health monitor."""
    return "server-state-file" in wanted and "load-server-state-from-file" in wanted


def carry_over(state: str, wanted: Config) -> str:
    """The rows of `state` (a reply to `show servers state`) for servers that `wanted` has
    unchanged in backend, name, address and port; with the final newline that haproxy needs."""
    addresses = {
        (backend.name, server.words[1]): server.words[2]
        for backend in wanted.of_kind("backend")
        for server in backend.all("server")
        if len(server.words) > 2
    }
    kept = []
    for line in state.split("\n"):
        if not line or line == "1" or line.startswith("#"):
            kept.append(line)
            continue
        columns = line.split(" ", _PORT + 1)
        if len(columns) <= _PORT:
            continue
        address = addresses.get((columns[_BACKEND], columns[_SERVER]), "")
        host, port = columns[_ADDRESS], columns[_PORT]
        if address == f"{host}:{port}" or _is_also(address, host, port):
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def _is_also(address: str, host: str, port: str) -> bool:
    """Whether a configuration's `address:port` is another spelling of this one."""
    wanted_host, _, wanted_port = address.rpartition(":")
    try:
        return wanted_port == port and str(ipaddress.ip_address(wanted_host.strip("[]"))) == host
    except ValueError:
        return False
