"""Instances: upload, start, stop, reload, go back, delete (docs/architecture.md, the life of a
change).

What is on disk under an instance's real names is always one complete configuration that haproxy
has accepted.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import AgentError, InvalidRequest, OperationFailed
from amphora_agent.haproxy import generations, mend, render, running, signs, text
from amphora_agent.haproxy.acceptance import Acceptance, Candidate, Proof
from amphora_agent.haproxy.activation import Activation, Outcome, process_name
from amphora_agent.haproxy.certificate_files import CertificateFiles
from amphora_agent.haproxy.generations import Generations
from amphora_agent.haproxy.headroom import Headroom
from amphora_agent.haproxy.inventory import require
from amphora_agent.haproxy.journal import Journal, Record
from amphora_agent.haproxy.plan import Step
from amphora_agent.haproxy.policy import Bounds
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.signs import Counted
from amphora_agent.haproxy.text import Texts
from amphora_agent.layout import InstanceLayout, Layout, ObjectId
from amphora_agent.model.changes import AGENT, Caller, Operation
from amphora_agent.processes.command import Completed
from amphora_agent.processes.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Instances:
    """Changes instances: each one's changes are made one after another, by whichever process, and
    written down in its journal with who asked for them."""

    def __init__(
        self,
        layout: Layout,
        haproxy: Haproxy,
        supervisor: Supervisor,
        *,
        group: str,
        agent_port: int = 9443,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self.haproxy = haproxy
        self.supervisor = supervisor
        self.group = group
        self._agent_port = agent_port
        self._journal = Journal(clock=clock)
        self._generations = Generations()
        self.activation = Activation(layout, haproxy, supervisor, clock)
        # systemd is the one who starts haproxy, or a thread of this process.
        self.headroom = Headroom("1" if supervisor.notified else "self")
        self.acceptance = Acceptance(haproxy, self.headroom, self._bounds)
        self.certificates = CertificateFiles(layout, self.changing, self._bounds)

    # Configuration

    def upload(
        self,
        instance_id: ObjectId,
        amphora_id: ObjectId,
        configuration: bytes,
        by: Caller = AGENT,
        release: Callable[[ObjectId], None] | None = None,
    ) -> None:
        """Check a configuration and make it the instance's; what runs is not touched. When that is
        a declared one, `release` ends it.

        Raises:
            InvalidRequest: it is refused; the details have lines and reasons, haproxy's own words
                where it is haproxy that refuses. Nothing has changed.
        """
        instance = self._layout.uploaded(instance_id)
        with self.changing(instance, by, Operation.UPLOAD) as record, ExitStack() as stages:
            before = self.acceptance.committed_configuration(instance)
            content = _counted(configuration, before)
            mended = mend.configuration(configuration, content)
            if mended.content is not configuration:
                content = _counted(mended.content, before)
            addition = self._addition(content)
            record.words = [f"{len(configuration)} bytes"]
            staged_addition = None
            if not files.has(instance.addition, addition):
                staged_addition = files.Staged(instance.addition, addition, files.PRIVATE)
                stages.enter_context(staged_addition)
            peer = render.peer_name(amphora_id)
            given = staged_addition.path if staged_addition else instance.addition
            name = instance.configuration.name

            def check(texts: Texts) -> Completed:
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
            )
            try:
                verdict = self.acceptance.require(instance, candidate)
            except InvalidRequest:
                files.write(instance.rejected, configuration)
                raise
            files.provide(instance.peer, peer.encode())
            if verdict.proof is not Proof.SAME:
                # A kill between these leaves an addition that is mended when the agent starts.
                if staged_addition:
                    staged_addition.commit()
                files.write(instance.configuration, mended.content)
            if release is not None and self._layout.instance(instance_id).declared:
                release(instance_id)
            self.acceptance.committed(instance, verdict)
            record.words = [f"{len(configuration)} bytes; {verdict.proof.value}"]
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
            if generation is None:
                generation = self._generations.before(instance)
            wanted = self._generations.content(instance, generation)
            before = generations.committed(instance)
            record.words = [f"back to generation {generation}"]
            try:
                generations.bring_certificates(instance, wanted)
                self._require_good(instance, generation)
                if self._generations.waits(instance):
                    record.words.append("the configuration that waited for a reload is dropped")
                    files.keep_as(instance.configuration, instance.rejected)
                generations.commit(instance, wanted)
                if not self.activation.runs(instance):
                    record.words.append("it does not run, and was not started")
                    return f"Generation {generation} is committed; it does not run"
                self._activate(instance, record)
            except BaseException:  # also an end by force: nothing may stay half-way
                generations.bring_certificates(instance, before)
                generations.commit(instance, before)
                raise
        return f"Back to generation {generation}, which is now generation {record.generation}"

    def _require_good(self, instance: InstanceLayout, generation: int) -> None:
        """See that haproxy still takes a generation, whose certificates are in place.

        Raises:
            OperationFailed
        """
        configuration, addition, peer = self._generations.texts(instance, generation)
        checked = self.haproxy.check(
            configuration.read_bytes(), instance.configuration, addition, peer.read_text()
        )
        if not checked.succeeded:
            raise OperationFailed("Cannot go back", checked.output.strip())

    # Life

    def start(self, instance_id: ObjectId, by: Caller = AGENT) -> str:
        """Start an instance, unless it runs; return the sentence for the controller.

        Raises:
            NotFound, OperationFailed
        """
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.START) as record:
            require(instance)
            if self.activation.runs(instance):
                record.plan = "nothing"
            else:
                record.plan = "start"
                self.activation.start(instance)
                record.generation = self._remember(instance)
        return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"

    def reload(self, instance_id: ObjectId, by: Caller = AGENT) -> str:
        """Make the instance run what is committed; return the sentence for the controller.

        Raises:
            NotFound
            OperationFailed: it did not come up; the details are haproxy's own words, the last
                good configuration is back in place, and what ran before still serves.
        """
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.RELOAD) as record:
            require(instance)
            outcome = self._activate(instance, record)
        if outcome.done is Step.START:
            return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"
        return f"Listener {instance_id} reloaded"

    def _activate(self, instance: InstanceLayout, record: Record) -> Outcome:
        """Make it run what is committed, and keep that as a generation."""
        outcome = self.activation.activate(instance, self.acceptance.foreseen(instance))
        record.plan = outcome.plan.step.value
        record.reasons = list(outcome.plan.reasons)
        record.words += outcome.plan.words
        record.fell_back = outcome.fell_back
        record.generation = self._remember(instance)
        return outcome

    def _remember(self, instance: InstanceLayout) -> int | None:
        """The number of the generation that came up; None when the disk takes no more: it serves
        all the same."""
        try:
            return self._generations.remember(instance)
        except OSError as error:
            logger.warning("instance=%s cannot be kept as a generation: %s", instance.id, error)
            return None

    def stop(self, instance_id: ObjectId, by: Caller = AGENT) -> str:
        """Stop an instance until it is started again; return the sentence for the controller."""
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.STOP):
            require(instance)
            self.supervisor.stop(process_name(instance))
            # Without it whoever asks knows at once that nobody will answer.
            instance.master_socket.unlink(missing_ok=True)
        return f"Listener {instance_id} stopped"

    def delete(self, instance_id: ObjectId, by: Caller = AGENT) -> None:
        """Stop an instance and remove all its files, its journal and generations (keys are in them)
        too. Nothing happens when there is none."""
        instance = self._layout.instance(instance_id)
        with self.changing(instance, by, Operation.DELETE):
            self.supervisor.forget(process_name(instance))
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            # Without it there is no load balancer, whatever a kill leaves of the rest.
            files.remove(instance.configuration)
            files.remove_tree(instance.certificates)
            files.remove_tree(instance.directory)
            self.acceptance.forget(instance_id)

    def adopt(self) -> None:
        """Bring what an earlier agent left into order; before anything else is called."""
        files.sweep(self._layout.base)
        files.sweep(self._layout.certificates)
        files.sweep(self._layout.run)
        for instance in self._layout.instances():
            if not instance.declared:
                files.provide(instance.addition, self._addition(_text(instance.configuration)))
        files.provide(self._layout.ping_wrapper, render.ping_wrapper().encode(), files.PROGRAM)
        self.supervisor.adopt()

    def resume(self) -> None:
        """Bring back to life what should run and does not, and end what a kill has interrupted."""
        self.supervisor.resume()
        for instance in self._layout.instances():
            if running.interrupted(instance):
                # Raised for one, it must not keep the others from it; the journal has it.
                with (
                    contextlib.suppress(AgentError),
                    self.changing(instance, AGENT, Operation.RELOAD) as record,
                ):
                    if self.activation.runs(instance):
                        self._activate(instance, record)

    @contextlib.contextmanager
    def changing(
        self, instance: InstanceLayout, by: Caller, operation: Operation
    ) -> Iterator[Record]:
        """The lock of an instance, with commands too, and its journal."""
        files.make_directory(self._layout.instance_locks)
        lock = self._layout.instance_locks / f"{instance.id}.lock"
        with files.locked(lock):
            try:
                with self._journal.change(instance, by, operation) as record:
                    yield record
            finally:
                if not instance.directory.exists():  # any more, or at all
                    lock.unlink()

    def _addition(self, configuration: str) -> bytes:
        """What the agent adds to a configuration."""
        # Most have no such word anywhere.
        any_said = any(signs.has(configuration, keyword) for keyword in render.KEYWORDS)
        parsed = text.parse(configuration if any_said else "", render.KEYWORDS)
        return render.addition(parsed, self.group).encode()

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


def _counted(configuration: bytes, before: Counted | None) -> Counted:
    return signs.counted(configuration.decode(errors="surrogateescape"), before)


def _text(configuration: Path) -> str:
    return configuration.read_text(errors="replace")
