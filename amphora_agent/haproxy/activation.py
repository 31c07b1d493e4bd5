"""Making an instance run what is committed, by the least disturbing means, and going back when it
does not come up.

What differs is found by comparing what is committed with what the worker has loaded. Commands to
the worker are judged by reading back; whatever is in doubt ends in a reload. The committed files
are ahead of the process all the while: should it die, it comes back with what is wanted.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import (
    binds,
    ports,
    running,
    server_state,
    text,
    transaction,
    workers,
)
from amphora_agent.haproxy.change import Change
from amphora_agent.haproxy.directory import Directory
from amphora_agent.haproxy.observe import keeping_final_counters
from amphora_agent.haproxy.plan import FileChange, Plan, Step, plan
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.running import Foreseen, Loaded, Record
from amphora_agent.haproxy.socket import MasterSocket, NoAnswer, NotListening
from amphora_agent.haproxy.text import Texts
from amphora_agent.haproxy.transaction import Refused
from amphora_agent.haproxy.workers import Workers
from amphora_agent.layout import InstanceLayout, Layout
from amphora_agent.namespace import Namespace
from amphora_agent.processes.supervisor import ProcessSpec, ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for a start or a reload to come up; the controller waits 60 for its answer.
_PATIENCE = 40.0
#: Seconds for all commands of a change, before the patience for a reload.
_COMMANDS = 10.0
#: Seconds for one answer of a socket.
_ANSWER = 5.0
#: Seconds between two looks at something that is coming up.
_PAUSE = 0.002


class Outcome(NamedTuple):
    """What was planned, and why it was a reload that did it after all, when it was."""

    plan: Plan
    fell_back: str | None = None

    @property
    def done(self) -> Step:
        """The step that was carried out."""
        return self.plan.step if self.fell_back is None else Step.RELOAD


class _Situation(NamedTuple):
    """What is known of a haproxy that runs, and what it is to load. `loaded` is None when nothing
    is known."""

    workers: Workers
    program: str
    loaded: Loaded | None
    wanted: Texts


class _ReloadRefused(OperationFailed):
    """A reload that failed; the details say why, in haproxy's words."""


