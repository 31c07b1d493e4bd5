"""pyroute2's classes of generic netlink messages: of IPVS, and of the controller, which knows the
number of each family.
"""

import sys

from amphora_agent.kernel.messages import not_executed

_PACKAGE = "pyroute2.netlink.generic"

# The package, and the sockets that its modules have beside messages, need an event loop.
with not_executed("pyroute2"):
    is_loaded = _PACKAGE in sys.modules
    with not_executed(_PACKAGE, GenericNetlinkSocket=object, AsyncGenericNetlinkSocket=object):
        from pyroute2.netlink import ctrlmsg  # type: ignore[import-untyped]
        from pyroute2.netlink.generic.ipvs import ipvsmsg  # type: ignore[import-untyped]
    if not is_loaded:  # a later import gets real sockets
        del sys.modules[f"{_PACKAGE}.ipvs"]

__all__ = ["ctrlmsg", "ipvsmsg"]
