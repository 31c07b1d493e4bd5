"""Read what haproxy says about itself: readings for heartbeats, figures and workers for metrics.

Nobody else asks all instances. Each question has a deadline; an instance that does not answer costs
its own values, nothing else.
"""

import logging
import selectors
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import Workers, read_information
from amphora_agent.haproxy.runtime import final_counters
from amphora_agent.haproxy.runtime.loaded_state import index_listeners, index_pools
from amphora_agent.haproxy.runtime.socket import NoAnswer, NotListening, Question, master_of
from amphora_agent.model.status import (
    Figures,
    HungWorker,
    InstanceReading,
    PoolReading,
    Scope,
    Silence,
    WorkerReading,
)
from amphora_agent.paths import InstanceLayout, Layout, ObjectId
from amphora_agent.revisions.reading import instances

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between tries while a master of haproxy 2.6 executes itself anew.
_RETRY_PAUSE = 0.02

#: The status of a member that takes no requests, by command or configuration.
_MAINTENANCE = "MAINT"


class _Known(NamedTuple):
    """An instance, and what haproxy has loaded of listeners, pools and members; None when it has
    never come up."""

    instance: InstanceLayout
    listeners: tuple[str, ...] | None
    pools: Mapping[str, tuple[str, ...]]


class _Round:
    """One reading of one instance: what has been answered so far."""

    def __init__(self, known: _Known) -> None:
        self.known = known
        self.current: WorkerReading | None = None
        self.failures: dict[int, OperationFailed] = {}
        self.workers: Workers | None = None
        self.leaving: dict[int, WorkerReading] = {}
        #: Questions of this round that are open.
        self.waits: set[_Asked] = set()


class _Asked(NamedTuple):
    """Which process is asked: the worker that serves (0), the master (1), or a worker that leaves
    (its pid)."""

    instance: ObjectId
    process: int


_WORKER, _MASTER = 0, 1


