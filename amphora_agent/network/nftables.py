"""The kernel's packet filter, by `nft`: the only one that lists and changes it."""

import logging

from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace
from amphora_agent.network.firewall import FAMILY, TABLE, Ruleset, listed, transaction
from amphora_agent.processes.command import run

logger = logging.getLogger(__name__)

#: Seconds. The largest ruleset takes a tenth of one.
_TIMEOUT = 30.0
#: Characters. A rule with long addresses takes 120, and an interface may have 10,000.
_MOST_LISTING = 64 * 1024 * 1024


class Nftables:
    """The amphora's table in the packet filter of `namespace`, which exists."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def current(self) -> Ruleset | None:
        """What the table is now; None when there is none, or none that can be made out: both are
        to be replaced.

        Raises:
            OperationFailed: nft cannot be run.
        """
        listing = ["nft", "--json", "--numeric", "list", "table", FAMILY, TABLE]
        answer = self._namespace.run(
            lambda: run(listing, timeout=_TIMEOUT, most_output=_MOST_LISTING)
        )
        if not answer.succeeded:
            logger.debug("nft lists no table: %s", answer.output)
            return None
        try:
            return listed(answer.output)
        except ValueError as error:
            logger.warning("nft lists what cannot be read: %s", error)
            return None

    def replace(self, ruleset: Ruleset) -> None:
        """Make the table this one, at one instant. Other tables stay as they are.

        Raises:
            OperationFailed: nft cannot be run, or it refuses; the table is as it was.
        """
        applying = ["nft", "--json", "--file", "-"]
        answer = self._namespace.run(
            lambda: run(applying, timeout=_TIMEOUT, input=transaction(ruleset))
        )
        if not answer.succeeded:
            raise OperationFailed("The firewall is refused", answer.output.strip())
