"""Messages of generic netlink, by which the kernel's younger families are spoken to: of IPVS, and
of the one that tells the numbers of the others.
"""

import sys

from amphora_agent.kernel.messages import not_executed

_PACKAGE = "pyroute2.netlink.generic"

# The package, and the sockets that a module has beside its messages, need an event loop.
with not_executed("pyroute2"):
    whole = _PACKAGE in sys.modules
    with not_executed(_PACKAGE, GenericNetlinkSocket=object, AsyncGenericNetlinkSocket=object):
        from pyroute2.netlink import ctrlmsg  # type: ignore[import-untyped]
        from pyroute2.netlink.generic.ipvs import ipvsmsg  # type: ignore[import-untyped]
    if not whole:  # whoever imports it later gets real sockets
        del sys.modules[f"{_PACKAGE}.ipvs"]

__all__ = ["ctrlmsg", "ipvsmsg"]
