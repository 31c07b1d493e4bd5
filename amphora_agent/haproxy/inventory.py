"""What instances there are, and how they are. Reads wait for nobody, and change nothing."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from amphora_agent.errors import NotFound, OperationFailed
from amphora_agent.haproxy import mend, workers
from amphora_agent.haproxy.activation import master_of, process_name
from amphora_agent.haproxy.generations import Generations
from amphora_agent.haproxy.journal import MOST_ENTRIES, Journal
from amphora_agent.haproxy.listeners import Listener
from amphora_agent.haproxy.observe import Observer, listener_index
from amphora_agent.haproxy.socket import NoAnswer, NotListening
from amphora_agent.layout import InstanceLayout, Layout, ObjectId
from amphora_agent.model.changes import Entry
from amphora_agent.model.instances import InstanceDetails, InstanceStatus, Worker
from amphora_agent.model.status import ListenerStatus, PoolReading
from amphora_agent.processes.supervisor import ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for one answer of a socket.
_ANSWER = 5.0


class OneListener(NamedTuple):
    """A listener with an instance of its own; `pools` by id, None when haproxy does not tell."""

    status: ListenerStatus
    pools: Mapping[str, PoolReading] | None


class Inventory:
    """All instances of the amphora, as they are committed and as they run."""

    def __init__(
        self, layout: Layout, supervisor: Supervisor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._layout = layout
        self._supervisor = supervisor
        self._index = listener_index()
        self._observer = Observer(layout, clock)
        self._journal = Journal(clock=clock)
        self._generations = Generations()

    def running(self) -> int:
        """How many instances run."""
        return sum(master_of(instance).listening() for instance in self._layout.instances())

    def is_declared(self, instance_id: ObjectId) -> bool:
        """Whether the agent writes the configuration of this instance."""
        return self._layout.instance(instance_id).declared

    def configuration(self, instance_id: ObjectId) -> bytes:
        """The configuration as it was sent.

        Raises:
            NotFound
        """
        return mend.configuration_as_sent(self._existing(instance_id).configuration.read_bytes())

    # Listeners

    def listeners(self) -> list[ListenerStatus]:
        """Every listener of every instance; ACTIVE, OFFLINE (stopped) or ERROR (died)."""
        rows = []
        for instance in self._layout.instances():
            status = self._status(instance)
            for listener in self._index.of(instance):
                rows.append(ListenerStatus(status, listener.id, listener.type))
        return rows

    def listener(self, listener_id: ObjectId) -> OneListener:
        """The listener whose instance this is, with what haproxy says of its pools.

        Raises:
            NotFound
        """
        instance = self._existing(listener_id)
        (known,) = self._index.of(instance)[:1] or (Listener(listener_id, ""),)
        status = ListenerStatus(self._status(instance), known.id, known.type)
        try:
            pools = self._observer.pools(instance, timeout=_ANSWER)
        except (NotListening, NoAnswer) as error:
            logger.info("instance=%s pools unknown: %s", listener_id, error)
            pools = None
        return OneListener(status, pools)

    # Instances

    def overview(self) -> list[InstanceStatus]:
        """Every instance, sorted by id."""
        return [
            InstanceStatus(
                id=instance.id,
                state=self._status(instance),
                generation=self._generations.newest(instance),
                pending=self._generations.pending(instance),
            )
            for instance in self._layout.instances()
        ]

    def details(self, instance_id: ObjectId) -> InstanceDetails:
        """An instance with its processes.

        Raises:
            NotFound
        """
        instance = self._existing(instance_id)
        current, leaving = _lives(instance)
        return InstanceDetails(
            id=instance.id,
            state=self._status(instance),
            generation=self._generations.newest(instance),
            pending=self._generations.pending(instance),
            generations=tuple(self._generations.numbers(instance)),
            current=current,
            leaving=leaving,
        )

    def changes(self, instance_id: ObjectId, most: int = MOST_ENTRIES) -> list[Entry]:
        """What was done to an instance, the newest first; also to one that has never been
        accepted.

        Raises:
            NotFound
        """
        instance = self._layout.instance(instance_id)
        if not instance.directory.is_dir():
            raise unknown(instance_id)
        return self._journal.entries(instance, most)

    def _existing(self, instance_id: ObjectId) -> InstanceLayout:
        instance = self._layout.instance(instance_id)
        require(instance)
        return instance

    def _status(self, instance: InstanceLayout) -> str:
        if master_of(instance).listening():
            return "ACTIVE"
        match self._supervisor.state(process_name(instance)):
            case ProcessState.STOPPED:
                return "OFFLINE"
            case ProcessState.FAILED:
                return "ERROR"
            case ProcessState.RUNNING:
                # Coming up; or a master of 2.6 that executes itself anew while its worker serves.
                return "ACTIVE" if instance.master_socket.exists() else "OFFLINE"


def require(instance: InstanceLayout) -> None:
    """See that there is such an instance.

    Raises:
        NotFound
    """
    if not instance.configuration.is_file():
        raise unknown(instance.id)


def unknown(instance_id: ObjectId) -> NotFound:
    return NotFound("Loadbalancer Not Found", f"No loadbalancer with UUID: {instance_id}")


def _lives(instance: InstanceLayout) -> tuple[Worker | None, tuple[Worker, ...]]:
    """The worker that serves, and those that leave."""
    try:
        reply = master_of(instance).command("show proc", timeout=_ANSWER)
        known, now = workers.lives(reply), workers.parse(reply)
    except OperationFailed as error:
        logger.info("instance=%s workers unknown: %s", instance.id, error)
        return None, ()
    current = None if now.current is None else known.get(now.current)
    return current, tuple(known[pid] for pid in now.leaving if pid in known)
