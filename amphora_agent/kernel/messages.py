"""pyroute2's classes of rtnetlink messages, without the rest of pyroute2.

The package's `__init__` imports the whole library with asyncio: 90 ms and 12 MiB. These classes
alone take 4 ms, so they are imported from a package that has not been executed. Who imports
pyroute2 elsewhere, before or after, still gets the whole library.

pyroute2's class for links loads a module for each kind of link, which takes longer than all others
together: this module declares its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from typing import Any


@contextmanager
def not_executed(package: str, **names: object) -> Iterator[None]:
    """Import modules below `package` without executing it; `names` are what they find in it."""
    spec = find_spec(package)
    if spec is None or package in sys.modules:  # missing, or executed before
        yield
        return
    sys.modules[package] = module_from_spec(spec)
    vars(sys.modules[package]).update(names)
    try:
        yield
    finally:
        del sys.modules[package]


with not_executed("pyroute2"):
    from pyroute2.netlink import nla, nlmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.fibmsg import fibmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

__all__ = ["fibmsg", "ifaddrmsg", "ifinfmsg", "rtmsg"]

_GENERIC = "pyroute2.netlink.generic"


class ifinfmsg(nlmsg):  # type: ignore[misc]
    """A link (rtnetlink.h, if_link.h), with the attributes that the agent uses."""

    fields = (
        ("family", "B"),
        ("__pad", "x"),
        ("ifi_type", "H"),
        ("index", "i"),
        ("flags", "I"),
        ("change", "I"),
    )
    nla_map = (
        (1, "IFLA_ADDRESS", "lladdr"),
        (3, "IFLA_IFNAME", "asciiz"),
        (4, "IFLA_MTU", "uint32"),
        (10, "IFLA_MASTER", "uint32"),
        (28, "IFLA_NET_NS_FD", "uint32"),
        (29, "IFLA_EXT_MASK", "uint32"),
        (52, "IFLA_PROP_LIST", "names"),
    )

    class names(nla):  # type: ignore[misc]
        nla_flags = 0x8000  # NLA_F_NESTED
        nla_map = ((53, "IFLA_ALT_IFNAME", "asciiz"),)


def import_generic_messages() -> tuple[Any, Any]:
    """Return the classes of generic netlink messages of the controller, which knows the number of
    each family, and of IPVS. Most processes do not need them."""
    is_loaded = _GENERIC in sys.modules
    # The packages, and the sockets that their modules have beside messages, need an event loop.
    with (
        not_executed("pyroute2"),
        not_executed(_GENERIC, GenericNetlinkSocket=object, AsyncGenericNetlinkSocket=object),
    ):
        from pyroute2.netlink import ctrlmsg
        from pyroute2.netlink.generic.ipvs import ipvsmsg  # type: ignore[import-untyped]
    if not is_loaded:  # a later import gets real sockets
        del sys.modules[f"{_GENERIC}.ipvs"]
    return ctrlmsg, ipvsmsg
