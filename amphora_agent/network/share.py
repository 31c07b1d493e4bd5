"""Makes what all interfaces share what it should be: the firewall, and the namespace's settings.

Without netlink, so that at a boot the firewall can be on its way while netlink is loaded.
"""

import logging

from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace
from amphora_agent.network import shared, sysctl
from amphora_agent.network.diff import SetSysctl
from amphora_agent.network.firewall import Ruleset
from amphora_agent.network.nftables import Nftables
from amphora_agent.network.shared import RaiseLimit, SetFirewall, SharedOp, SharedState, diff_shared

logger = logging.getLogger(__name__)


class Shared:
    """What the interfaces of `namespace` share. It exists."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._firewall = Nftables(namespace)

    def ops(self, ruleset: Ruleset) -> tuple[SharedOp, ...]:
        """What `apply` would do, as far as one look tells."""
        return self._ops(ruleset, self._firewall.current())

    def apply(self, ruleset: Ruleset, *, fresh: bool = False) -> None:
        """Make what all interfaces share what it should be, with this ruleset.

        Args:
            fresh: there is no ruleset yet.

        Raises:
            OperationFailed: the kernel refuses; the earlier ruleset stays.
        """
        current = None if fresh else self._firewall.current()
        done: set[SharedOp] = set()
        ops = self._ops(ruleset, current)
        # Some limits are only offered once the ruleset has the kernel track connections.
        while new := [op for op in ops if op not in done]:
            for op in new:
                logger.info("%s: %s", self._namespace.name, op)
                self._carry_out(op)
            done |= {*new}
            ops = self._ops(ruleset, ruleset)
        if stuck := [str(op) for op in ops if not isinstance(op, RaiseLimit)]:
            raise OperationFailed("The kernel does not keep a setting", "; ".join(stuck))

    def _ops(self, ruleset: Ruleset, current: Ruleset | None) -> tuple[SharedOp, ...]:
        return diff_shared(ruleset, SharedState(current, self._namespace.run(_sysctls)))

    def _carry_out(self, op: SharedOp) -> None:
        try:
            match op:
                case SetFirewall():
                    self._firewall.replace(op.ruleset)
                case SetSysctl():
                    self._namespace.run(lambda: sysctl.write(op.key, op.value))
                case RaiseLimit():
                    sysctl.write(op.key, str(op.least))
        except OSError as error:
            if not isinstance(op, RaiseLimit):
                raise OperationFailed("Cannot configure the network", f"{op}: {error}") from error
            logger.error("cannot %s: %s; there may be fewer connections", op, error)


def _sysctls() -> frozenset[tuple[str, str]]:
    return sysctl.read(shared.SYSCTLS)
