"""Instances: upload, start, stop, reload, go back, delete (docs/architecture.md, the life of a
change).

What is on disk under an instance's real names is always one complete configuration that haproxy
has accepted.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import AgentError, InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import ChangeRecord, Journal
from amphora_agent.haproxy import status
from amphora_agent.haproxy.apply import Activate, Application, Change, describe_outcome
from amphora_agent.haproxy.certificate_files import CertificateFiles
from amphora_agent.haproxy.config import diff, preflight, queries
from amphora_agent.haproxy.config.diff import CountedText, compare_configs
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.config.preflight import Limits
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.process import render
from amphora_agent.haproxy.process.activator import Activation
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.process.takeover import Takeover, Takeovers
from amphora_agent.haproxy.restart import Restarts
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.status import require
from amphora_agent.haproxy.update import value_diff
from amphora_agent.haproxy.validate import claims
from amphora_agent.haproxy.validate.claims import ClaimedAddresses, ListenerCount
from amphora_agent.haproxy.validate.validator import Candidate, ResourceLimits, Validator
from amphora_agent.model.events import AGENT, AlarmKind, Caller, Difference, Operation, Part
from amphora_agent.model.responses import ProcessPlan
from amphora_agent.paths import InstanceLayout, Layout, ObjectId, RenderedLayout, UploadedLayout
from amphora_agent.revisions import adoption, reading
from amphora_agent.revisions.contents import (
    ADDITION,
    CERTIFICATES,
    CONFIGURATION,
    PEER,
    ContentLost,
    Manifest,
    Revisions,
)
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.supervisor.contract import ProcessState, Supervisor
from amphora_agent.supervisor.processes import Completed

logger = logging.getLogger(__name__)

#: Ends a rendered load balancer when what the function given starts serves in its place.
GiveWay = Callable[[ObjectId, Callable[[Takeover], object]], None]


class Instances:
    """Changes instances: each one's changes are made one after another, by whichever process, and
    recorded with who asked for them."""

    def __init__(
        self,
        layout: Layout,
        haproxy: Haproxy,
        supervisor: Supervisor,
        journal: Journal,
        alarms: Alarms,
        *,
        group: str,
        agent_port: int = 9443,
        most_listeners: int = sys.maxsize,
        has_controllers: Callable[[], bool] = lambda: True,
        later: Callable[[str, Callable[[], None]], None] | None = None,
        changed: Callable[[], None] | None = None,
    ) -> None:
        """`later` does the work that nobody waits for; without it, it is done at once. `changed` is
        called when a change has ended, well or not."""
        self._layout = layout
        self._changed = changed
        self.haproxy = haproxy
        self.supervisor = supervisor
        self.group = group
        self._agent_port = agent_port
        self._journal = journal
        self._alarms = alarms
        self._later = later
        self.store = RevisionStore(LiveFiles(alarms))
        self.application = Application(self.store)
        self.takeovers = Takeovers(layout, supervisor)
        self.activation = Activation(layout, haproxy, supervisor, self.store, alarms)
        # systemd is the one who starts haproxy, or a thread of this process.
        self.headroom = ResourceLimits("1" if supervisor.notified else "self")
        self.acceptance = Validator(haproxy, self.headroom, self._bounds)
        self.addresses = ClaimedAddresses(layout)
        self.listeners = ListenerCount(layout, most_listeners, has_controllers)
        restarts = Restarts(layout, haproxy, self.store, alarms)
        supervisor.prepare_restarts(lambda name: self._prepare_restart(restarts, name))
        #: Instances whose files an older agent has left.
        self._taken_over: set[str] = set()
        self.certificates = CertificateFiles(
            layout, self.store, self.changing, self._bounds, self._try_file
        )

    # Configuration

    def upload(
        self,
        instance_id: ObjectId,
        amphora_id: ObjectId,
        configuration: bytes,
        by: Caller = AGENT,
    ) -> None:
        """Check a configuration and make it the instance's; what runs is not touched. A rendered
        one of this id stays until a start or reload.

        Raises:
            InvalidRequest: it is refused; the details have lines and reasons, haproxy's own words
                where it is haproxy that refuses. Nothing has changed.
            Conflict: a rendered load balancer listens where it is to listen.
        """
        instance = self._layout.uploaded(instance_id)
        with self.changing(instance, by, Operation.UPLOAD) as record, ExitStack() as stages:
            was = reading.committed_or_loaded(instance)
            revisions = Revisions.of(instance)
            before = self.acceptance.committed_configuration(instance)
            content = _counted(configuration, before)
            stages.enter_context(
                self.listeners.counting(
                    instance_id,
                    claims.estimate_listeners(content),
                    partial(claims.count_listeners, content),
                )
            )
            mended = render.adapt_config(configuration, content)
            limits = self._limits(content)
            if limits.maxconn is not None:
                mended = mended._replace(content=render.take_out_maxconn(mended.content))
            if mended.content is not configuration:
                content = _counted(mended.content, before)
            wanted = partial(queries.find_claims, content)
            stages.enter_context(self.addresses.claiming(instance_id, wanted, alone=False))
            addition = self._addition(content, limits)
            record.words = [f"{len(configuration)} bytes"]
            peer = render.peer_name(amphora_id)
            name = instance.configuration.name

            def check(texts: Texts) -> Completed:
                # A file whose content is lost is judged as it is, if the text names it.
                with contextlib.suppress(ContentLost):
                    self.store.live.check(instance)
                given = revisions.path(revisions.keep({"": addition})[""].digest)
                configuration = texts[name].encode(errors="surrogateescape")
                done = self.haproxy.check(configuration, instance.configuration, given, peer)
                return Completed(
                    done.status, done.output.replace(str(given), str(instance.addition))
                )

            candidate = Candidate(
                {name: content, instance.addition.name: addition.decode()},
                (name,),
                check,
                {} if before is None else {name: before},
                loaded_state.find_loaded_texts(self.takeovers.predecessor(instance)),
            )
            try:
                verdict = self.acceptance.require(instance, candidate)
            except InvalidRequest:
                if CONFIGURATION in was:
                    files.write(instance.rejected, configuration)
                raise
            new = {name: mended.content, ADDITION: addition, PEER: peer.encode()}
            self.store.commit(instance, {**was, **revisions.keep(new)}, new)
            self.acceptance.committed(instance, verdict)
            self._report_limits(instance_id, limits)
            record.words = [f"{len(configuration)} bytes; {verdict.proof.value}"]
            record.differences = list(verdict.differences)
        for change in mended.changes:
            logger.warning("instance=%s file=%s mended for haproxy: %s", instance_id, name, change)

    def haproxy_version(self) -> str:
        return self.haproxy.capabilities().version

    def rollback(
        self, instance_id: ObjectId, generation: int | None = None, by: Caller = AGENT
    ) -> str:
        """Go back to a generation, by default the one before the present one; say what was done.

        What is committed and has not come up yet is dropped, and kept for a person to read.

        Raises:
            NotFound: no such instance or generation.
            OperationFailed: it did not come up any more; everything is as it was.
        """
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.ROLLBACK) as record:
            require(instance)
            change_to = partial(self._change_to, instance, record)
            return self.application.roll_back(instance, generation, record, change_to)

    @contextlib.contextmanager
    def _change_to(
        self, instance: InstanceLayout, record: ChangeRecord, generation: int
    ) -> Iterator[Change]:
        wanted = self.store.manifest(instance, generation)
        self.store.live.check(instance)
        before = reading.committed(instance) or {}
        record.differences = [*_differences(instance, before, wanted)]
        yield _Return(instance, self, before, wanted, record)

    # Life

    def start(
        self, instance_id: ObjectId, by: Caller = AGENT, give_way: GiveWay | None = None
    ) -> str:
        """Start an instance, unless it runs; return the sentence for the controller. `give_way`
        ends a rendered one of this id when an uploaded text was to take its place.

        Raises:
            NotFound, OperationFailed
        """
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.START) as record:
            if give_way is not None and status.waits_to_replace(self._layout, instance):
                self._take_over(instance_id, record, give_way)
                return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"
            require(instance)
            if self.activation.runs(instance):
                record.plan = "nothing"
            else:
                record.plan = "start"
                start = partial(self.activation.start, instance)
                self.application.carry_out(Activate(instance, start), record)
        return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"

    def reload(
        self, instance_id: ObjectId, by: Caller = AGENT, give_way: GiveWay | None = None
    ) -> str:
        """Make the instance run what is committed; return the sentence for the controller.
        `give_way` is as for `start`.

        Raises:
            NotFound
            OperationFailed: it did not come up; the details are haproxy's own words, the last
                good configuration is back in place, and what ran before still serves.
        """
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.RELOAD) as record:
            if give_way is not None and status.waits_to_replace(self._layout, instance):
                self._take_over(instance_id, record, give_way)
                return f"Listener {instance_id} reloaded"
            require(instance)
            plans = self._activate(instance, record)
        if any(plan.step == "start" for plan in plans):
            return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"
        return f"Listener {instance_id} reloaded"

    def _take_over(self, instance_id: ObjectId, record: ChangeRecord, give_way: GiveWay) -> None:
        """Have what was uploaded take the place of a rendered load balancer."""
        self.takeovers.tell_apart(self._layout.uploaded(instance_id))
        uploaded = self._layout.uploaded(instance_id)
        record.plan = "replace"
        self.application.carry_out(_TakeOver(uploaded, self, give_way), record)

    def _activate(self, instance: InstanceLayout, record: ChangeRecord) -> list[ProcessPlan]:
        """Make it run what is committed, and keep that as a generation."""
        run = partial(self.activation.activate, instance, self.acceptance.foreseen(instance))
        return self.application.carry_out(Activate(instance, run), record) or []

    def stop(self, instance_id: ObjectId, by: Caller = AGENT) -> str:
        """Stop an instance until it is started again; return the sentence for the controller."""
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.STOP):
            require(instance)
            self.supervisor.stop(instance.process)
            # Without it whoever asks knows at once that nobody will answer.
            instance.master_socket.unlink(missing_ok=True)
        return f"Listener {instance_id} stopped"

    def delete(self, instance_id: ObjectId, by: Caller = AGENT) -> None:
        """Stop an instance and remove all its files, its generations (keys are in them) too.
        Nothing happens when there is none."""
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.DELETE) as record:
            record.kept = instance.directory.exists() or instance.certificates.exists()
            self.supervisor.forget(instance.process)
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            self._remove_files(instance)

    def _remove_files(self, instance: InstanceLayout) -> None:
        """Remove all that there is of an instance. Until its references are dropped, a kill leaves
        all of it."""
        self.store.live.take_away(instance)
        self.store.forget(instance)
        files.remove_tree(instance.certificates)
        files.remove_tree(instance.directory)
        self.acceptance.forget(instance.id)

    def adopt(self) -> None:
        """Bring what an earlier agent left into order; before anything else is called."""
        files.sweep(self._layout.base)
        files.sweep(self._layout.certificates)
        files.sweep(self._layout.run)
        for step in (self._adopt, self._put_in_order):
            for instance in reading.directories(self._layout):
                try:
                    with self._locked(instance):
                        step(instance)
                except (OSError, AgentError) as error:  # the others must not wait for this one
                    logger.error("instance=%s is not in order: %s", instance.id, error)
        files.provide(self._layout.ping_wrapper, render.ping_wrapper().encode(), files.PROGRAM)
        self.supervisor.adopt()

    def _adopt(self, instance: InstanceLayout) -> None:
        """Take over revisions, or what an older agent has instead; end a deletion that was
        interrupted."""
        if adoption.adopt(self._layout, instance):
            self._taken_over.add(instance.id)
        instance = self._layout.instance(instance.id)
        revisions = Revisions.of(instance)
        if not revisions.directory.exists() or instance.prefix or revisions.committed is not None:
            return
        # Certificates for a rendered one may be put before there is one.
        if (
            instance.kind == RenderedLayout.kind
            or not (instance.directory / "certificates").exists()
        ):
            self._remove_files(instance)

    def _put_in_order(self, instance: InstanceLayout) -> None:
        """See that files are what this agent makes of them, and as they are committed."""
        manifest = reading.committed(instance) or {}
        if isinstance(instance, UploadedLayout) and CONFIGURATION in manifest:
            text = reading.read(instance, CONFIGURATION).decode(errors="replace")
            limits = self._limits(text)
            new = {ADDITION: self._addition(text, limits)}
            if instance.id in self._taken_over:
                new |= self.certificates.renewed(instance)
            self._report_limits(instance.id, limits)
            kept = Revisions.of(instance).keep(new)
            self.store.commit(instance, {**manifest, **kept}, new)
        self.store.live.check(instance)
        self._tidy(instance)

    def resume(self) -> None:
        """Bring back to life what should run and does not, and end what a kill has interrupted."""
        self.supervisor.resume()
        for instance in reading.directories(self._layout):
            with contextlib.suppress(AgentError), self._locked(instance):
                self.takeovers.settle(instance)
        for instance in reading.instances(self._layout):
            # Raised for one, it must not keep the others from it; the journal has it.
            with contextlib.suppress(AgentError):
                self._resume(instance)

    def _resume(self, instance: InstanceLayout) -> None:
        if loaded_state.is_interrupted(instance):
            with self.changing(instance, AGENT, Operation.RELOAD) as record:
                if self.activation.runs(instance):
                    self._activate(instance, record)
        elif (
            instance.goes_back_alone
            and reading.loaded_digest(instance) not in (None, reading.committed_digest(instance))
            and not self.activation.runs(instance)
            and self.supervisor.state(instance.process) is ProcessState.FAILED
        ):
            # What is committed may never come up: then a start goes back.
            with self.changing(instance, AGENT, Operation.START):
                self.activation.start(instance)

    @contextlib.contextmanager
    def changing(
        self, instance: InstanceLayout, by: Caller, operation: Operation
    ) -> Iterator[ChangeRecord]:
        """The lock of an instance, with commands too, and the record of the change. A first upload
        that fails leaves no file behind."""
        with self._locked(instance):
            was_there = instance.directory.exists()
            adoption.adopt(self._layout, self._layout.instance(instance.id))
            try:
                with self._journal.change(Part.INSTANCE, instance.id, by, operation) as record:
                    yield record
            finally:
                emptied = not was_there or operation is Operation.CERTIFICATE_DELETE
                if emptied and not self._is_known(instance):
                    files.remove_tree(instance.directory)
                elif self._later is None:
                    self._tidy(instance)
                else:
                    self._later(instance.id, partial(self.tidy, instance))
                if self._changed is not None:
                    self._changed()

    def _prepare_restart(self, restarts: Restarts, name: str) -> None:
        for instance in reading.instances(self._layout):
            if instance.process == name:
                restarts.prepare(instance)

    def _is_known(self, instance: InstanceLayout) -> bool:
        """Whether anything is there of an instance, or of a rendered one of this id."""
        return (
            Revisions.of(instance).committed is not None
            or isinstance(instance, RenderedLayout)
            or isinstance(self._layout.instance(instance.id), RenderedLayout)
            or (instance.directory / "certificates").exists()
        )

    def _locked(self, instance: InstanceLayout) -> AbstractContextManager[None]:
        """Return the lock of an instance: that of its load balancer."""
        owner = instance.owner
        return files.locked_for(owner, self._layout.instance_lock(owner.name))

    def tidy(self, instance: InstanceLayout) -> None:
        """End what a change could not, and remove what it has left behind and nobody uses."""
        with self._locked(instance):
            self._tidy(instance)

    def _tidy(self, instance: InstanceLayout) -> None:
        try:
            files.remove(instance.state)  # the disk may have refused that when it was read
            files.discard_left()
            self.store.tidy(instance)
        except (OSError, AgentError) as error:
            logger.warning("instance=%s is not tidied: %s", instance.id, error)

    def _try_file(self, instance: InstanceLayout, path: Path, content: Path) -> Completed:
        """Let haproxy check what is committed with another file in the place of one it names."""
        with contextlib.suppress(ContentLost):  # perhaps of the file that comes now
            self.store.live.check(instance)
        name = re.compile(rf"{re.escape(str(path))}(?![\w.-])".encode())
        manifest = reading.committed(instance) or {}
        configuration = name.sub(str(content).encode(), reading.read(instance, CONFIGURATION))
        return self.haproxy.check_files(instance, manifest, configuration)

    def report_connections(self, instance_id: str, asked: int, given: int) -> None:
        """Tell that an instance serves fewer connections at once than it is configured for, as long
        as it does."""
        kind = AlarmKind.FEWER_CONNECTIONS
        if given < asked:
            reason = (
                f"haproxy serves at most {given} connections at once, not {asked} as configured:"
                f" {self.headroom.descriptors()} file descriptors allow no more;"
                " raise LimitNOFILE of its unit and fs.nr_open, or configure lower limits"
            )
            self._alarms.set_alarm(kind, instance_id, reason)
        else:
            self._alarms.clear_alarm(kind, instance_id)

    def _report_limits(self, instance_id: ObjectId, limits: Limits) -> None:
        given = limits.wanted if limits.maxconn is None else limits.maxconn
        self.report_connections(instance_id, limits.wanted, given)

    def _addition(self, configuration: str, limits: Limits) -> bytes:
        """What the agent adds to a configuration."""
        return render.addition(configuration, self.group, limits).encode()

    def _limits(self, configuration: str) -> Limits:
        asked = render.read_taken_out_maxconn(configuration)
        return preflight.choose_limits(configuration, self.headroom.descriptors(), asked)

    def _bounds(self, instance: InstanceLayout) -> Bounds:
        return Bounds(
            base=str(self._layout.base),
            directory=str(instance.directory),
            certificates=str(instance.certificates),
            stats_socket=str(instance.stats_socket),
            state_file=str(instance.state),
            pid_file=str(instance.pid_file),
            ping_wrapper=str(self._layout.ping_wrapper),
            agent_port=self._agent_port,
            group=self.group,
        )


@dataclass
class _Return(Change):
    """An instance returns to a generation, `wanted`. If it does not run, it is not started."""

    instances: Instances
    before: Manifest
    wanted: Manifest
    record: ChangeRecord

    def commit(self, stages: ExitStack) -> None:
        """Raises OperationFailed: haproxy does not take it any more."""
        store, instance = self.instances.store, self.instance
        certificates = {n: each for n, each in self.wanted.items() if n.startswith(CERTIFICATES)}
        # With the certificates of both, what is committed can be loaded all the while.
        store.commit(instance, {**self.before, **certificates})
        checked = self.instances.haproxy.check_files(instance, self.wanted)
        if not checked.succeeded:
            raise OperationFailed("Cannot go back", checked.output.strip())
        came_up = reading.loaded(instance) or {}
        if came_up.get(CONFIGURATION) != self.before.get(CONFIGURATION):
            self.record.words.append("the configuration that waited for a reload is dropped")
            store.keep_rejected(instance)
        store.commit(instance, self.wanted)

    def activate(self) -> list[ProcessPlan] | None:
        activation = self.instances.activation
        if not activation.runs(self.instance):
            return None
        return [describe_outcome(self.instance, activation.activate(self.instance))]

    def go_back(self) -> None:
        self.instances.store.commit(self.instance, self.before)


@dataclass
class _TakeOver(Change):
    """An uploaded text takes the place of a rendered load balancer, which `give_way` ends."""

    instances: Instances
    give_way: GiveWay

    def activate(self) -> list[ProcessPlan]:
        start = partial(self.instances.activation.start, self.instance)
        self.give_way(self.instance.id, start)
        return [ProcessPlan(id=self.instance.id, step="replace")]


def _differences(
    instance: InstanceLayout, before: Manifest, after: Manifest
) -> tuple[Difference, ...]:
    """Return what differs between two configurations; nothing where one cannot be read."""
    revisions, name = Revisions.of(instance), instance.configuration.name
    with contextlib.suppress(ContentLost, KeyError, OSError):
        old, new = (
            {name: revisions.read(each[CONFIGURATION].digest).decode(errors="surrogateescape")}
            for each in (before, after)
        )
        return value_diff.compare_values(compare_configs(old, new), (name,))
    return ()


def _counted(configuration: bytes, before: CountedText | None) -> CountedText:
    return diff.count_words(configuration.decode(errors="surrogateescape"), before)
