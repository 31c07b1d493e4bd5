"""What UDP and SCTP listeners say about themselves: their configurations, and IPVS."""

import logging
from collections.abc import Callable, Sequence

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.keepalived import lvs_status, lvs_text
from amphora_agent.keepalived.lvs_status import Service
from amphora_agent.keepalived.lvs_text import Listener
from amphora_agent.layout import Layout, LvsLayout, ObjectId
from amphora_agent.model.status import InstanceReading, WorkerReading

logger = logging.getLogger(__name__)


class Index:
    """The listeners of configurations, read again only when their files change."""

    def __init__(self, layout: Layout) -> None:
        self._base = str(layout.base)
        self._known: dict[str, tuple[object, Listener]] = {}

    def of(self, listener: LvsLayout) -> Listener | None:
        """None when it is gone, or nobody can make sense of it."""
        signature = files.signature(listener.configuration)
        known = self._known.get(listener.id)
        if known is None or known[0] != signature:
            try:
                text = listener.configuration.read_text(errors="replace")
                known = signature, lvs_text.parse(text, self._base)
            except FileNotFoundError:
                self._known.pop(listener.id, None)
                return None
            except ValueError as error:
                logger.error("%s: %s", listener.configuration, error)
                return None
            self._known[listener.id] = known
        return known[1]


class LvsObserver:
    """Reads all UDP and SCTP listeners of a layout. `services` are those of IPVS now; `runs` tells
    whether a listener's keepalived lives."""

    def __init__(
        self,
        layout: Layout,
        services: Callable[[], Sequence[Service]],
        runs: Callable[[LvsLayout], bool],
    ) -> None:
        self._layout = layout
        self._services = services
        self._runs = runs
        self._index = Index(layout)
        self._last: dict[str, WorkerReading] = {}
        #: Those whose keepalived was not there at the last reading.
        self._missed: set[ObjectId] = set()

    def read(self, *, timeout: float) -> dict[str, InstanceReading]:
        """A reading of each listener, by its id. The kernel answers at once, or within a time of
        its own."""
        listeners = self._layout.lvs_listeners()
        if not listeners:
            return {}
        try:
            services = self._services()
        except (OSError, OperationFailed) as error:
            logger.warning("IPVS cannot be read: %s", error)
            services = None
        missed = {each.id for each in listeners if not self._runs(each)}
        readings: dict[str, InstanceReading] = {
            each.id: self._read_listener(each, services, missed) for each in listeners
        }
        self._missed = missed
        return readings

    def forget(self, readings: dict[str, InstanceReading]) -> None:
        """IPVS has no last words."""

    def _read_listener(
        self, listener: LvsLayout, services: Sequence[Service] | None, missed: set[ObjectId]
    ) -> InstanceReading:
        described = self._index.of(listener)
        last = self._last.pop(listener.id, None)
        if described is None:
            return InstanceReading((listener.id,), None, (), last)
        if not described.enabled:
            # The controller expects nothing of it.
            return InstanceReading((), WorkerReading(lvs_status.WORKER, {}, {}), ())
        if services is None:
            members = tuple(member.id for member in described.members)
            pools = {f"{described.pool}:{listener.id}": members} if described.pool else {}
            return InstanceReading((listener.id,), None, (), last, pools)
        # One absence is forgiven: whoever keeps keepalived alive starts it again.
        absent = listener.id in missed
        unsettled = listener.id not in self._missed if absent else pending(listener)
        current = lvs_status.reading(listener.id, described, services, unsettled=unsettled)
        self._last[listener.id] = current
        return InstanceReading((listener.id,), current, ())


def pending(listener: LvsLayout) -> bool:
    """Whether keepalived was not told yet to take up what is committed."""
    try:
        committed = listener.configuration.read_bytes()
        return listener.given.read_bytes() != lvs_text.given(committed)
    except FileNotFoundError:
        return True
