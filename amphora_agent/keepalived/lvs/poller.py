"""Read UDP and SCTP listeners: their configurations, and what IPVS says of them."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.config.lvs import Listener
from amphora_agent.keepalived.config.parser import ConfigError
from amphora_agent.keepalived.lvs import status
from amphora_agent.keepalived.lvs.status import Service
from amphora_agent.model.addressing import Claim, claim
from amphora_agent.model.status import InstanceReading, WorkerReading
from amphora_agent.paths import Layout, LvsLayout, ObjectId

logger = logging.getLogger(__name__)

#: How the first line begins of what keepalived is told of a listener of a rendered load balancer;
#: its id follows.
MARK = "# Written by amphora-agent for {}."
_MARKED = re.compile(re.escape(MARK).replace(re.escape("{}"), "([0-9A-Za-z_-]+)").encode())


def owner(configuration: bytes) -> str | None:
    """The rendered load balancer that a configuration is of; None for a controller's text."""
    found = _MARKED.match(configuration)
    return found[1].decode() if found else None


def claims(configuration: bytes) -> frozenset[Claim]:
    """What a configuration claims: nothing when it is none."""
    try:
        listener = lvs.describe(configuration)
    except ConfigError:
        return frozenset()
    return frozenset(
        claim(virtual.protocol, endpoint.address, endpoint.port)
        for virtual in listener.virtuals
        for endpoint in virtual.endpoints
    )


def all_claims(layout: Layout, *, rendered_only: bool) -> Iterator[tuple[str, frozenset[Claim]]]:
    """What the listeners of this amphora claim, each with the load balancer that owns it; a
    listener of a controller's text owns itself."""
    for listener in layout.lvs_listeners():
        configuration = listener.configuration.read_bytes()
        of_balancer = owner(configuration)
        if of_balancer or not rendered_only:
            yield of_balancer or listener.id, claims(configuration)


class Index:
    """The listeners of configurations, read again only when their files change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Listener | None]] = {}

    def of(self, listener: LvsLayout) -> Listener | None:
        """None when it is gone, or nobody can make sense of it."""
        signature = files.signature(listener.configuration)
        known = self._known.get(listener.id)
        if known is None or known[0] != signature:
            try:
                configuration = listener.configuration.read_bytes()
                known = signature, lvs.describe(configuration)
            except FileNotFoundError:
                self._known.pop(listener.id, None)
                return None
            except ConfigError as error:
                logger.error("%s: %s", listener.configuration, error)
                known = signature, None
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._services = services
        self._runs = runs
        self._index = Index()
        self._clock = clock
        #: What each listener said last, and when.
        self._last: dict[str, tuple[float, WorkerReading]] = {}
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

    def _read_listener(
        self, listener: LvsLayout, services: Sequence[Service] | None, missed: set[ObjectId]
    ) -> InstanceReading:
        described = self._index.of(listener)
        now = self._clock()
        at, last = self._last.pop(listener.id, (0.0, None))
        if described is None:
            return InstanceReading((listener.id,), None, (), last, at=at)
        if not described.enabled:
            # The controller expects nothing of it.
            return InstanceReading((), WorkerReading(status.WORKER, {}, {}), (), at=now)
        if services is None:
            members = tuple(member.id for member in described.members)
            pools = {f"{described.pool}:{listener.id}": members} if described.pool else {}
            return InstanceReading((listener.id,), None, (), last, pools, at)
        # One absence is forgiven: whoever keeps keepalived alive starts it again.
        absent = listener.id in missed
        unsettled = listener.id not in self._missed if absent else is_pending(listener)
        current = status.reading(listener.id, described, services, unsettled=unsettled)
        self._last[listener.id] = now, current
        return InstanceReading((listener.id,), current, (), at=now)


def is_pending(listener: LvsLayout) -> bool:
    """Whether keepalived was not told yet to take up what is committed."""
    try:
        committed = listener.configuration.read_bytes()
        return not lvs.made_of(listener.given.read_bytes(), committed)
    except FileNotFoundError:
        return True
