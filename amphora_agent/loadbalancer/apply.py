"""From a staged state of a rendered load balancer to a committed one, and processes that agree with
it; when they do not come up, back to the state before.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import msgspec

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.apply import Change, describe_outcome
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.process.activator import Outcome
from amphora_agent.haproxy.process.takeover import Takeover
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import ConfigDirectory
from amphora_agent.haproxy.runtime.socket import master_of
from amphora_agent.haproxy.service import Instances
from amphora_agent.haproxy.validate.validator import Candidate, Verdict
from amphora_agent.keepalived import program
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.lvs import poller
from amphora_agent.keepalived.lvs.service import LvsListeners
from amphora_agent.loadbalancer.states import Record, State, States
from amphora_agent.model.events import Difference
from amphora_agent.model.responses import ProcessPlan
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.paths import InstanceLayout, Layout, ObjectId, RenderedLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import (
    CERTIFICATES,
    CONFIGURATION,
    LOADED,
    Manifest,
    Revisions,
    part,
)
from amphora_agent.supervisor.contract import ProcessState
from amphora_agent.supervisor.processes import Completed

logger = logging.getLogger(__name__)

_MIGRATE = "net/ipv4/tcp_migrate_req"
#: Of texts that are kept in memory: those of a load balancer with 2000 listeners.
_MOST_CHARACTERS = 8 << 20


class Prepared(NamedTuple):
    """A process of a staged state that may be committed. `files` are its own, `read` are first its
    texts, then those that are committed until then, if there are any."""

    instance: RenderedLayout
    files: Manifest
    read: tuple[ConfigDirectory, ...]
    verdict: Verdict


class Commitment:
    """Commits the states of load balancers; who changes one holds its lock."""

    def __init__(
        self, layout: Layout, states: States, instances: Instances, layer4: LvsListeners
    ) -> None:
        self.layout = layout
        self.states = states
        self.instances = instances
        self._layer4 = layer4
        #: Bounded cache of the texts that processes have loaded.
        self._read: dict[ObjectId, ConfigDirectory] = {}

    # Before

    def holds(self, lb_id: ObjectId, state: State) -> bool:
        """Return whether a committed state has come up and runs, and nothing is left of the states
        before it, nor of an uploaded text."""
        if self.find_left_over(lb_id, state.record) != ([], []):
            return False
        if reading.exists(self.layout.uploaded(lb_id)) or self.find_uploaded(lb_id):
            return False
        return all(
            loaded_state.is_remembered(instance) and master_of(instance).listening()
            for instance in map(self.layout.rendered, state.record.processes)
        ) and all(map(self._serves, state.record.layer4))

    def with_parts(self, lb_id: ObjectId, processes: Iterable[str], state: Manifest) -> Manifest:
        """Add what haproxy is given to a state that an older agent has made without."""
        revisions, whole = self.states.revisions(lb_id), {**state}
        for process in processes:
            prefix = _find_prefix(process, state)
            own = loaded_state.add_parts(revisions, part(state, prefix))
            whole |= {f"{prefix}{name}": entry for name, entry in own.items()}
        return whole

    def prepare(
        self, lb_id: ObjectId, record: Record, state: Manifest, before: State | None
    ) -> "StateChange":
        """Check that a staged state may be committed; return the change to it from `before`.

        Raises:
            InvalidRequest: haproxy refuses it.
        """
        revisions = self.states.revisions(lb_id)
        replaced = loaded_state.find_loaded_texts(self.find_uploaded(lb_id))

        def prepare_process(process: ObjectId) -> Prepared:
            instance = self.layout.rendered(process)
            own = part(state, _find_prefix(process, state))
            committed = self._committed(instance)
            now = loaded_state.read_directory(revisions, own, committed)

            def check(texts: Texts) -> Completed:
                named = {
                    name: revisions.path(entry.digest)
                    for name, entry in own.items()
                    if name.startswith(CERTIFICATES) or name.endswith(".cidrs")
                }
                return self.instances.haproxy.check_directory(texts, named, instance.current)

            were = committed.texts if committed else {}
            candidate = Candidate(
                now.texts, now.texts.keys(), check, were, replaced, has_files=False
            )
            verdict = self.instances.acceptance.require(instance, candidate)
            return Prepared(instance, own, (now, committed) if committed else (now,), verdict)

        prepared = [prepare_process(process) for process in record.processes]
        return StateChange(self.layout.rendered(lb_id), self, record, state, prepared, before)

    # Doing it

    def end(self, lb_id: ObjectId, state: State) -> None:
        """Stop all processes of a load balancer and forget them; and an uploaded text that was to
        take its place, or whose place it was taking."""
        processes, layer4 = self.find_left_over(lb_id, state.record)
        processes += state.record.processes
        self.end_processes(processes, [*state.record.layer4, *layer4], keep=lb_id)
        if (uploaded := self.find_uploaded(lb_id)) is not None:
            self.instances.supervisor.forget(uploaded.process)
            uploaded.master_socket.unlink(missing_ok=True)
        self.remove_uploaded(lb_id)

    def give_way(self, lb_id: ObjectId, state: State, start: Callable[[Takeover], object]) -> None:
        """Have a haproxy that is not ours started in the place of a load balancer's, and end these
        by and by."""
        processes, layer4 = self.find_left_over(lb_id, state.record)
        processes += state.record.processes
        old = [self.layout.rendered(process) for process in processes]
        self.hand_over()
        with self.instances.takeovers.taking_over(lb_id, old) as takeover:
            start(takeover)
            # Should this be interrupted from here on, the other one counts.
            for instance in old:
                Revisions.of(instance).drop(f"{LOADED}{instance.id}")
            takeover.end()
        others = [process for process in processes if process != lb_id]
        self.end_processes(others, [*state.record.layer4, *layer4])
        self._read.pop(lb_id, None)

    def find_uploaded(self, lb_id: ObjectId) -> InstanceLayout | None:
        """Return the instance of an uploaded text of this id, if its haproxy is there."""
        return self.instances.takeovers.predecessor(self.layout.rendered(lb_id))

    # Listeners of keepalived

    def serve_layer4(self, state: State, before: State | None) -> list[ProcessPlan]:
        """Have keepalived serve the listeners of a state; return what it took."""
        plans = []
        for listener in state.record.layer4:
            name = f"layer4/{listener}.conf"
            was = before.files.get(name) if before else None
            if state.files[name] != was or not self._serves(listener):
                self._layer4.upload(listener, state.content(name))
                self._layer4.reload(listener)
                plans.append(ProcessPlan(id=listener, step="reload" if was else "start"))
        return plans

    def _serves(self, listener: ObjectId) -> bool:
        """Return whether keepalived serves a listener as it was told last."""
        layout = self.layout.lvs(listener)
        return program.is_running(layout) and not poller.is_pending(layout)

    # What is no more

    def find_left_over(
        self, lb_id: ObjectId, record: Record
    ) -> tuple[list[ObjectId], list[ObjectId]]:
        """Return the processes of haproxy and the listeners of keepalived that a load balancer has
        had and has no more; after a change, and after one that a kill or the disk cut off."""
        own = self.layout.rendered(lb_id)
        processes = {instance.id for instance in self.layout.processes_of(own)} - {
            *record.processes
        }
        if lb_id not in record.processes and (
            self.instances.supervisor.state(own.process) is not ProcessState.STOPPED
            or own.last_good.exists()
            or reading.loaded_digest(own) is not None
        ):
            processes.add(lb_id)
        listeners = [
            listener.id
            for listener in self.layout.lvs_listeners()
            if listener.id not in record.layer4
            and lvs.find_owner(listener.configuration.read_bytes()) == lb_id
        ]
        return sorted(processes), listeners

    def end_processes(
        self,
        processes: Iterable[ObjectId],
        layer4: Iterable[ObjectId],
        keep: ObjectId | None = None,
        *,
        by_and_by: bool = False,
    ) -> None:
        """Stop processes and forget them; the load balancer `keep` has more in its directory.
        `by_and_by`: let haproxy serve the connections that it has."""
        supervisor = self.instances.supervisor
        for process in processes:
            instance = self.layout.rendered(process)
            if by_and_by:
                supervisor.retire(instance.process)
            else:
                supervisor.forget(instance.process)
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            self.instances.acceptance.forget(instance.id)
            self._read.pop(instance.id, None)
            if process == keep:
                for path in (instance.last_good, instance.final_counters):
                    files.remove_tree(path)
                Revisions.of(instance).drop(f"{LOADED}{instance.id}")
            else:
                Revisions.of(instance).drop(f"{LOADED}{instance.id}")
                files.remove_tree(instance.directory)
        for listener in layer4:
            self._layer4.delete(listener)

    def hand_over(self) -> None:
        """Have the kernel give connections that wait at a socket that is closed to another one at
        the same address: that of processes that begin before others end, or of these when the new
        ones do not come up. It can since 5.14; without it a few connections may be lost."""
        with contextlib.suppress(OSError, OperationFailed):
            Namespace(self.layout.namespace).run(lambda: sysctl.write(_MIGRATE, "1"))

    def remove_uploaded(self, lb_id: ObjectId) -> None:
        """Remove what an uploaded text has left whose place was taken. What the disk refuses to
        remove goes with a later change."""
        instance = self.layout.uploaded(lb_id)
        left = [instance.configuration, instance.addition, instance.peer]
        if reading.exists(instance):
            Revisions.of(instance).drop_all()
            left.append(instance.rejected)
            files.remove_at_once(instance.certificates)
        for path in left:
            if os.path.lexists(path):
                files.discard(path)

    # What has been read

    def _committed(self, instance: InstanceLayout) -> ConfigDirectory | None:
        """Return the texts of a process that are committed, if there are any."""
        manifest = reading.committed(instance)
        if not manifest:
            return None
        known = self._read.get(instance.id)
        if known is not None and known.digests == loaded_state.digest_directory(manifest):
            return known
        return loaded_state.read_directory(Revisions.of(instance), manifest)

    def keep_texts(self, prepared: Sequence[Prepared]) -> None:
        """Keep the texts that are committed now, unless they take too much room."""
        for process in prepared:
            self._read[process.instance.id] = process.read[0]
        if sum(directory.size for directory in self._read.values()) > _MOST_CHARACTERS:
            self._read.clear()


@dataclass
class StateChange(Change):
    """A staged state becomes that of a load balancer, after the state `before`."""

    instance: RenderedLayout
    commitment: Commitment
    record: Record
    staged: Manifest
    prepared: Sequence[Prepared]
    before: State | None
    #: The one that is committed, once it is.
    state: State | None = None
    takeover: Takeover | None = None

    @property
    def differences(self) -> Sequence[Difference]:
        return [*chain.from_iterable(process.verdict.differences for process in self.prepared)]

    def foresee(self) -> list[ProcessPlan]:
        """Return what the change would do."""
        lb_id, before = self.instance.id, self.before
        activation = self.commitment.instances.activation
        is_uploaded = self.commitment.find_uploaded(lb_id) is not None
        plans = []
        for instance, own, read, _ in self.prepared:
            if is_uploaded:
                plan = activation.foresee_start(read[0].texts)
            else:
                plan = activation.foresee(instance, read[0].texts, own, read)
            plans.append(describe_outcome(instance, Outcome(plan)))
        if is_uploaded:
            plans = _replace_uploaded(lb_id, plans)
        for listener in self.record.layer4:
            name = f"layer4/{listener}.conf"
            was = before.files.get(name) if before else None
            if self.staged[name] != was:
                plans.append(ProcessPlan(id=listener, step="reload" if was else "start"))
        return plans + _list_stopped(before, self.record)

    def commit(self, stages: contextlib.ExitStack) -> None:
        commitment, lb_id = self.commitment, self.instance.id
        takeovers = commitment.instances.takeovers
        uploaded = commitment.find_uploaded(lb_id)
        if uploaded is not None:
            takeovers.tell_apart(self.instance)
            # Its process has another name now.
            self.prepared = [
                process._replace(instance=commitment.layout.rendered(process.instance.id))
                for process in self.prepared
            ]
        self.state = commitment.states.commit(lb_id, self.staged)
        if uploaded is not None or self.before is not None:
            commitment.hand_over()
        if uploaded is not None:
            self.takeover = stages.enter_context(takeovers.taking_over(lb_id, [uploaded]))

    def activate(self) -> list[ProcessPlan]:
        assert self.state is not None
        activate = self.commitment.instances.activation.activate
        plans = [
            describe_outcome(instance, activate(instance, verdict.foreseen, read, self.takeover))
            for instance, _, read, verdict in self.prepared
        ]
        return plans + self.commitment.serve_layer4(self.state, self.before)

    def go_back(self) -> None:
        """Commit the state from before again, and make its processes agree with it; end others."""
        if self.state is None:
            return
        commitment, lb_id, before = self.commitment, self.instance.id, self.before
        commitment.states.go_back(lb_id, before)
        commitment.end_processes(
            *_find_others(self.record, before.record if before else None),
            keep=lb_id,
            by_and_by=self.takeover is not None or before is not None,
        )
        if before is None:
            return
        for process in before.record.processes:
            try:
                commitment.instances.activation.activate(commitment.layout.rendered(process))
            except OperationFailed:
                logger.exception("instance=%s cannot go back", process)
        with contextlib.suppress(OperationFailed):
            commitment.serve_layer4(before, self.state)

    def take_place(self, plans: list[ProcessPlan]) -> list[ProcessPlan]:
        if self.takeover is None:
            return plans
        self.takeover.end()
        return _replace_uploaded(self.instance.id, plans)

    def finish(self, plans: list[ProcessPlan]) -> list[ProcessPlan]:
        commitment, lb_id = self.commitment, self.instance.id
        for process in self.prepared:
            commitment.instances.acceptance.committed(process.instance, process.verdict)
        commitment.keep_texts(self.prepared)
        commitment.remove_uploaded(lb_id)
        if self.before is not None:
            left_over = commitment.find_left_over(lb_id, self.record)
            if any(left_over):
                commitment.end_processes(*left_over, keep=lb_id, by_and_by=True)
        return plans + _list_stopped(self.before, self.record)


def _find_prefix(process: str, state: Manifest) -> str:
    """Return what stands before the names of a process's files in a state."""
    return "" if CONFIGURATION in state else f"{process}/"


