"""What the instances say about themselves, each within a deadline.

A worker's counters die with it. So the agent reads them once more around a reload
(`keeping_final_counters`), and the reader takes that last word for as long as nothing newer is
known: no connection that a replaced worker accepted is lost, and what it counts while its last
connections drain is read from it directly.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Generic, TypeVar

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import listeners, running, statistics, text, workers
from amphora_agent.haproxy.socket import Conversation, MasterSocket, NotListening
from amphora_agent.haproxy.text import Config
from amphora_agent.haproxy.workers import Workers
from amphora_agent.layout import InstanceLayout, Layout, ObjectId
from amphora_agent.model.status import InstanceReading, PoolReading, WorkerReading
from amphora_agent.processes.identity import start_time

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: haproxy's types of statistics: 1 is frontends, which is where a listener counts.
_FRONTENDS = "-1 1 -1"
#: The status of a member that takes no requests, by command or configuration.
MAINTENANCE = "MAINT"
#: Seconds between tries while a master of haproxy 2.6 executes itself anew.
_RETRY_PAUSE = 0.02
#: How often a worker that was replaced is asked whether it listens no more.
_LOOKS = 50
#: After how many looks at which nothing has changed no handshake is waited for.
_SAME = 5


class Index(Generic[T]):
    """What `find` finds in each configuration, looked for again only when its files change.

    `keywords` are the directives that it needs.
    """

    def __init__(self, find: Callable[[Config], T], keywords: Collection[str]) -> None:
        self._find = find
        self._keywords = keywords
        self._known: dict[ObjectId, tuple[object, T]] = {}

    def of(self, instance: InstanceLayout) -> T:
        """What is found in the committed files; where there are none, what is found in nothing."""
        signature = tuple(files.signature(path) for path in instance.loads)
        known = self._known.get(instance.id)
        if known is None or known[0] != signature:
            try:
                content = text.whole(running.committed(instance))
                # Names go into messages, which must be UTF-8.
                content = content.encode(errors="surrogateescape").decode(errors="replace")
            except FileNotFoundError:
                self._known.pop(instance.id, None)
                return self._find(text.parse(""))
            known = signature, self._find(text.parse(content, self._keywords))
            self._known[instance.id] = known
        return known[1]


def listener_index() -> Index[tuple[listeners.Listener, ...]]:
    """The listeners of each configuration."""
    return Index(listeners.listeners, listeners.KEYWORDS)


class Observer:
    """Reads all instances of a layout."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = layout
        self._clock = clock
        self._listeners = listener_index()
        self._pools = Index(listeners.pools, listeners.POOL_KEYWORDS)
        #: What each instance said at the last reading, if it answered.
        self._last: dict[str, WorkerReading] = {}

    def read(self, *, timeout: float) -> dict[str, InstanceReading]:
        """A reading of each instance, by id. `timeout` in seconds is for each of them; one that
        does not answer costs that time and its own current values, nothing else."""
        return {
            instance.id: self._read_instance(instance, timeout)
            for instance in self._layout.instances()
        }

    def forget(self, readings: dict[str, InstanceReading]) -> None:
        """Remove the last words of workers that are gone, once their counters are accounted for."""
        for instance_id, reading in readings.items():
            for instance in self._layout.instances():
                if instance.id == instance_id:
                    _forget(instance, {worker.worker for worker in reading.leaving})

    def pools(self, instance: InstanceLayout, *, timeout: float) -> Mapping[str, PoolReading]:
        """The pools of one instance, as they are now.

        Raises:
            OperationFailed: it does not say.
        """
        current, _ = self._read_workers(instance, timeout)
        return self._without_left_over(instance, current).pools

    def _read_instance(self, instance: InstanceLayout, timeout: float) -> InstanceReading:
        expected = tuple(listener.id for listener in self._listeners.of(instance))
        last = self._last.pop(instance.id, None)
        current: WorkerReading | None = None
        leaving: list[WorkerReading] = []
        try:
            current, leaving = self._read_workers(instance, timeout)
            current = self._without_left_over(instance, current)
        except NotListening:
            logger.warning("%s: haproxy is not running", instance.id)
        except OperationFailed as error:
            logger.warning("%s: %s", instance.id, error)
        # Read last: a worker that a reload has replaced by now has left its last word before.
        replaced = {worker.worker: worker for worker in _final_counters(instance)}
        for worker in leaving:
            if worker.listeners or worker.worker not in replaced:
                replaced[worker.worker] = worker
        if current is None:
            pools = self._pools.of(instance)
            return InstanceReading(expected, None, tuple(replaced.values()), last, pools)
        self._last[instance.id] = current
        replaced.pop(current.worker, None)
        return InstanceReading(expected, current, tuple(replaced.values()))

    def _without_left_over(self, instance: InstanceLayout, reading: WorkerReading) -> WorkerReading:
        """The reading without members that have been removed and that haproxy still has, in
        maintenance; a pool that has no others is as healthy as haproxy calls an empty one."""
        doubtful = [
            name for name, pool in reading.pools.items() if MAINTENANCE in pool.members.values()
        ]
        if not doubtful:
            return reading
        configured, pools = self._pools.of(instance), dict(reading.pools)
        for name in doubtful:
            known = frozenset(configured.get(name, ()))
            members = {
                member: status
                for member, status in pools[name].members.items()
                if member in known or status != MAINTENANCE
            }
            pools[name] = PoolReading(pools[name].status if members else "UP", members)
        return reading._replace(pools=pools)

    def _read_workers(
        self, instance: InstanceLayout, timeout: float
    ) -> tuple[WorkerReading, list[WorkerReading]]:
        deadline = self._clock() + timeout
        socket = MasterSocket(instance.master_socket, self._clock)
        found = self._await_workers(socket, deadline)
        assert found.current is not None
        current = self._ask(socket, found.current, "show stat", deadline)
        leaving = []
        for pid in found.leaving:
            try:
                leaving.append(self._ask(socket, pid, f"show stat {_FRONTENDS}", deadline))
            except OperationFailed as error:  # it may have left just now: its last word counts
                logger.debug("%s: leaving worker %d: %s", instance.id, pid, error)
                leaving.append(WorkerReading(worker_name(pid), {}, {}))
        return current, leaving

    def _await_workers(self, socket: MasterSocket, deadline: float) -> Workers:
        """The workers; a master in the middle of a reload is given half the time to come back."""
        started = self._clock()
        patience = started + (deadline - started) / 2
        while True:
            try:
                found = workers.parse(socket.command("show proc", timeout=deadline - self._clock()))
                if found.current is not None:
                    return found
            except OperationFailed:
                if not socket.path.exists() or self._clock() > patience:
                    raise
            if self._clock() > patience:
                raise NotListening("haproxy is not running", "its master has no worker")
            time.sleep(_RETRY_PAUSE)

    def _ask(self, socket: MasterSocket, pid: int, command: str, deadline: float) -> WorkerReading:
        name = worker_name(pid)  # before it answers: then it may be gone at once
        reply = socket.command(f"@!{pid} {command}", timeout=deadline - self._clock())
        return statistics.parse(reply, name)


