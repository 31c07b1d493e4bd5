"""List instances and their states. Reads wait for nobody, and change nothing."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from amphora_agent.errors import NotFound, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import MOST_ENTRIES, Journal
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config.queries import ListenerType
from amphora_agent.haproxy.process import render
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import index_listeners
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.haproxy.runtime.socket import NoAnswer, NotListening, master_of
from amphora_agent.model.events import Alarm, Entry
from amphora_agent.model.status import (
    InstanceDetails,
    InstanceStatus,
    ListenerRow,
    PoolReading,
    Silence,
    Worker,
)
from amphora_agent.paths import InstanceLayout, Layout, ObjectId, RenderedLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.supervisor.contract import ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for one answer of a socket.
_ANSWER = 5.0


class OneListener(NamedTuple):
    """A listener with an instance of its own; `pools` by id, None when haproxy does not tell."""

    status: ListenerRow
    pools: Mapping[str, PoolReading] | None


class Inventory:
    """All instances of the amphora, as they are committed and as they run. `silences` are those
    whose haproxy does not answer, as heartbeats tell it."""

    def __init__(
        self,
        layout: Layout,
        supervisor: Supervisor,
        alarms: Alarms,
        journal: Journal,
        *,
        silences: Callable[[], Mapping[str, Silence]] = dict,
    ) -> None:
        self._layout = layout
        self._silences = silences
        self._supervisor = supervisor
        self._alarms = alarms
        self._index = index_listeners()
        self._poller = Poller(layout)
        self._journal = journal
        self._store = RevisionStore(LiveFiles(alarms))

    def running(self) -> int:
        """Return how many instances run."""
        return sum(master_of(instance).listening() for instance in reading.instances(self._layout))

    def is_rendered(self, instance_id: ObjectId) -> bool:
        """Whether the agent writes the configuration of this instance."""
        return isinstance(self._layout.instance(instance_id), RenderedLayout)

    def configuration(self, instance_id: ObjectId) -> bytes:
        """Return the configuration as it was sent.

        Raises:
            NotFound
        """
        instance = self._layout.instance(instance_id)
        if waits_to_replace(self._layout, instance):
            instance = self._layout.uploaded(instance_id)
        require(instance)
        return render.restore_config(reading.read(instance, instance.configuration.name))

    # Listeners

    def listeners(self) -> list[ListenerRow]:
        """Return every listener of every instance: ACTIVE, OFFLINE (stopped) or ERROR (died, or
        does not answer)."""
        rows, silences = [], self._silences()
        for instance in reading.instances(self._layout):
            status = self._status(instance)
            if status == "ACTIVE" and instance.id in silences:
                status = "ERROR"
            for listener in self._index.find_committed(instance):
                rows.append(ListenerRow(status, listener.id, listener.type))
        return rows

    def listener(self, listener_id: ObjectId) -> OneListener:
        """Return the listener whose instance this is, with what haproxy says of its pools.

        Raises:
            NotFound
        """
        instance = self._existing(listener_id)
        (known,) = self._index.find_committed(instance)[:1] or (ListenerType(listener_id, ""),)
        status = ListenerRow(self._status(instance), known.id, known.type)
        try:
            pools = self._poller.read_pools(instance, timeout=_ANSWER)
        except (NotListening, NoAnswer) as error:
            logger.info("instance=%s pools unknown: %s", listener_id, error)
            pools = None
        return OneListener(status, pools)

    # Instances

    def overview(self) -> list[InstanceStatus]:
        """Return every instance, sorted by id."""
        alarms, silences = self._alarms.current(), self._silences()
        return [
            InstanceStatus(**self._describe(instance, alarms, silences))
            for instance in reading.instances(self._layout)
        ]

    def other_alarms(self) -> tuple[Alarm, ...]:
        """Return alarms of others than instances: the agent, its files, UDP and SCTP listeners."""
        known = {instance.id for instance in reading.instances(self._layout)}
        return tuple(alarm for alarm in self._alarms.current() if alarm.subject not in known)

    def details(self, instance_id: ObjectId) -> InstanceDetails:
        """Return an instance with its processes.

        Raises:
            NotFound
        """
        instance = self._existing(instance_id)
        current, leaving = _read_lives(instance)
        return InstanceDetails(
            **self._describe(instance, self._alarms.current(), self._silences()),
            generations=tuple(self._store.numbers(instance)),
            current=current,
            leaving=leaving,
        )

    def changes(self, instance_id: ObjectId, most: int = MOST_ENTRIES) -> list[Entry]:
        """Return what happened to an instance and its processes, newest first; also to one that has
        never been accepted, or is no more.

        Raises:
            NotFound
        """
        instance = self._layout.instance(instance_id)
        entries = self._journal.entries(instance_id, most, instance.old_journals)
        if not entries and not instance.directory.is_dir():
            raise unknown(instance_id)
        return entries

    def _existing(self, instance_id: ObjectId) -> InstanceLayout:
        instance = self._layout.instance(instance_id)
        require(instance)
        return instance

    def _describe(
        self, instance: InstanceLayout, alarms: Iterable[Alarm], silences: Mapping[str, Silence]
    ) -> dict[str, Any]:
        """Return the fields that say how an instance is."""
        status = self._status(instance)
        silence = silences.get(instance.id) if status == "ACTIVE" else None
        reason = {"reason": silence.reason, "since": silence.since} if silence else {}
        return {
            "id": instance.id,
            "state": "NOT_ANSWERING" if silence else status,
            **reason,
            "generation": self._store.newest(instance),
            "pending": not loaded_state.is_remembered(instance),
            "alarms": tuple(alarm for alarm in alarms if alarm.subject == instance.id),
        }

    def _status(self, instance: InstanceLayout) -> str:
        if master_of(instance).listening():
            return "ACTIVE"
        match self._supervisor.state(instance.process):
            case ProcessState.STOPPED:
                return "OFFLINE"
            case ProcessState.FAILED:
                return "ERROR"
            case ProcessState.RUNNING:
                # Coming up; or a master of 2.6 that executes itself anew while its worker serves.
                return "ACTIVE" if instance.master_socket.exists() else "OFFLINE"


def waits_to_replace(layout: Layout, instance: InstanceLayout) -> bool:
    """Whether a text was uploaded that is to take the place of a rendered instance."""
    uploaded = layout.uploaded(instance.id)
    return isinstance(instance, RenderedLayout) and reading.exists(uploaded)


def require(instance: InstanceLayout) -> None:
    """Check that there is such an instance.

    Raises:
        NotFound
    """
    if not reading.exists(instance):
        raise unknown(instance.id)


def unknown(instance_id: ObjectId) -> NotFound:
    return NotFound("Loadbalancer Not Found", f"No loadbalancer with UUID: {instance_id}")


def _read_lives(instance: InstanceLayout) -> tuple[Worker | None, tuple[Worker, ...]]:
    """Return the worker that serves, and those that leave."""
    try:
        reply = master_of(instance).command("show proc", timeout=_ANSWER)
        known, now = replies.read_lives(reply), replies.read_workers(reply)
    except OperationFailed as error:
        logger.info("instance=%s workers unknown: %s", instance.id, error)
        return None, ()
    current = None if now.current is None else known.get(now.current)
    return current, tuple(known[pid] for pid in now.leaving if pid in known)
