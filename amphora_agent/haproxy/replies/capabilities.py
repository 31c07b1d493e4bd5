"""Capabilities of a version of haproxy, as measured."""

import re
from typing import NamedTuple


class Capabilities(NamedTuple):
    """What a version can do while it runs.

    `add_servers`: members can be added while it runs; `add_cookies`: with a persistence cookie.
    `delete_servers`: it is safe to; 2.6 may use a member's memory after it is gone.
    `pools_connections`: a member that was added reuses connections without being told to.
    """

    version: str
    add_servers: bool = False
    add_cookies: bool = False
    delete_servers: bool = False
    pools_connections: bool = False


def find_capabilities(version: str) -> Capabilities:
    """Return the capabilities of a version such as `2.6.12-1+deb12u4`."""
    match = re.match(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    return Capabilities(
        version=version,
        add_servers=number >= (2, 6),
        add_cookies=number >= (2, 8),
        delete_servers=number >= (2, 8),
        pools_connections=number >= (2, 8),
    )