_BESIDE = (
    "haproxy runs with an uploaded text: this one starts beside it and takes its place, and no"
    " request is lost",
)
_ENDS = (
    "haproxy runs with an uploaded text: when all others serve, it accepts no more connections,"
    " serves those that it has, and ends",
)


def _replace_uploaded(lb_id: ObjectId, plans: Iterable[ProcessPlan]) -> list[ProcessPlan]:
    """Return the plans where a load balancer takes the place of an uploaded text of its id."""
    changed = []
    for plan in plans:
        if plan.step == "start":
            step = "replace" if plan.id == lb_id else plan.step
            plan = msgspec.structs.replace(plan, step=step, reasons=_BESIDE)
        changed.append(plan)
    if all(plan.id != lb_id for plan in changed):
        changed.append(ProcessPlan(id=lb_id, step="stop", reasons=_ENDS))
    return changed


def _list_stopped(before: State | None, record: Record) -> list[ProcessPlan]:
    """Return the plans of processes that end with a state from before."""
    gone = _find_others(before.record, record) if before else ()
    return [ProcessPlan(id=name, step="stop") for name in chain.from_iterable(gone)]


def _find_others(
    record: Record, than: Record | None
) -> tuple[Sequence[ObjectId], Sequence[ObjectId]]:
    """Return what a record has and another has not: processes, and listeners of keepalived."""
    if than is None:
        return record.processes, record.layer4
    return (
        [process for process in record.processes if process not in than.processes],
        [listener for listener in record.layer4 if listener not in than.layer4],
    )
