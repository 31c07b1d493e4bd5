"""Make an instance run what is committed, by the least disturbing means; go back when it does not
come up.

What differs is found by comparing what is committed with what the worker has loaded. Commands to
the worker are judged by reading back; whatever is in doubt ends in a reload. The committed files
are ahead of the process all the while: should it die, it comes back with what is wanted.
"""

import logging
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from msgspec.structs import replace

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.config import parser, queries
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.process import startup
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.process.takeover import Takeover
from amphora_agent.haproxy.replies import Workers
from amphora_agent.haproxy.restart import report_going_back
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.final_counters import keeping_final_counters
from amphora_agent.haproxy.runtime.loaded_state import (
    ConfigDirectory,
    LoadedState,
    PreparedPlan,
    WorkerRecord,
)
from amphora_agent.haproxy.runtime.socket import HungUp, master_of
from amphora_agent.haproxy.update import certificates, server_state_file, transaction
from amphora_agent.haproxy.update.planner import FileChange, Plan, Step, make_plan
from amphora_agent.haproxy.update.transaction import ChangeRefused, RuntimeChange
from amphora_agent.kernel import listening
from amphora_agent.kernel.listening import Listening
from amphora_agent.model.events import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.paths import InstanceLayout, Layout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import PEER, ContentLost, Manifest
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState, Supervisor
from amphora_agent.supervisor.processes import kill, start_time

logger = logging.getLogger(__name__)

#: Seconds for the master to answer a reload; from 2.7 on it does when the new worker serves.
_RELOAD_PATIENCE = 25.0
#: Seconds for all commands of a change, before the patience for a reload.
_COMMANDS = 10.0


class Outcome(NamedTuple):
    """The plan, and why a reload was necessary after all; None if it was not."""

    plan: Plan
    fell_back: str | None = None

    @property
    def done(self) -> Step:
        """The step that was carried out."""
        return self.plan.step if self.fell_back is None else Step.RELOAD


