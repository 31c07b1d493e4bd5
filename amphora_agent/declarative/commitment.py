"""From a staged state of a declared load balancer to a committed one, and processes that agree with
it; when they do not come up, back to the state before.
"""

import contextlib
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.declarative import outcomes, rendering
from amphora_agent.declarative.store import Record, State, Store
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import directory, journal, running
from amphora_agent.haproxy.acceptance import Candidate, Verdict
from amphora_agent.haproxy.activation import Outcome, master_of, process_name
from amphora_agent.haproxy.directory import Directory
from amphora_agent.haproxy.instance import Instances
from amphora_agent.haproxy.text import Texts
from amphora_agent.keepalived import lvs, lvs_observe
from amphora_agent.keepalived.lvs import LvsListeners
from amphora_agent.layout import InstanceLayout, Layout, ObjectId
from amphora_agent.model.declared import ProcessPlan
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.processes.command import Completed
from amphora_agent.processes.supervisor import ProcessState

logger = logging.getLogger(__name__)

_MIGRATE = "net/ipv4/tcp_migrate_req"
#: Of texts that are kept in memory: those of a load balancer with 2000 listeners.
_MOST_CHARACTERS = 8 << 20


class Prepared(NamedTuple):
    """A process of a staged state that may be committed. `read` are first its texts, then those
    that are committed until then, if there are any."""

    instance: InstanceLayout
    staged: Path
    read: tuple[Directory, ...]
    verdict: Verdict


