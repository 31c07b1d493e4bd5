"""Check that load balancers of this amphora do not claim the same address, nor too many listeners.

Committed configurations claim the addresses that they bind; a change claims those that it is about
to commit. So of two changes at the same time one is refused.

A heartbeat is one datagram, which limits the number of listeners. With more of them no heartbeat
can be sent: the controller would take the amphora for dead and replace it, again and again.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from amphora_agent.errors import Conflict, InvalidRequest
from amphora_agent.haproxy.config import parser, queries
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import index_listeners
from amphora_agent.model.addressing import Claim, first_meeting
from amphora_agent.paths import Layout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost

#: Load balancers, each with what it claims.
Claims = Iterable[tuple[str, frozenset[Claim]]]


class ClaimedAddresses:
    """The claims of all load balancers. A load balancer has those of all its processes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        #: Claims of instances, each with the digests of its texts.
        self._known: dict[str, tuple[object, frozenset[Claim]]] = {}
        #: Claims of unfinished changes, by load balancer; True: no other may have them.
        self._under_way: dict[str, tuple[bool, frozenset[Claim]]] = {}

    @contextlib.contextmanager
    def claiming(
        self,
        owner: str,
        wanted: Callable[[], frozenset[Claim]],
        *,
        alone: bool,
        more: Callable[[], Claims] = tuple,
    ) -> Iterator[None]:
        """Claim what is `wanted` during a change of the load balancer `owner`. `more` are claims
        beside those of haproxy. Two load balancers may share an address if neither claims it
        `alone`: a controller that begins to speak API 1.0 sends one text in the place of many.

        Raises:
            Conflict: another load balancer has claimed it.
        """
        with self._lock:
            others = [*self._find_others(owner, all_=alone), *more()]
            claims = wanted() if others or alone else frozenset()
            for other, theirs in others:
                if other != owner and (met := first_meeting(claims, theirs)):
                    raise Conflict("Address is taken", f"{met} is that of load balancer {other}")
            self._under_way[owner] = alone, claims
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[owner]

    def _find_others(self, owner: str, *, all_: bool) -> Claims:
        known: dict[str, tuple[object, frozenset[Claim]]] = {}
        for instance in reading.instances(self._layout):
            other = instance.owner.name
            if other != owner and (all_ or instance.claims_alone):
                before = self._known.get(instance.id)
                with contextlib.suppress(ContentLost):  # then the last known claims count
                    digests = loaded_state.digest_committed(instance)
                    if before is None or before[0] != digests:
                        text = parser.join_texts(loaded_state.read_committed(instance))
                        before = digests, queries.find_claims(text)
                if before is not None:
                    known[instance.id] = before
                    yield other, before[1]
        self._known = known
        for other, (claims_alone, claims) in self._under_way.items():
            if other != owner and (all_ or claims_alone):
                yield other, claims


class ListenerCount:
    """Counts all listeners, also those of UDP and SCTP. At most `most` are allowed while `limited`
    returns True."""

    def __init__(self, layout: Layout, most: int, limited: Callable[[], bool]) -> None:
        self._layout = layout
        self._most = most
        self._limited = limited
        self._index = index_listeners()
        self._lock = threading.Lock()
        #: Listeners of unfinished changes, by load balancer.
        self._under_way: dict[str, int] = {}

    @contextlib.contextmanager
    def counting(
        self,
        owner: str,
        at_most: int,
        exactly: Callable[[], int] | None = None,
        own: Collection[str] = (),
    ) -> Iterator[None]:
        """Reserve so many listeners during a change of the load balancer `owner`. `exactly` counts
        them when it matters. `own` are its UDP and SCTP listeners.

        Raises:
            InvalidRequest: they are too many, and more than it has now.
        """
        if not self._limited():
            yield
            return
        with self._lock:
            under_way = Counter(self._under_way)
            del under_way[owner]
            # Of what a load balancer has and is about to have, the greater number counts.
            others = (self._count_others(owner, own) | under_way).total()
            count = at_most
            if others + count > self._most and exactly is not None:
                count = exactly()
            if others + count > self._most and count > self._count_own(owner, own):
                raise InvalidRequest(
                    "Too many listeners",
                    f"this amphora would have {others + count} listeners. A heartbeat is one "
                    f"datagram and can tell of {self._most}; beyond that the controller would take "
                    "the amphora for dead and replace it",
                )
            self._under_way[owner] = count
        try:
            yield
        finally:
            with self._lock:
                self._under_way.pop(owner, None)

    def _count_others(self, owner: str, own: Collection[str]) -> Counter[str]:
        """Count the committed listeners of the others, by load balancer. The text of `owner`
        changes now and would be parsed each time: it is only counted when there are too many."""
        counts: Counter[str] = Counter()
        for instance in reading.instances(self._layout):
            if instance.owner.name != owner:
                counts[instance.owner.name] += len(self._index.find_committed(instance))
        counts.update(listener.id for listener in self._layout.lvs_listeners())
        for listener_id in (owner, *own):
            del counts[listener_id]
        return counts

    def _count_own(self, owner: str, own: Collection[str]) -> int:
        layer4 = sum(listener.id in {owner, *own} for listener in self._layout.lvs_listeners())
        return layer4 + sum(
            len(self._index.find_committed(instance))
            for instance in reading.instances(self._layout)
            if instance.owner.name == owner
        )


def estimate_listeners(configuration: str) -> int:
    """Return an upper bound of the number of listeners of a text, found at once."""
    return configuration.count("frontend")


def count_listeners(configuration: str) -> int:
    """Count the listeners of a text."""
    return len(
        queries.list_listeners(parser.parse_config(configuration, queries.LISTENER_KEYWORDS))
    )
