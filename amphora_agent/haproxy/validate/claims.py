"""Addresses, and room in heartbeats, that the load balancers of this amphora claim.

Committed configurations claim what they bind; a change claims what it is about to commit, so that
of two changes at once one is refused.

A heartbeat is one datagram. Beyond the number of listeners that fits into it no message can be
right, and the controller would take the amphora for dead and replace it, again and again.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator

from amphora_agent.errors import Conflict, InvalidRequest
from amphora_agent.haproxy.config import parser, queries
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.config_index import index_listeners
from amphora_agent.model.addressing import Claim, first_meeting
from amphora_agent.paths import InstanceLayout, Layout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost

#: Owners, each with what it claims.
Claims = Iterable[tuple[str, frozenset[Claim]]]


class ClaimedAddresses:
    """The claims of the instances of a layout. A load balancer owns all of its processes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        #: What an instance claims, and the signatures of the files that say so.
        self._known: dict[str, tuple[object, frozenset[Claim]]] = {}
        #: What changes that are under way claim, by their owners; True: alone.
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
        """Claim what is `wanted` while a change of `owner` is under way. `more` are claims beside
        those of haproxy. Two owners may meet if neither claims `alone`: a controller that begins to
        speak API 1.0 sends one text in the place of many.

        Raises:
            Conflict: another owner has it.
        """
        with self._lock:
            others = [*self._others(owner, all_=alone), *more()]
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

    def _others(self, owner: str, *, all_: bool) -> Claims:
        instances = reading.instances(self._layout)
        known: dict[str, tuple[object, frozenset[Claim]]] = {}
        for instance in instances:
            other = owner_of(instance)
            if other != owner and (all_ or instance.claims_alone):
                before = self._known.get(instance.id)
                with contextlib.suppress(ContentLost):  # as far as is known: it hinders no other
                    signature = loaded_state.digest_committed(instance)
                    if before is None or before[0] != signature:
                        before = (
                            signature,
                            queries.find_claims(
                                parser.join_texts(loaded_state.read_committed(instance))
                            ),
                        )
                if before is not None:
                    known[instance.id] = before
                    yield other, before[1]
        self._known = known
        for other, (claims_alone, claims) in self._under_way.items():
            if other != owner and (all_ or claims_alone):
                yield other, claims


def owner_of(instance: InstanceLayout) -> str:
    """The load balancer that an instance is of."""
    return instance.owner.name


class ListenerCount:
    """Counts the listeners of a layout; UDP and SCTP ones, too. `most` are allowed while `limited`
    says so."""

    def __init__(self, layout: Layout, most: int, limited: Callable[[], bool]) -> None:
        self._layout = layout
        self._most = most
        self._limited = limited
        self._index = index_listeners()
        self._lock = threading.Lock()
        #: What changes that are under way bring, by their owners.
        self._under_way: dict[str, int] = {}

    @contextlib.contextmanager
    def counting(
        self,
        owner: str,
        at_most: int,
        exactly: Callable[[], int] | None = None,
        own: Collection[str] = (),
    ) -> Iterator[None]:
        """Let `owner` have so many listeners while a change is under way. `exactly` counts them
        when it matters. `own` are UDP and SCTP listeners of the owner.

        Raises:
            InvalidRequest: they are too many. Fewer than the owner has now never are.
        """
        if not self._limited():
            yield
            return
        with self._lock:
            committed = self._committed_of_others(owner, own)
            others = sum(
                max(count, self._under_way.get(other, 0)) for other, count in committed.items()
            )
            others += sum(
                count
                for other, count in self._under_way.items()
                if other not in committed and other != owner
            )
            count = at_most
            if others + count > self._most and exactly is not None:
                count = exactly()
            if others + count > self._most and count > self._committed_of(owner, own):
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

    def _committed_of_others(self, owner: str, own: Collection[str]) -> dict[str, int]:
        """The committed listeners of everybody else, by owner. The owner's own text changes now,
        and would be read anew each time: nobody needs it unless listeners are too many."""
        found: dict[str, int] = {}
        for instance in reading.instances(self._layout):
            name = owner_of(instance)
            if name != owner:
                found[name] = found.get(name, 0) + len(self._index.find_committed(instance))
        for listener in self._layout.lvs_listeners():
            if listener.id not in {owner, *own}:
                found[listener.id] = found.get(listener.id, 0) + 1
        return found

    def _committed_of(self, owner: str, own: Collection[str]) -> int:
        instances = (each for each in reading.instances(self._layout) if owner_of(each) == owner)
        layer4 = sum(each.id in {owner, *own} for each in self._layout.lvs_listeners())
        return layer4 + sum(len(self._index.find_committed(each)) for each in instances)


def estimate_listeners(configuration: str) -> int:
    """At least as many as the listeners of a text, found at once."""
    return configuration.count("frontend")


def count_listeners(configuration: str) -> int:
    """The listeners of a text."""
    return len(
        queries.list_listeners(parser.parse_config(configuration, queries.LISTENER_KEYWORDS))
    )
