"""What a version of haproxy can do, as measured."""

import re
from typing import NamedTuple


class Capabilities(NamedTuple):
    """`synchronous_reload`: the master answers `reload` when it is over, and says how it went;
    earlier ones hang up at once and their `show proc` must be watched."""

    version: str
    synchronous_reload: bool


def of_version(version: str) -> Capabilities:
    """The capabilities of a version such as `2.6.12-1+deb12u4`."""
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    return Capabilities(version=version, synchronous_reload=number >= (2, 7))
