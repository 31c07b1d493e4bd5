"""How full the kernel's table of connections is."""

from amphora_agent.errors import OperationFailed
from amphora_agent.model.figures import Conntrack
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl

_USED, _LIMIT = "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"


def usage(namespace: Namespace) -> Conntrack | None:
    """That of the namespace; None where the kernel tracks nothing, or there is no namespace."""
    try:
        found = dict(namespace.run(lambda: sysctl.read((_USED, _LIMIT))))
    except OperationFailed:
        return None
    if not found.keys() >= {_USED, _LIMIT}:
        return None
    return Conntrack(used=int(found[_USED]), limit=int(found[_LIMIT]))