class Activation:
    """Starts, changes and reloads instances. What is done to one instance must follow one another:
    a transaction of haproxy's is known by a file, not by who began it."""

    def __init__(
        self,
        layout: Layout,
        haproxy: Haproxy,
        supervisor: Supervisor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._haproxy = haproxy
        self._supervisor = supervisor
        self._clock = clock

    def activate(
        self,
        instance: InstanceLayout,
        foreseen: Foreseen | None = None,
        read: Collection[Directory] = (),
    ) -> Outcome:
        """Make it run what is committed, as `foreseen` when that is still true. `read` are
        directories of its texts that have been read.

        Raises:
            OperationFailed: it did not come up; the last good configuration is committed again,
                and what ran before still serves.
        """
        if not self.runs(instance):
            decided = plan(None, running.committed(instance), (), self._haproxy.capabilities())
            self.start(instance)
            return Outcome(decided)
        situation = self._situation(instance, read=read)
        changes = running.file_changes(instance)
        seen = self._still_true(instance, foreseen) if not changes else None
        decided = self._plan(situation, changes, seen)
        match decided.step:
            case Step.NOTHING:
                self._take_for_loaded(instance, situation)
            case Step.RUNTIME:
                try:
                    self._change(instance, situation, decided.changes)
                except Refused as refusal:
                    logger.warning("instance=%s falls back to a reload: %s", instance.id, refusal)
                    # What has been touched is on record by now.
                    self._reload(instance, self._situation(instance, read=read))
                    return Outcome(decided, str(refusal))
            case _:
                self._reload(instance, situation)
        return Outcome(decided)

    def foresee(
        self,
        instance: InstanceLayout,
        wanted: Texts,
        staged: Path,
        read: Collection[Directory] = (),
    ) -> Plan:
        """What `activate` would do, were these texts, of the directory `staged`, committed for a
        declared instance. Nothing changes.

        Raises:
            OperationFailed: haproxy does not answer.
        """
        if not self.runs(instance):
            return plan(None, wanted, (), self._haproxy.capabilities())
        situation = self._situation(instance, wanted, read)
        return self._plan(situation, running.file_changes(instance, staged))

    def runs(self, instance: InstanceLayout) -> bool:
        """Whether it runs. One that comes up just now, by itself after a crash, is awaited: it may
        have read the configuration before the one that is committed."""
        deadline = self._clock() + _ANSWER
        while not master_of(instance).listening():
            state = self._supervisor.state(process_name(instance))
            if state is not ProcessState.RUNNING or self._clock() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def start(self, instance: InstanceLayout) -> None:
        """Start one that does not run.

        Raises:
            OperationFailed: it did not come up. It is stopped, unless it was to run before: then it
                is tried with the last good files.
        """
        name = process_name(instance)
        was_wanted = self._supervisor.state(name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(name)
        files.remove(instance.state)  # of an earlier life: its members have lived on since
        files.make_directory(self._layout.run)
        spec = self._spec(instance)
        program = self._haproxy.capabilities().version
        try:
            self._supervisor.start(spec)
            now = self._await_worker(instance, after=None)
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._supervisor.stop(name)
            if self._restore(instance) and was_wanted:
                self._supervisor.start(spec)
            raise OperationFailed("Error starting haproxy", words or str(error)) from error
        running.remember(instance, _record(now, program))

    # What differs

    def _situation(
        self,
        instance: InstanceLayout,
        wanted: Texts | None = None,
        read: Collection[Directory] = (),
    ) -> _Situation:
        """What there is now; what is wanted is committed, or `wanted`.

        Raises:
            OperationFailed: the master does not answer; the last good files are back.
        """
        try:
            now = self._await_master(master_of(instance))
        except OperationFailed as error:
            self._restore(instance)
            raise OperationFailed("Error reloading haproxy", str(error)) from error
        program = self._haproxy.capabilities().version
        committed = running.unread(instance, read)
        loaded = None
        if now.current is not None:
            loaded = running.loaded(instance, now.current, program, committed, read)
        return _Situation(now, program, loaded, committed if wanted is None else wanted)

    def _still_true(self, instance: InstanceLayout, foreseen: Foreseen | None) -> Plan | None:
        if foreseen is None or foreseen.program != self._haproxy.installed():
            return None
        now = running.good_signatures(instance)
        return foreseen.plan if foreseen.before == now else None

    def _plan(
        self, situation: _Situation, changes: Sequence[FileChange], seen: Plan | None = None
    ) -> Plan:
        """`seen` is the plan for the texts, if there is one."""
        loaded = situation.loaded
        if loaded is None:
            reason = "it is not known what the worker has loaded"
            return Plan(Step.RELOAD, (reason,))
        decided = seen or plan(
            loaded.texts, situation.wanted, changes, self._haproxy.capabilities()
        )
        if not loaded.doubt:
            return decided
        reasons = (loaded.doubt, *decided.reasons)
        return decided._replace(step=Step.RELOAD, reasons=reasons, changes=())

    def _take_for_loaded(self, instance: InstanceLayout, situation: _Situation) -> None:
        """What differs has no effect; should it come to going back, it must not get lost."""
        loaded = situation.loaded
        assert loaded is not None
        if loaded.record is None:
            return
        if not running.is_remembered(instance) or loaded.texts != situation.wanted:
            running.remember(instance, loaded.record)

    # At run time

    def _change(
        self, instance: InstanceLayout, situation: _Situation, changes: Sequence[Change]
    ) -> None:
        """Have the worker carry out changes.

        Raises:
            Refused: not all of them were done, or hold.
        """
        assert situation.loaded is not None
        record = situation.loaded.record
        assert record is not None
        ask = self._asker(instance, situation.workers)
        running.begin(instance, record, transaction.servers(changes))
        left_over = transaction.carry_out(changes, ask, record.left_over)
        running.remember(instance, replace(record, left_over=tuple(sorted(left_over))))

    def _asker(self, instance: InstanceLayout, now: Workers) -> transaction.Ask:
        """Asks the current worker, within a deadline for all questions."""
        socket = master_of(instance)
        deadline = self._clock() + _COMMANDS

        def ask(command: str, payload: str) -> str:
            timeout = min(_ANSWER, max(0.001, deadline - self._clock()))
            return socket.command(f"@!{now.current} {command}", payload, timeout=timeout)

        return ask

    # By a new worker

    def _reload(self, instance: InstanceLayout, situation: _Situation) -> None:
        """Replace the worker of one that runs.

        Raises:
            OperationFailed: the new one did not come up; the old one serves.
        """
        name = process_name(instance)
        socket = master_of(instance)
        before = situation.workers
        mark = self._supervisor.mark(name)
        try:
            self._require_ports(instance, situation)
            self._save_state(instance, situation)
            with self._keeping_counters(instance, before) as keep_counters:
                reply = socket.command("reload", timeout=_PATIENCE)
                if reply.startswith("Success=0"):
                    raise _ReloadRefused("haproxy refused", reply.partition("--\n")[2].strip())
                now = self._await_worker(instance, after=before)
                keep_counters()
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._restore(instance)
            if isinstance(error, _ReloadRefused):
                words = error.details
            raise OperationFailed("Error reloading haproxy", words or str(error)) from error
        finally:
            # Read by now. A later life, when haproxy has died, must not begin with it, and a check
            # would read it too.
            files.remove(instance.state)
        running.remember(instance, _record(now, situation.program))

    def _require_ports(self, instance: InstanceLayout, situation: _Situation) -> None:
        """See that haproxy can listen wherever it does not listen yet."""
        if situation.loaded is not None:
            new = binds.added(text.whole(situation.wanted), text.whole(situation.loaded.texts))
            try:
                ports.require(Namespace(self._layout.namespace), new, self._clock)
            except OperationFailed as error:
                raise _ReloadRefused(error.message, error.details) from error

    def _save_state(self, instance: InstanceLayout, situation: _Situation) -> None:
        """What must come through a reload: the members' states.

        A worker that cannot tell them any more is all the more in need of a reload.
        """
        pid = situation.workers.current
        if pid is None:
            files.remove(instance.state)
            return
        try:
            state = server_state.NOTHING
            if server_state.may_be_read(text.whole(situation.wanted)):
                state = self._state(instance, situation)
            files.write(instance.state, state.encode(errors="surrogateescape"))
        except OperationFailed as error:
            files.remove(instance.state)
            logger.warning("instance=%s nothing saved for the reload: %s", instance.id, error)

    @contextlib.contextmanager
    def _keeping_counters(
        self, instance: InstanceLayout, before: Workers
    ) -> Iterator[Callable[[], None]]:
        """The function given is to be called when the successor serves."""
        with contextlib.ExitStack() as held:
            keep: Callable[[], None] = lambda: None  # noqa: E731
            if before.current is not None:
                keeping = keeping_final_counters(instance, before.current, timeout=_ANSWER)
                try:
                    keep = held.enter_context(keeping)
                except OperationFailed as error:
                    logger.warning("instance=%s counters not kept: %s", instance.id, error)
            yield keep

    def _state(self, instance: InstanceLayout, situation: _Situation) -> str:
        command = f"@!{situation.workers.current} show servers state"
        loaded, whole = situation.loaded, text.whole(situation.wanted)
        # The agent takes as long to read the configuration as haproxy to answer.
        with ThreadPoolExecutor(1) as asking:
            shown = asking.submit(master_of(instance).command, command, timeout=_ANSWER)
            wanted = text.parse(whole, server_state.KEYWORDS)
            before: server_state.Backends = {}
            touched: frozenset[str] = frozenset()
            # Another worker than the recorded one has never been changed at run time.
            if loaded is not None and loaded.record is not None:
                before = server_state.differing(text.whole(loaded.texts), whole)
                touched = frozenset(loaded.record.pending or ())
        return server_state.carry_over(shown.result(), wanted, before, touched)

    # haproxy coming up

    def _await_master(self, socket: MasterSocket) -> Workers:
        """What the master says of its workers; one of 2.6 that comes up just now, by itself after
        a crash, hangs up first to execute itself anew.

        Raises:
            OperationFailed: it does not answer.
        """
        deadline = self._clock() + _ANSWER
        while True:
            try:
                return workers.parse(socket.command("show proc", timeout=_ANSWER))
            except (NotListening, NoAnswer):
                if self._clock() > deadline:
                    raise
            time.sleep(_PAUSE)

    def _await_worker(self, instance: InstanceLayout, after: Workers | None) -> Workers:
        """Wait until a worker serves that was not there `after`.

        Raises:
            OperationFailed: haproxy said that it failed, ended, or took too long.
        """
        socket = master_of(instance)
        deadline = self._clock() + _PATIENCE
        look_at = 0.0
        while self._clock() < deadline:
            try:
                now = workers.parse(socket.command("show proc", timeout=_ANSWER))
                if after is not None and now.failed and now.reloads > after.reloads:
                    raise OperationFailed("haproxy could not load the configuration")
                if now.current is not None and (after is None or now.current != after.current):
                    # A worker answers from the loop that accepts connections.
                    socket.command(f"@!{now.current} show version", timeout=_ANSWER)
                    return now
            except (NotListening, NoAnswer):
                # Not yet, or a master of 2.6 that executes itself anew. Or it is dead.
                if self._clock() >= look_at:
                    look_at = self._clock() + 0.1
                    if self._supervisor.state(process_name(instance)) is not ProcessState.RUNNING:
                        raise OperationFailed("haproxy ended") from None
            time.sleep(_PAUSE)
        raise OperationFailed("haproxy did not come up", f"no new worker in {_PATIENCE:g} s")

    def _spec(self, instance: InstanceLayout) -> ProcessSpec:
        peer = "" if instance.declared else instance.peer.read_text()
        return ProcessSpec(
            name=process_name(instance),
            description=f"HAProxy of load balancer {instance.id}",
            template="haproxy.service.j2",
            argv=self._haproxy.command(instance, peer, notify=self._supervisor.notified),
            namespace=self._layout.namespace,
        )

    def _restore(self, instance: InstanceLayout) -> bool:
        restored = running.restore(instance)
        if restored:
            logger.warning("instance=%s went back to the last good configuration", instance.id)
        return restored


def process_name(instance: InstanceLayout) -> str:
    """The instance's name for its supervisor, and that of its unit."""
    return f"haproxy-{instance.id}"


def master_of(instance: InstanceLayout) -> MasterSocket:
    return MasterSocket(instance.master_socket)


def _record(now: Workers, program: str) -> Record:
    assert now.current is not None
    return Record(worker=running.identity(now.current), program=program)