class Commitment:
    """Commits the states of load balancers; who changes one holds its lock."""

    def __init__(
        self, layout: Layout, store: Store, instances: Instances, layer4: LvsListeners
    ) -> None:
        self._layout = layout
        self._store = store
        self._instances = instances
        self._layer4 = layer4
        #: What processes have loaded, as far as it is worth its room.
        self._read: dict[ObjectId, Directory] = {}

    # Before

    def holds(self, lb_id: ObjectId, state: State) -> bool:
        """Whether a committed state has come up and runs, and nothing is left of those before."""
        if self._left_over(lb_id, state.record) != ([], []):
            return False
        instances = [self._layout.declared(ObjectId(each)) for each in state.record.processes]
        return all(
            running.is_remembered(each) and master_of(each).listening() for each in instances
        ) and all(self._serves(ObjectId(each)) for each in state.record.layer4)

    def prepare(self, processes: Sequence[str], stage: Path) -> list[Prepared]:
        """See that a staged state may be committed.

        Raises:
            InvalidRequest: haproxy refuses it.
        """
        found = []
        for process in processes:
            instance = self._layout.declared(ObjectId(process))
            staged = stage / process if (stage / process).is_dir() else stage
            before = self._committed(instance)
            now = directory.read(staged, before)

            def check(
                some: Texts, staged: Path = staged, instance: InstanceLayout = instance
            ) -> Completed:
                return self._instances.haproxy.check_directory(some, staged, instance.current)

            were = before.texts if before else {}
            candidate = Candidate(now.texts, now.texts.keys(), check, were)
            verdict = self._instances.acceptance.require(instance, candidate)
            read = (now, before) if before else (now,)
            found.append(Prepared(instance, staged, read, verdict))
        return found

    def foresee(
        self, stage: Path, prepared: Sequence[Prepared], before: State | None, record: Record
    ) -> tuple[ProcessPlan, ...]:
        """What `commit` would do."""
        activation = self._instances.activation
        plans = [
            outcomes.foreseen(
                each.instance.id,
                activation.foresee(each.instance, each.read[0].texts, each.staged, each.read),
            )
            for each in prepared
        ]
        for listener in record.layer4:
            was = _layer4_text(before, listener)
            if not files.has(stage / "layer4" / f"{listener}.conf", was or b""):
                plans.append(ProcessPlan(id=listener, step="reload" if was else "start"))
        plans += outcomes.stopped(before, record)
        return tuple(plans)

    # Doing it

    def commit(
        self,
        lb_id: ObjectId,
        stage: Path,
        prepared: Sequence[Prepared],
        before: State | None,
        record: journal.Record,
    ) -> tuple[ProcessPlan, ...]:
        """Commit a staged state and make the processes agree with it.

        Raises:
            OperationFailed: they do not; all is as before.
        """
        uploaded = self._layout.uploaded(lb_id)
        supersedes = before is None and uploaded.configuration.is_file()
        if supersedes:
            # It has the same name and the same sockets.
            self._instances.supervisor.stop(process_name(uploaded))
        state = self._store.commit(lb_id, stage)
        try:
            plans = [outcomes.done(each.instance.id, self._activate(each)) for each in prepared]
            plans += self._serve_layer4(state, before)
        except BaseException:  # also an end by force: nothing may stay half-way
            self._go_back(lb_id, state, before)
            if supersedes:
                self._instances.activation.start(uploaded)
            raise
        for each in prepared:
            self._instances.acceptance.committed(each.instance, each.verdict)
        self._remember(prepared)
        if supersedes:
            _remove_uploaded(uploaded)
        if before is not None:
            left_over = self._left_over(lb_id, state.record)
            if any(left_over):
                self._hand_over()
                self._end(*left_over, keep=lb_id, by_and_by=True)
            plans += outcomes.stopped(before, state.record)
        self._tidy(lb_id, state)
        record.generation = state.number
        record.plan = outcomes.greatest(plans)
        record.reasons = [*chain.from_iterable(plan.reasons for plan in plans)]
        record.words += [*chain.from_iterable(plan.words for plan in plans)]
        record.fell_back = next((plan.fell_back for plan in plans if plan.fell_back), None)
        return tuple(plans)

    def end(self, lb_id: ObjectId, state: State) -> None:
        """Stop all processes of a load balancer and forget them."""
        processes, layer4 = self._left_over(lb_id, state.record)
        self._end(
            [*state.record.processes, *processes], [*state.record.layer4, *layer4], keep=lb_id
        )

    def _activate(self, prepared: Prepared) -> Outcome:
        return self._instances.activation.activate(
            prepared.instance, prepared.verdict.foreseen, prepared.read
        )

    def _go_back(self, lb_id: ObjectId, state: State, before: State | None) -> None:
        self._store.go_back(lb_id, before)
        was = before.record if before else None
        new = set(state.record.processes) - set(was.processes if was else ())
        new_layer4 = set(state.record.layer4) - set(was.layer4 if was else ())
        self._end(sorted(new), sorted(new_layer4), keep=lb_id)
        if before is None:
            return
        for process in before.record.processes:
            try:
                self._instances.activation.activate(self._layout.declared(ObjectId(process)))
            except OperationFailed:
                logger.exception("instance=%s cannot go back", process)
        with contextlib.suppress(OperationFailed):
            self._serve_layer4(before, state)

    # Listeners of keepalived

    def _serve_layer4(self, state: State, before: State | None) -> list[ProcessPlan]:
        plans = []
        for listener in map(ObjectId, state.record.layer4):
            text = state.layer4(listener)
            was = _layer4_text(before, listener)
            if text == was and self._serves(listener):
                continue
            self._layer4.upload(listener, text)
            self._layer4.reload(listener)
            plans.append(ProcessPlan(id=listener, step="start" if was is None else "reload"))
        return plans

    def _serves(self, listener: ObjectId) -> bool:
        """Whether keepalived serves a listener as it was told last."""
        layout = self._layout.lvs(listener)
        return lvs.runs(layout) and not lvs_observe.pending(layout)

    # What is no more

    def _left_over(self, lb_id: ObjectId, record: Record) -> tuple[list[str], list[str]]:
        """Processes of haproxy and listeners of keepalived that a load balancer has had and has no
        more; after a change, and after one that a kill cut off."""
        found = self._store.processes(lb_id) - {*record.processes}
        name = process_name(self._layout.declared(lb_id))
        stopped = ProcessState.STOPPED
        if lb_id not in record.processes and self._instances.supervisor.state(name) is not stopped:
            found.add(lb_id)
        mark = rendering.LAYER4_MARK.format(lb_id).encode()
        ours = (
            each.id
            for each in self._layout.lvs_listeners()
            if each.configuration.read_bytes().startswith(mark)
        )
        return sorted(found), [each for each in ours if each not in record.layer4]

    def _end(
        self,
        processes: Sequence[str],
        layer4: Sequence[str],
        keep: ObjectId | None = None,
        *,
        by_and_by: bool = False,
    ) -> None:
        """Stop processes and forget them; the load balancer `keep` has more in its directory.
        `by_and_by`: let haproxy serve the connections that it has."""
        supervisor = self._instances.supervisor
        for process in processes:
            instance = self._layout.declared(ObjectId(process))
            if by_and_by:
                supervisor.retire(process_name(instance))
            else:
                supervisor.forget(process_name(instance))
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            self._instances.acceptance.forget(instance.id)
            self._read.pop(instance.id, None)
            if process == keep:
                for path in (instance.last_good, instance.final_counters):
                    files.remove_tree(path)
            else:
                files.remove_tree(instance.directory)
        for listener in layer4:
            self._layer4.delete(ObjectId(listener))

    def _hand_over(self) -> None:
        """Have the kernel give connections that wait at a socket that is closed to another one at
        the same address: that of the processes that begin, before others end. It can since 5.14."""
        with contextlib.suppress(OSError):
            Namespace(self._layout.namespace).run(lambda: sysctl.write(_MIGRATE, "1"))

    # What has been read

    def _committed(self, instance: InstanceLayout) -> Directory | None:
        """The texts of a process that are committed, if there are any."""
        known = self._read.get(instance.id)
        if known is not None and known.signature == files.signature(instance.current):
            return known
        return directory.read(instance.current) if instance.current.is_dir() else None

    def _remember(self, prepared: Sequence[Prepared]) -> None:
        """Keep the texts that are committed now, unless they take too much room."""
        for each in prepared:
            self._read[each.instance.id] = each.read[0]
        if sum(each.size for each in self._read.values()) > _MOST_CHARACTERS:
            self._read.clear()

    def _tidy(self, lb_id: ObjectId, state: State) -> None:
        good = set()
        for process in state.record.processes:
            with contextlib.suppress(OSError):
                path = self._layout.declared(ObjectId(process)).good.readlink()
                good |= {int(part) for part in path.parts[-2:] if part.isdigit()}
        self._store.prune(lb_id, {state.number, *good})


def _layer4_text(state: State | None, listener: str) -> bytes | None:
    """What keepalived was told of a listener."""
    try:
        return state.layer4(listener) if state else None
    except FileNotFoundError:
        return None


def _remove_uploaded(instance: InstanceLayout) -> None:
    """Remove what an uploaded text has left that was superseded."""
    for path in (instance.configuration, instance.addition, instance.peer, instance.rejected):
        files.remove(path)
    for path in instance.last_good.iterdir():
        if path.is_file() and not path.is_symlink() and path.suffix == ".cfg":
            files.remove(path)
    files.remove_tree(instance.last_good / "certificates")
    files.remove_tree(instance.certificates)
    for path in instance.generations.iterdir():
        if not (path / "record.json").exists():
            files.remove_tree(path)