class _Situation(NamedTuple):
    """What a running haproxy has loaded, and what it is to load. `loaded` is None when that is
    unknown."""

    workers: Workers
    program: str
    loaded: LoadedState | None
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
        store: RevisionStore,
        alarms: Alarms,
    ) -> None:
        self._layout = layout
        self._haproxy = haproxy
        self._supervisor = supervisor
        self._store = store
        self._alarms = alarms

    def activate(
        self,
        instance: InstanceLayout,
        foreseen: PreparedPlan | None = None,
        read: Collection[ConfigDirectory] = (),
        takeover: Takeover | None = None,
    ) -> Outcome:
        """Make it run what is committed, as `foreseen` when that is still true. `read` are
        directories of its texts that have been read. `takeover`: of haproxies whose place it takes.

        Raises:
            OperationFailed: it did not come up; the last good configuration is committed again,
                and what ran before still serves.
        """
        self._store.live.check(instance)
        if not self.runs(instance):
            return self.start(instance, takeover)
        situation = self._find_situation(instance, read=read)
        try:
            changes = loaded_state.find_file_changes(instance)
            seen = self._find_prepared(instance, foreseen) if not changes else None
            decided = self._plan(situation, changes, seen)
        except ContentLost as error:  # live files are right: a new worker loads them
            situation = situation._replace(loaded=None)
            decided = Plan(Step.RELOAD, (f"it is not known what differs: {error}",))
        match decided.step:
            case Step.NOTHING:
                # What differs has no effect; should it come to going back, it must not get lost.
                record = situation.loaded.record if situation.loaded else None
                if record is not None and not loaded_state.is_remembered(instance):
                    self._remember(instance, record)
            case Step.RUNTIME:
                try:
                    self._change(instance, situation, decided.changes)
                except ChangeRefused as refusal:
                    logger.warning("instance=%s falls back to a reload: %s", instance.id, refusal)
                    # What has been touched is on record by now.
                    self._reload(instance, self._find_situation(instance, read=read))
                    return Outcome(decided, str(refusal))
            case _:
                self._reload(instance, situation)
        return Outcome(decided)

    def foresee(
        self,
        instance: InstanceLayout,
        wanted: Texts,
        manifest: Manifest,
        read: Collection[ConfigDirectory] = (),
    ) -> Plan:
        """Return what `activate` would do if these texts, of a manifest, were committed. Nothing
        changes.

        Raises:
            OperationFailed: haproxy does not answer.
        """
        if not self.runs(instance):
            return self.foresee_start(wanted)
        situation = self._find_situation(instance, wanted, read)
        return self._plan(situation, loaded_state.find_file_changes(instance, manifest))

    def foresee_start(self, wanted: Texts) -> Plan:
        """Return what `activate` would do if nothing ran."""
        return make_plan(None, wanted, (), self._haproxy.capabilities())

    def runs(self, instance: InstanceLayout) -> bool:
        """Whether it runs. One that comes up just now, by itself after a crash, is awaited: it may
        have read the configuration before the one that is committed."""
        deadline = time.monotonic() + startup.ANSWER
        while not master_of(instance).listening():
            state = self._supervisor.state(instance.process)
            if state is not ProcessState.RUNNING or time.monotonic() > deadline:
                return False
            time.sleep(startup.PAUSE)
        return True

    def start(self, instance: InstanceLayout, takeover: Takeover | None = None) -> Outcome:
        """Start one that does not run, perhaps in the place of others.

        Raises:
            OperationFailed: it did not come up. It is stopped, unless it was to run before: then it
                is tried with the last good files.
        """
        self._store.live.check(instance)
        name = instance.process
        was_wanted = self._supervisor.state(name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(name)
        files.remove(instance.state)  # of an earlier life: its members have lived on since
        files.make_directory(self._layout.run)
        spec = self._make_spec(instance)
        program = self._haproxy.capabilities().version
        try:
            if takeover is not None:
                self._inherit(instance, takeover)
            self._supervisor.start(spec)
            now = startup.await_worker(instance, self._supervisor)
        except OperationFailed as error:
            output = self._locate(instance, self._supervisor.output(name, mark).strip())
            self._supervisor.stop(name)
            instance.master_socket.unlink(missing_ok=True)
            if self._restore(instance) and was_wanted:
                self._supervisor.start(spec)
                report_going_back(self._alarms, instance, output or str(error))
            raise OperationFailed("Error starting haproxy", output or str(error)) from error
        finally:
            if takeover is not None:  # read by now
                self._remove_state(instance)
        self._remember(instance, _make_record(now, program))
        return Outcome(self.foresee_start(loaded_state.open_committed(instance)))

    def _inherit(self, instance: InstanceLayout, takeover: Takeover) -> None:
        """Prepare for a start in the place of others.

        Raises:
            OperationFailed: it could not listen everywhere. One that does at some addresses, and
                ends, might take connections with it.
        """
        wanted = parser.join_texts(loaded_state.open_committed(instance))
        added = queries.find_new_addresses(wanted, takeover.configuration)
        startup.require_ports(Namespace(self._layout.namespace), added)
        state = takeover.states(wanted)
        files.replace_unsynced(instance.state, state.encode(errors="surrogateescape"))

    # What differs

    def _find_situation(
        self,
        instance: InstanceLayout,
        wanted: Texts | None = None,
        read: Collection[ConfigDirectory] = (),
    ) -> _Situation:
        """Return what runs and what is to run: `wanted`, or what is committed.

        Raises:
            OperationFailed: the master does not answer; the last good files are back.
        """
        try:
            now = startup.await_master(master_of(instance))
        except OperationFailed as error:
            self._restore(instance)
            raise OperationFailed("Error reloading haproxy", _advise(instance, error)) from error
        program = self._haproxy.capabilities().version
        committed = loaded_state.open_committed(instance, read)
        loaded = None
        if now.current is not None:
            loaded = loaded_state.find_loaded_state(instance, now.current, program, committed, read)
        return _Situation(now, program, loaded, committed if wanted is None else wanted)

    def _find_prepared(
        self, instance: InstanceLayout, foreseen: PreparedPlan | None
    ) -> Plan | None:
        if foreseen is None or foreseen.program != self._haproxy.installed():
            return None
        now = loaded_state.digest_loaded(instance)
        return foreseen.plan if foreseen.before == now else None

    def _plan(
        self, situation: _Situation, changes: Sequence[FileChange], seen: Plan | None = None
    ) -> Plan:
        """`seen` is the plan for the texts, if there is one."""
        loaded = situation.loaded
        if loaded is None:
            reason = "it is not known what the worker has loaded"
            return Plan(Step.RELOAD, (reason,))
        decided = seen or make_plan(
            loaded.texts,
            situation.wanted,
            changes,
            self._haproxy.capabilities(),
            certificates_changed=loaded.record is None
            or loaded.record.certificates_changed is not False,
        )
        if not loaded.doubt:
            return decided
        reasons = (loaded.doubt, *decided.reasons)
        return decided._replace(step=Step.RELOAD, reasons=reasons, changes=())

    # At run time

    def _change(
        self, instance: InstanceLayout, situation: _Situation, changes: Sequence[RuntimeChange]
    ) -> None:
        """Have the worker carry out changes.

        Raises:
            Refused: not all of them were done, or hold.
        """
        assert situation.loaded is not None
        record = situation.loaded.record
        assert record is not None
        ask = self._make_asker(instance, situation.workers)
        if certificates.exchanges_certificates(changes):
            record = replace(record, certificates_changed=True)
        loaded_state.record_begin(instance, record, transaction.list_servers(changes))
        left_over = transaction.carry_out(changes, ask, record.left_over)
        self._remember(instance, replace(record, left_over=tuple(sorted(left_over))))

    def _make_asker(self, instance: InstanceLayout, now: Workers) -> transaction.Ask:
        """Return a function that asks the current worker; all questions have one deadline."""
        socket = master_of(instance)
        deadline = time.monotonic() + _COMMANDS

        def ask(command: str, payload: str) -> str:
            timeout = min(startup.ANSWER, max(0.001, deadline - time.monotonic()))
            return socket.command(f"@!{now.current} {command}", payload, timeout=timeout)

        return ask

    # By a new worker

    def _reload(self, instance: InstanceLayout, situation: _Situation) -> None:
        """Replace the worker of one that runs.

        Raises:
            OperationFailed: the new one did not come up; the old one serves.
        """
        name = instance.process
        socket = master_of(instance)
        before = situation.workers
        mark = self._supervisor.mark(name)
        try:
            self._require_ports(situation)
            self._save_state(instance, situation)
            with keeping_final_counters(
                instance, before.current, timeout=startup.ANSWER
            ) as keep_counters:
                hung = socket.is_silent(f"@!{before.current}")
                listened = self._list_listening() if hung else frozenset()
                heard = True
                try:
                    reply = socket.command("reload", timeout=_RELOAD_PATIENCE)
                except HungUp as error:
                    logger.warning("instance=%s whether it reloads is seen: %s", instance.id, error)
                    reply, heard = "", False
                if reply.startswith("Success=0"):
                    raise _ReloadRefused("haproxy refused", reply.partition("--\n")[2].strip())
                now = startup.await_worker(instance, self._supervisor, before, is_asked=heard)
                keep_counters()
                if hung:
                    self._relieve(instance, before, listened)
        except OperationFailed as error:
            output = self._locate(instance, self._supervisor.output(name, mark).strip())
            self._restore(instance)
            if isinstance(error, _ReloadRefused):
                output = self._locate(instance, error.details)
            raise OperationFailed("Error reloading haproxy", output or str(error)) from error
        finally:
            # Read by now. A later life, when haproxy has died, must not begin with it, and a check
            # would read it too.
            self._remove_state(instance)
        self._remember(instance, _make_record(now, situation.program))

    def _list_listening(self) -> frozenset[Listening]:
        try:
            return Namespace(self._layout.namespace).run(listening.list_sockets)
        except (OSError, OperationFailed) as error:
            logger.warning("it cannot be told who listens: %s", error)
            return frozenset()

    def _relieve(
        self, instance: InstanceLayout, before: Workers, listened: frozenset[Listening]
    ) -> None:
        """Have a worker that hangs and is replaced take no connections from its successor: it has
        not passed its sockets on. Where the kernel cannot do that it is killed at once."""
        assert before.current is not None
        pid, consequence = before.current, "it listens no more, and is killed after hard-stop-after"

        def close() -> bool:
            now = listening.list_sockets()
            new = now - listened
            inherited = [
                socket for socket in now & listened if any(map(socket.has_address_of, new))
            ]
            return all([listening.close(socket) for socket in inherited])

        started = start_time(pid)
        try:
            closed = bool(listened) and Namespace(self._layout.namespace).run(close)
        except (OSError, OperationFailed) as error:
            logger.warning("instance=%s sockets cannot be closed: %s", instance.id, error)
            closed = False
        if not closed and started is not None:
            kill(pid, started)
            consequence = "it was killed"
        logger.warning(
            "instance=%s worker %d did not answer and was replaced: %s",
            instance.id,
            pid,
            consequence,
        )

    def _require_ports(self, situation: _Situation) -> None:
        """Check that haproxy can listen wherever it does not listen yet."""
        if situation.loaded is not None:
            new = queries.find_new_addresses(
                parser.join_texts(situation.wanted), parser.join_texts(situation.loaded.texts)
            )
            try:
                startup.require_ports(Namespace(self._layout.namespace), new)
            except OperationFailed as error:
                raise _ReloadRefused(error.message, error.details) from error

    def _save_state(self, instance: InstanceLayout, situation: _Situation) -> None:
        """Save what must come through a reload: the members' states.

        A worker that cannot tell them any more is all the more in need of a reload.
        """
        pid = situation.workers.current
        if pid is None:
            files.remove(instance.state)
            return
        try:
            state = server_state_file.NOTHING
            if server_state_file.may_be_read(parser.join_texts(situation.wanted)):
                state = self._read_state(instance, situation)
            files.write(instance.state, state.encode(errors="surrogateescape"))
        except (OSError, OperationFailed) as error:
            logger.warning("instance=%s nothing saved for the reload: %s", instance.id, error)
            self._remove_state(instance)

    def _remove_state(self, instance: InstanceLayout) -> None:
        try:
            files.remove(instance.state)
        except OSError as error:  # it goes when the change is tidied, at the latest before a start
            logger.warning("instance=%s an old state stays: %s", instance.id, error)

    def _read_state(self, instance: InstanceLayout, situation: _Situation) -> str:
        command = f"@!{situation.workers.current} show servers state"
        loaded, whole = situation.loaded, parser.join_texts(situation.wanted)
        # The agent takes as long to read the configuration as haproxy to answer.
        with ThreadPoolExecutor(1) as asking:
            shown = asking.submit(master_of(instance).command, command, timeout=startup.ANSWER)
            wanted = parser.parse_config(whole, server_state_file.KEYWORDS)
            before: server_state_file.Backends = {}
            touched: frozenset[str] = frozenset()
            # Another worker than the recorded one has never been changed at run time.
            if loaded is not None and loaded.record is not None:
                before = server_state_file.find_differing_backends(
                    parser.join_texts(loaded.texts), whole
                )
                touched = frozenset(loaded.record.pending or ())
        return server_state_file.carry_over(shown.result(), wanted, before, touched)

    def _make_spec(self, instance: InstanceLayout) -> ProcessSpec:
        manifest = reading.committed(instance) or {}
        peer = reading.read(instance, PEER).decode() if PEER in manifest else ""
        return ProcessSpec(
            name=instance.process,
            description=f"HAProxy of load balancer {instance.id}",
            template="haproxy.service.j2",
            before=(
                *(sys.executable, "-m", "amphora_agent.haproxy.restart"),
                *(str(self._layout.base), str(self._layout.certificates), str(self._layout.run)),
                *(str(self._haproxy.program), instance.id),
            ),
            argv=self._haproxy.command(instance, peer, notify=self._supervisor.notified),
            namespace=self._layout.namespace,
            writable=(self._layout.base, self._layout.run),
        )

    def _remember(self, instance: InstanceLayout, record: WorkerRecord) -> None:
        """Note what the worker has loaded."""
        is_new = not loaded_state.is_remembered(instance)
        loaded_state.record_loaded(instance, record)
        if is_new:
            self._alarms.clear_alarm(AlarmKind.WENT_BACK, instance.id)

    def _locate(self, instance: InstanceLayout, output: str) -> str:
        """Return haproxy's messages with places in the files that were rendered."""
        return loaded_state.translate_messages(
            instance.configuration.parent, loaded_state.open_committed(instance), output
        )

    def _restore(self, instance: InstanceLayout) -> bool:
        restored = instance.goes_back_alone and self._store.restore(instance)
        if restored:
            logger.warning("instance=%s went back to the last good configuration", instance.id)
        return restored


def _advise(instance: InstanceLayout, error: OperationFailed) -> str:
    """Return what is wrong with a master that does not answer, and what to do."""
    name = instance.process
    return (
        f"its master does not answer: {error}. The last good configuration is in place. If it goes "
        f"on, restart it, which interrupts its traffic: systemctl restart {name}, or stop and "
        "start the load balancer over the API"
    )


def _make_record(now: Workers, program: str) -> WorkerRecord:
    assert now.current is not None
    return WorkerRecord(
        worker=loaded_state.identify_worker(now.current),
        program=program,
        certificates_changed=False,
    )