def worker_name(pid: int) -> str:
    """A name that no other worker of this machine has or will have."""
    started = start_time(pid) or "gone"
    return f"{pid}-{started.rpartition(':')[2]}"


@contextlib.contextmanager
def keeping_final_counters(
    instance: InstanceLayout, pid: int, *, timeout: float
) -> Iterator[Callable[[], None]]:
    """Around the replacement of a worker: its counters are written down before, and again by the
    function given, which is to be called when its successor serves.

    What it counts in between would be lost if it left before it is read the next time; so it is
    held by a connection until it has stopped listening, and has said how many came.
    """
    path = instance.final_counters / worker_name(pid)
    question = f"show stat {_FRONTENDS}"
    reply = MasterSocket(instance.master_socket).command(f"@!{pid} {question}", timeout=timeout)
    files.write(path, reply.encode())
    try:
        conversation = Conversation(instance.stats_socket, timeout=timeout)
    except OperationFailed as error:
        logger.info("instance=%s its worker is not held: %s", instance.id, error)
        yield lambda: None
        return
    with conversation:

        def keep() -> None:
            try:
                for _ in range(_LOOKS):
                    if "Stopping: 1" in conversation.ask("show info"):
                        break
                    time.sleep(_RETRY_PAUSE)
                files.write(path, _settled(partial(conversation.ask, question)).encode())
            except OperationFailed as error:
                logger.info("instance=%s its worker has left: %s", instance.id, error)

        yield keep


def _settled(ask: Callable[[], str]) -> str:
    """The statistics of a worker that accepts no more, when the handshakes that go on are over:
    only then do their connections count. Those that have failed long ago look alike, but stay."""
    reply, same = ask(), 0
    for _ in range(_LOOKS):
        left = statistics.unfinished(reply)
        if left <= 0 or same == _SAME:
            break
        time.sleep(_RETRY_PAUSE)
        reply = ask()
        same = same + 1 if statistics.unfinished(reply) == left else 0
    return reply


def _final_counters(instance: InstanceLayout) -> list[WorkerReading]:
    readings = []
    for path in sorted(instance.final_counters.glob("[0-9]*")):
        try:
            readings.append(statistics.parse(path.read_text(), path.name))
        except (OSError, OperationFailed) as error:
            logger.warning("%s: %s", path, error)
    return readings


def _forget(instance: InstanceLayout, names: set[str]) -> None:
    for path in instance.final_counters.glob("[0-9]*"):
        pid = int(path.name.partition("-")[0])
        if path.name in names and worker_name(pid) != path.name:
            files.remove(path)