class Poller:
    """Asks the instances of a layout.

    For heartbeats, `look` looks at files, and `ask` asks all processes at the same time: the worker
    that serves at its own socket, its master of what else there is. A process that is silent is
    asked once, and its question stays open.
    """

    def __init__(
        self,
        layout: Layout,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = layout
        self._clock = clock
        self._wall_clock = wall_clock
        self._listeners = index_listeners()
        self._pools = index_pools()
        self._known: tuple[_Known, ...] = ()
        self._selector = selectors.DefaultSelector()
        self._open: dict[_Asked, tuple[Question, object]] = {}
        #: What each instance said last, and when.
        self._last: dict[str, tuple[float, WorkerReading]] = {}
        self._complaints: dict[str, str] = {}
        #: Since when processes have been silent, in seconds since 1970.
        self._silent: dict[_Asked, float] = {}
        #: When workers were first seen leaving, by instance and name.
        self._leaving: dict[str, dict[str, float]] = {}

    def read(self, *, timeout: float) -> dict[str, InstanceReading]:
        """Return a reading of each instance, by id. `timeout` in seconds is for each of them; one
        that does not answer costs its own current values, nothing else."""
        self.look()
        return self.add_last_words(self.ask(timeout=timeout))

    def look(self) -> None:
        """Look at the files for the instances, and for what haproxy has loaded."""
        known = []
        for instance in instances(self._layout):
            loaded = self._listeners.find_loaded(instance)
            pools = self._pools.find_loaded(instance)
            names = None if loaded is None else tuple(listener.id for listener in loaded)
            known.append(_Known(instance, names, pools or {}))
        self._known = tuple(known)

    def ask(
        self,
        *,
        timeout: float,
        publish: Callable[[str, InstanceReading], None] = lambda instance_id, reading: None,
    ) -> dict[str, InstanceReading]:
        """Ask each instance that is known; call `publish` with each reading that is finished. One
        that has never come up and does not answer has no reading."""
        finished: dict[str, InstanceReading] = {}
        deadline = self._clock() + timeout
        rounds = {known.instance.id: _Round(known) for known in self._known}
        self._forget_others(rounds)
        for round_ in rounds.values():
            self._begin(round_)
        unfinished = dict(rounds)
        while True:
            now = self._clock()
            for instance_id, round_ in [*unfinished.items()]:
                if not round_.waits or now >= deadline:
                    del unfinished[instance_id]
                    reading = self._finish(round_)
                    if reading is not None:
                        finished[instance_id] = reading
                        publish(instance_id, reading)
            if not unfinished:
                return finished
            for key, _ in self._selector.select(max(0.0, deadline - now)):
                asked = key.data
                # One may have been closed by the answer before.
                if asked.instance in rounds and asked in self._open:
                    self._advance(asked, rounds[asked.instance])

    def add_last_words(self, readings: Mapping[str, InstanceReading]) -> dict[str, InstanceReading]:
        """Add what workers that are gone have left in files."""
        finished = {}
        for instance_id, reading in readings.items():
            counters = final_counters.read_final_counters(
                self._layout.instance(ObjectId(instance_id))
            )
            replaced = {worker.worker: worker for worker in counters}
            for worker in reading.leaving:
                if worker.listeners or worker.worker not in replaced:
                    replaced[worker.worker] = worker
            if reading.current is not None:
                replaced.pop(reading.current.worker, None)
            finished[instance_id] = reading._replace(leaving=tuple(replaced.values()))
        return finished

    def forget(self, readings: Mapping[str, InstanceReading]) -> None:
        """Remove the last words of workers that are gone, once their counters are accounted for."""
        for instance_id, reading in readings.items():
            if reading.complete:
                instance = self._layout.instance(ObjectId(instance_id))
                final_counters.forget_final_counters(
                    instance, {worker.worker for worker in reading.leaving}
                )

    def read_pools(self, instance: InstanceLayout, *, timeout: float) -> Mapping[str, PoolReading]:
        """Return the pools of one instance, as they are now.

        Raises:
            OperationFailed: it does not say.
        """
        master = master_of(instance)
        now = replies.read_workers(master.command("show proc", timeout=timeout))
        if now.current is None:
            raise NotListening("haproxy is not running", "its master has no worker")
        answer = master.command(f"@!{now.current} show stat", timeout=timeout)
        reading = replies.read_worker(answer, str(now.current))
        return _drop_removed_members(reading, self._pools.find_committed(instance)).pools

    # For metrics

    def read_figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        """Return these columns of each instance's current worker; None for one that does not
        answer. `timeout` in seconds is for all."""
        info, stat = replies.choose_commands(scopes)

        def ask(instance: InstanceLayout, deadline: float) -> Figures:
            def reply(command: str | None) -> str:
                # `@1` is the worker of the last successful load.
                return self._ask_master(instance, f"@1 {command}", deadline) if command else ""

            figures = replies.read_figures(reply(info), reply(stat), columns)
            return self._drop_removed_rows(instance, figures)

        return list(self._ask_each(ask, timeout).values())

    def read_workers(self, *, timeout: float) -> dict[str, Workers | None]:
        """Return the workers of each instance by its id; None for one that does not answer.
        `timeout` in seconds is for all."""

        def ask(instance: InstanceLayout, deadline: float) -> Workers:
            return replies.read_workers(self._ask_master(instance, "show proc", deadline))

        return self._ask_each(ask, timeout)

    def _drop_removed_rows(self, instance: InstanceLayout, figures: Figures) -> Figures:
        """Leave out members that have been removed and that haproxy still has, in maintenance."""
        members = figures.rows[Scope.MEMBER]
        if "status" not in figures.columns:
            return figures
        status = figures.columns.index("status")
        if not any(row[status] == _MAINTENANCE for row in members):
            return figures
        configured = self._pools.find_committed(instance)
        known = {(pool, member) for pool, names in configured.items() for member in names}
        kept = [row for row in members if row[status] != _MAINTENANCE or (row[0], row[1]) in known]
        return figures._replace(rows={**figures.rows, Scope.MEMBER: kept})

    def _ask_each(
        self, ask: Callable[[InstanceLayout, float], T], timeout: float
    ) -> dict[str, T | None]:
        """Return what `ask` gives for each instance. Each of those left gets the same share of the
        time left, so that one that hangs does not take it all."""
        answers: dict[str, T | None] = {}
        known = instances(self._layout)
        deadline = self._clock() + timeout
        for left, instance in zip(range(len(known), 0, -1), known, strict=True):
            now = self._clock()
            share = max(0.0, deadline - now) / left
            answers[instance.id] = None
            while True:
                try:
                    answers[instance.id] = ask(instance, now + share)
                except OperationFailed as error:
                    # A master in the middle of a reload is given half the time to come back.
                    if instance.master_socket.exists() and self._clock() < now + share / 2:
                        time.sleep(_RETRY_PAUSE)
                        continue
                    logger.info("instance=%s says nothing of itself: %s", instance.id, error)
                break
        return answers

    def _ask_master(self, instance: InstanceLayout, command: str, deadline: float) -> str:
        socket = master_of(instance)
        return socket.command(command, timeout=max(0.001, deadline - self._clock()))

    # Questions

    def _begin(self, round_: _Round) -> None:
        """Ask the worker and the master at the same time."""
        instance = round_.known.instance
        for process, path, commands in (
            (_WORKER, instance.stats_socket, ("show info", "show stat")),
            (_MASTER, instance.master_socket, ("show proc",)),
        ):
            ask = partial(Question, path, *commands, half_close=process == _MASTER)
            self._put(round_, _Asked(instance.id, process), ask, files.signature(path))

    def _put(
        self, round_: _Round, asked: _Asked, ask: Callable[[], Question], whom: object
    ) -> None:
        """Ask a question, unless an earlier one to the same process (`whom`) is open."""
        if asked in self._open:
            question, asked_before = self._open[asked]
            if asked_before == whom and not question.advance():
                return
            self._close(asked)  # there is another process now, or it speaks again
        question = ask()
        self._open[asked] = question, whom
        self._selector.register(question, selectors.EVENT_READ, asked)
        round_.waits.add(asked)
        self._advance(asked, round_)

    def _advance(self, asked: _Asked, round_: _Round) -> None:
        """Take up an answer that has come."""
        question, whom = self._open[asked]
        if not question.advance():
            return
        self._close(asked)
        round_.waits.discard(asked)
        try:
            self._take(asked, whom, question.reply(), round_)
        except OperationFailed as error:
            round_.failures[asked.process] = error

    def _take(self, asked: _Asked, whom: object, reply: str, round_: _Round) -> None:
        if asked.process == _WORKER:
            information, _, table = reply.partition("\n# ")
            pid = read_information(information).get("Pid", "")
            if not pid.isdecimal():
                raise OperationFailed("Cannot read the figures of haproxy", repr(reply[:80]))
            name = final_counters.worker_name(int(pid))
            if name is None:
                raise NotListening("haproxy is not running", f"its worker {pid} has ended")
            round_.current = replies.read_worker(f"# {table}", name)
        elif asked.process == _MASTER:
            round_.workers = replies.read_workers(reply)
            for leaving in round_.workers.leaving:
                self._ask_leaving(round_, leaving)
        else:
            round_.leaving[asked.process] = replies.read_worker(reply, str(whom))

    def _ask_leaving(self, round_: _Round, pid: int) -> None:
        instance, name = round_.known.instance, final_counters.worker_name(pid)
        if name is None:  # it has left just now: its last word counts
            return
        round_.leaving[pid] = WorkerReading(name, {}, {})
        command = f"@!{pid} show stat {final_counters.FRONTENDS}"
        ask = partial(Question, instance.master_socket, command, half_close=True)
        self._put(round_, _Asked(instance.id, pid), ask, name)

    def _close(self, asked: _Asked) -> None:
        question, _ = self._open.pop(asked)
        self._selector.unregister(question)
        question.close()

    def _forget_others(self, rounds: Collection[str]) -> None:
        """Drop what is known of instances that are gone."""
        for asked in [asked for asked in self._open if asked.instance not in rounds]:
            self._close(asked)
        for of_instances in (self._last, self._complaints, self._leaving):
            for instance_id in of_instances.keys() - set(rounds):
                del of_instances[instance_id]
        for asked in [asked for asked in self._silent if asked.instance not in rounds]:
            del self._silent[asked]

    # Readings

    def _finish(self, round_: _Round) -> InstanceReading | None:
        """Make the reading of an instance of what has been answered by now."""
        known, instance_id = round_.known, round_.known.instance.id
        self._complain(instance_id, round_.failures.get(_WORKER))
        current = round_.current
        if current is not None:
            current = _drop_removed_members(current, known.pools)
            self._last[instance_id] = self._clock(), current
        at, last = self._last.get(instance_id, (0.0, None))
        if last is None and known.listeners is None:
            return None
        leaving = tuple(
            worker
            for worker in round_.leaving.values()
            if current is None or worker.worker != current.worker
        )
        return InstanceReading(
            tuple(last.listeners) if last is not None else known.listeners or (),
            current,
            leaving,
            last,
            known.pools,
            at,
            complete=round_.workers is not None,
            silence=self._find_silence(round_, _WORKER, "the worker"),
            master_silence=self._find_silence(round_, _MASTER, "the master"),
            hung=self._find_hung(round_),
        )

    def _find_hung(self, round_: _Round) -> tuple[HungWorker, ...]:
        """Return the leaving workers that have left a question open."""
        instance_id = round_.known.instance.id
        before, now = self._leaving.get(instance_id, {}), self._wall_clock()
        since = {
            worker.worker: before.get(worker.worker, now) for worker in round_.leaving.values()
        }
        if round_.workers is not None:
            self._leaving[instance_id] = since
        return tuple(
            HungWorker(pid, worker.worker, since[worker.worker])
            for pid, worker in round_.leaving.items()
            if _Asked(instance_id, pid) in self._open
        )

    def _find_silence(self, round_: _Round, process: int, name: str) -> Silence | None:
        """Return since when a process is there and has not answered; None if it has."""
        asked = _Asked(round_.known.instance.id, process)
        if asked not in self._open and not isinstance(round_.failures.get(process), NoAnswer):
            self._silent.pop(asked, None)
            return None
        since = self._silent.setdefault(asked, self._wall_clock())
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since))
        return Silence(since, f"{name} has not answered since {moment}")

    def _complain(self, instance_id: str, failure: OperationFailed | None) -> None:
        """Log why there is no reading, once for each reason."""
        reason = "" if failure is None else str(failure)
        if reason != self._complaints.get(instance_id, ""):
            self._complaints[instance_id] = reason
            if reason:
                logger.warning("%s: %s", instance_id, reason)


def _drop_removed_members(
    reading: WorkerReading, configured: Mapping[str, tuple[str, ...]]
) -> WorkerReading:
    """Leave out members that have been removed and that haproxy still has, in maintenance. A pool
    that has no others is as healthy as haproxy calls an empty one."""
    doubtful = [
        name for name, pool in reading.pools.items() if _MAINTENANCE in pool.members.values()
    ]
    if not doubtful:
        return reading
    pools = dict(reading.pools)
    for name in doubtful:
        known = frozenset(configured.get(name, ()))
        members = {
            member: status
            for member, status in pools[name].members.items()
            if member in known or status != _MAINTENANCE
        }
        pools[name] = PoolReading(pools[name].status if members else "UP", members)
    return reading._replace(pools=pools)
