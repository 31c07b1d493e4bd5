"""Asks instances for what metrics need, within a deadline."""

import logging
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.config import queries
from amphora_agent.haproxy.replies import stats, workers
from amphora_agent.haproxy.replies.workers import Workers
from amphora_agent.haproxy.runtime.poller import MAINTENANCE, Index
from amphora_agent.haproxy.runtime.socket import MasterSocket
from amphora_agent.model.status import Figures, Scope
from amphora_agent.paths import InstanceLayout, Layout
from amphora_agent.revisions import reading

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between tries while a master of haproxy 2.6 executes itself anew.
_RETRY_PAUSE = 0.02


class Inquiry:
    """Asks the instances of a layout. One that does not answer is None."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._pools = Index(queries.list_pools, queries.POOL_KEYWORDS)

    def figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        """The figures of each instance's current worker, only these columns; `timeout` in seconds
        is for all."""
        info, stat = stats.commands(scopes)

        def ask(instance: InstanceLayout, deadline: float) -> Figures:
            def reply(command: str | None) -> str:
                # `@1` is the worker of the last successful load.
                return self._ask(instance, f"@1 {command}", deadline) if command else ""

            found = stats.parse(reply(info), reply(stat), columns)
            return self._without_left_over(instance, found)

        return list(self._of_each(ask, timeout).values())

    def workers(self, *, timeout: float) -> dict[str, Workers | None]:
        """The workers of each instance by its id; `timeout` in seconds is for all."""
        return self._of_each(
            lambda instance, deadline: workers.parse(self._ask(instance, "show proc", deadline)),
            timeout,
        )

    def _without_left_over(self, instance: InstanceLayout, found: Figures) -> Figures:
        """The figures without members that have been removed and that haproxy still has, in
        maintenance."""
        members = found.rows[Scope.MEMBER]
        if "status" not in found.columns:
            return found
        status = found.columns.index("status")
        if not any(row[status] == MAINTENANCE for row in members):
            return found
        configured = self._pools.of(instance)
        known = {(pool, member) for pool, names in configured.items() for member in names}
        kept = [row for row in members if row[status] != MAINTENANCE or (row[0], row[1]) in known]
        return found._replace(rows={**found.rows, Scope.MEMBER: kept})

    def _of_each(
        self, ask: Callable[[InstanceLayout, float], T], timeout: float
    ) -> dict[str, T | None]:
        """What `ask` gives for each instance. Each of those left gets the same share of the time
        left, so that one that hangs does not take it all."""
        found: dict[str, T | None] = {}
        instances = reading.instances(self._layout)
        deadline = self._clock() + timeout
        for left, instance in zip(range(len(instances), 0, -1), instances, strict=True):
            now = self._clock()
            share = max(0.0, deadline - now) / left
            found[instance.id] = None
            while True:
                try:
                    found[instance.id] = ask(instance, now + share)
                except OperationFailed as error:
                    # A master in the middle of a reload is given half the time to come back.
                    if instance.master_socket.exists() and self._clock() < now + share / 2:
                        time.sleep(_RETRY_PAUSE)
                        continue
                    logger.info("instance=%s says nothing of itself: %s", instance.id, error)
                break
        return found

    def _ask(self, instance: InstanceLayout, command: str, deadline: float) -> str:
        socket = MasterSocket(instance.master_socket, self._clock)
        return socket.command(command, timeout=max(0.001, deadline - self._clock()))
