"""A supervisor for places without systemd: containers, tests, the demo.

Each process has a session of its own and writes to a file, so the agent can stop, crash or be
killed without any effect on it. What is wanted is on disk, one record a process; a new agent
adopts what it finds running by pid and start time, and starts the rest. A process that dies is
started again after a pause that grows while it keeps dying.

No disk keeps a process from being started or ended. A record that cannot be written is kept in the
directory of the output, which is normally in memory, as `<name>.record`; an alarm reports it, and
the supervisor writes it later.
"""

import contextlib
import errno
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from amphora_agent import files
from amphora_agent.errors import OperationFailed, describe_os_error
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.namespace import Namespace
from amphora_agent.supervisor import output as supervisor_output
from amphora_agent.supervisor.contract import Mark, ProcessSpec, ProcessState
from amphora_agent.supervisor.identity import session_leader, start_time

logger = logging.getLogger(__name__)

#: Seconds before the first restart, and the longest pause; it doubles in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
#: A process that lived this long (seconds) is forgiven its earlier deaths.
_STABLE_AFTER = 60.0
#: Seconds that a process gets to end after SIGTERM.
_PATIENCE = 10.0
#: Bytes of output kept in the file of a process, and those read back at most.
_OUTPUT_LIMIT, _OUTPUT_READ = 1 << 20, 1 << 16
#: Seconds between looks at the size of output files.
_HOUSEKEEPING = 60.0
#: Seconds between two looks at what the processes have said.
_WORDS = 10.0
#: Seconds between attempts to change files that the disk has refused to change, and to signal
#: processes that the system has refused to signal.
_RETRY = 5.0


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted of a process, and which one it is: a pid means nothing without its start."""

    spec: ProcessSpec
    wanted: bool
    pid: int | None = None
    start_time: str | None = None


@dataclass
class _Watched:
    """A process that is wanted, in the memory of this agent."""

    record: _Record
    pidfd: int | None = None
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause: float = _FIRST_PAUSE
    restart_at: float | None = None


class EmbeddedSupervisor:
    """Implements `Supervisor`. `records` survives a reboot, `output` need not. `died` is told of
    each process that ends by itself: its name, and how; it must not wait for anything."""

    notified = False

    def __init__(
        self,
        records: Path,
        output: Path,
        clock: Callable[[], float] = time.monotonic,
        died: Callable[[str, str], None] | None = None,
        alarms: Alarms | None = None,
    ) -> None:
        self._records = self.wanted = records
        self._output = output
        self._clock = clock
        self._died = died
        self._alarms = alarms or Alarms(output / "alarms")
        self._lock = threading.RLock()
        self._watched: dict[str, _Watched] = {}
        #: Children that end by and by; somebody must take notice.
        self._retired: list[subprocess.Popen[bytes]] = []
        #: Processes that could not be asked to end by and by.
        self._reluctant: list[_Watched] = []
        #: What files must contain (None: the file must go) that the disk has refused to change.
        self._refused: dict[Path, bytes | None] = {}
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._prepare: Callable[[str], None] = lambda name: None
        self._words = supervisor_output.OutputFiles(self._output_path)

    def prepare_restarts(self, prepare: Callable[[str], None]) -> None:
        self._prepare = prepare

    def start(self, spec: ProcessSpec) -> None:
        self._words.follow(spec.name)
        with self._lock:
            before = self._watched.get(spec.name)
            if before is not None and before.pidfd is not None:
                if not _has_ended(before.pidfd):
                    self._save(before, spec=spec)
                    return
                self._release(before)
            watched = _Watched(_Record(spec=spec, wanted=True))
            try:
                self._launch(watched)
            except OperationFailed:
                self._withdraw(spec.name, watched, before)
                raise
            self._watched[spec.name] = watched
        self._wake()

    def stop(self, name: str) -> None:
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is not None:
                self._save(watched, wanted=False)
        if watched is not None:
            self._wake()
            try:
                self._end(watched)
            except OSError as error:
                self._keep(watched)
                raise OperationFailed(f"Cannot stop {name}", describe_os_error(error)) from error
        self._words.forget(name)
        with self._lock:
            self._remove_record(name, watched)

    def reload(self, name: str) -> None:
        with self._lock:
            watched = self._watched.get(name)
            if watched is None or watched.pidfd is None or _has_ended(watched.pidfd):
                raise OperationFailed(f"Cannot reload {name}", "it does not run")
            try:
                _send(watched.pidfd, signal.SIGHUP)
            except OSError as error:
                raise OperationFailed(f"Cannot reload {name}", describe_os_error(error)) from error

    def forget(self, name: str) -> None:
        self.stop(name)
        with self._lock:
            self._change(self._output_path(name), None)
        self._wake()

    def retire(self, name: str) -> None:
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is None or self._let_go(watched):
                self._remove_record(name, watched)
                self._change(self._output_path(name), None)
            else:  # what took its place serves: who asked has nothing to undo
                self._reluctant.append(watched)
        self._words.forget(name)
        self._wake()

    def state(self, name: str) -> ProcessState:
        with self._lock:
            watched = self._watched.get(name)
            if watched is None:
                return ProcessState.STOPPED
            alive = watched.pidfd is not None and not _has_ended(watched.pidfd)
            return ProcessState.RUNNING if alive else ProcessState.FAILED

    def mark(self, name: str) -> Mark:
        try:
            return Mark(self._output_path(name).stat().st_size)
        except FileNotFoundError:
            return Mark(0)

    def output(self, name: str, since: Mark) -> str:
        try:
            with self._output_path(name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = int(since) if since <= size else 0
                file.seek(max(begin, size - _OUTPUT_READ))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def adopt(self) -> None:
        with self._lock:
            for name, (record, written) in self._load().items():
                if name in self._watched:
                    continue
                self._words.follow(name)
                watched = _Watched(record)
                if not record.wanted:
                    try:
                        if self._adopt(watched):  # an agent was killed while it stopped this one
                            self._end(watched)
                    except OSError as error:
                        logger.error("%s: cannot be ended, and runs on: %s", name, error)
                        self._keep(watched)
                    else:
                        self._remove_record(name, watched)
                    continue
                self._watched[name] = watched
                if self._adopt(watched) or self._adopt_by_command(watched):
                    logger.info("%s: adopted, pid %d", name, watched.record.pid)
                if not written:
                    self._save(watched)
            self._settle_earlier_refusals()

    def resume(self) -> None:
        with self._lock:
            for watched in self._watched.values():
                if watched.pidfd is None:
                    watched.restart_at = self._clock()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
                self._thread.start()
        self._wake()

    # Starting and ending

    def _launch(self, watched: _Watched) -> None:
        """Raises OperationFailed; nothing has been started then."""
        spec = watched.record.spec

        def spawn() -> tuple[subprocess.Popen[bytes], int]:
            with self._open_output(spec.name) as output:
                child = subprocess.Popen(
                    spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    start_new_session=True,
                )
            try:
                return child, os.pidfd_open(child.pid)
            except OSError:  # too many open files: nobody could watch it
                child.kill()
                child.wait()
                raise

        # A kill between the start and the second record: the next agent finds it by its command.
        self._save(watched, wanted=True, pid=None, start_time=None)
        try:
            watched.child, watched.pidfd = Namespace(spec.namespace).run(spawn)
        except OSError as error:
            raise OperationFailed(f"Cannot start {spec.name}", str(error)) from error
        pid = watched.child.pid
        watched.started_at = self._clock()
        watched.restart_at = None
        self._save(watched, pid=pid, start_time=start_time(pid))
        logger.info("%s: started, pid %d", spec.name, pid)

    def _open_output(self, name: str) -> IO[bytes]:
        path = self._output_path(name)
        self._forget_refusal(path)  # a file that was to be removed is needed again
        try:
            files.make_directory(self._output)
            return path.open("ab")
        except OSError as error:
            logger.warning("%s: cannot write its output, which is lost: %s", name, error)
            return open(os.devnull, "ab")

    def _withdraw(self, name: str, failed: _Watched, before: _Watched | None) -> None:
        """Want what was wanted before a start that failed: nothing, or the process that died."""
        if before is None:
            self._remove_record(name, failed)
            return
        self._save(before, pid=None, start_time=None)
        if before.restart_at is None:
            before.restart_at = self._clock() + before.pause
        self._wake()

    def _adopt(self, watched: _Watched) -> bool:
        record = watched.record
        if record.pid is None:
            return False
        try:
            pidfd = os.pidfd_open(record.pid)
        except OSError:
            return False
        # Compared after the pidfd is held: from here on the pid cannot change its meaning.
        if record.start_time != start_time(record.pid) or _has_ended(pidfd):
            os.close(pidfd)
            return False
        watched.pidfd = pidfd
        watched.started_at = self._clock()
        return True

    def _adopt_by_command(self, watched: _Watched) -> bool:
        """Adopt a process whose pid no record tells: an agent was killed, or the disk refused,
        before it was written down."""
        pid = session_leader(watched.record.spec.argv)
        if pid is None:
            return False
        self._save(watched, pid=pid, start_time=start_time(pid))
        return self._adopt(watched)

    def _end(self, watched: _Watched) -> None:
        """Raises OSError: it lives on."""
        if watched.pidfd is None:
            return
        group = watched.record.pid
        assert group is not None
        _send(watched.pidfd, signal.SIGTERM)
        if not _await_end(watched.pidfd, _PATIENCE):
            logger.warning("%s: did not end in time, killed", watched.record.spec.name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            if not _await_end(watched.pidfd, _PATIENCE):
                raise TimeoutError(errno.ETIMEDOUT, "it has not ended, though it was killed")
        self._release(watched)

    def _keep(self, watched: _Watched) -> None:
        """Want a process as before, which could not be ended: it must not be forgotten."""
        with self._lock:
            self._watched[watched.record.spec.name] = watched
            self._save(watched, wanted=True)
        self._wake()

    def _let_go(self, watched: _Watched) -> bool:
        """Have a process end by and by; False when the system refuses the signal."""
        if watched.pidfd is None:
            return True
        try:
            _send(watched.pidfd, signal.SIGUSR1)
        except OSError as error:
            name, reason = watched.record.spec.name, describe_os_error(error)
            logger.error("%s: cannot be asked to end, and is asked again: %s", name, reason)
            return False
        os.close(watched.pidfd)
        if watched.child is not None:
            self._retired.append(watched.child)
        return True

    def _retry_reluctant(self) -> None:
        for watched in [*self._reluctant]:
            if self._let_go(watched):
                self._reluctant.remove(watched)
                name = watched.record.spec.name
                if name not in self._watched:  # else they are those of its successor
                    self._remove_record(name, watched)
                    self._change(self._output_path(name), None)

    def _release(self, watched: _Watched) -> None:
        if watched.pidfd is not None:
            os.close(watched.pidfd)
            watched.pidfd = None
        if watched.child is not None:
            watched.child.wait()
            watched.child = None

    # Watching

    def _watch(self) -> None:
        size_check_at = self._clock() + _HOUSEKEEPING
        retry_at = words_at = self._clock()
        while True:
            # It takes its time, and waits for nobody who may be waiting for this thread.
            for name in self._due():
                self._prepare(name)
            with self._lock:
                self._restart_due()
                pidfds = [w.pidfd for w in self._watched.values() if w.pidfd is not None]
                due = [w.restart_at for w in self._watched.values() if w.restart_at is not None]
                now = self._clock()
                if now >= retry_at:
                    retry_at = now + _RETRY
                    self._retry_refused()
                    self._retry_reluctant()
                if self._refused or self._reluctant:
                    due.append(retry_at)
            if now >= size_check_at:
                size_check_at = now + _HOUSEKEEPING
                for path in self._output.glob("*.log"):
                    with contextlib.suppress(OSError):  # a disk that refuses ends no watching
                        files.cap(path, _OUTPUT_LIMIT)
            poll = select.poll()
            for descriptor in (self._wake_read, *pidfds):
                poll.register(descriptor, select.POLLIN)
            if pidfds:
                due.append(words_at)
            poll.poll(max(0.0, min([size_check_at, *due]) - now) * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            if self._clock() >= words_at or self._someone_ended():
                words_at = self._clock() + _WORDS
                supervisor_output.say_again(self._words.read())
            with self._lock:
                self._note_deaths()
                self._retired = [child for child in self._retired if child.poll() is None]

    def _someone_ended(self) -> bool:
        with self._lock:
            return any(w.pidfd is not None and _has_ended(w.pidfd) for w in self._watched.values())

    def _note_deaths(self) -> None:
        for name, watched in self._watched.items():
            if watched.pidfd is None or not _has_ended(watched.pidfd):
                continue
            status = watched.child.poll() if watched.child else None
            self._release(watched)
            now = self._clock()
            if now - watched.started_at >= _STABLE_AFTER:
                watched.pause = _FIRST_PAUSE
            watched.restart_at = now + watched.pause
            how = "" if status is None else f" with status {status}"
            words = f"died{how}; starts again in {watched.pause:.1f} s"
            logger.error("%s: %s", name, words)
            if self._died is not None:
                self._died(name, words)
            watched.pause = min(watched.pause * 2, _LONGEST_PAUSE)

    def _due(self) -> list[str]:
        with self._lock:
            now = self._clock()
            return [
                name
                for name, watched in self._watched.items()
                if watched.restart_at is not None and watched.restart_at <= now
            ]

    def _restart_due(self) -> None:
        now = self._clock()
        for name, watched in self._watched.items():
            if watched.restart_at is None or watched.restart_at > now:
                continue
            try:
                self._launch(watched)
            except (OperationFailed, OSError) as error:
                watched.restart_at = now + watched.pause
                logger.error("%s: %s; next try in %.1f s", name, error, watched.pause)
                watched.pause = min(watched.pause * 2, _LONGEST_PAUSE)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self._wake_write, b"\0")

    # Records

    def _record_path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _output_path(self, name: str) -> Path:
        return self._output / f"{name}.log"

    def _copy_path(self, name: str) -> Path:
        """Where a record is kept that cannot be written. It counts more than the record."""
        return self._output / f"{name}.record"

    def _save(self, watched: _Watched, **changes: object) -> None:
        watched.record = msgspec.structs.replace(watched.record, **changes)
        name, data = watched.record.spec.name, _encode(watched.record)
        if self._change(self._record_path(name), data):
            self._change(self._copy_path(name), None)
        else:
            self._keep_copy(name, data)

    def _remove_record(self, name: str, watched: _Watched | None) -> None:
        """Remove the record of a process that is not wanted, and not to be ended any more."""
        if self._change(self._record_path(name), None):
            self._change(self._copy_path(name), None)
        elif watched is not None:
            record = msgspec.structs.replace(
                watched.record, wanted=False, pid=None, start_time=None
            )
            self._keep_copy(name, _encode(record))

    def _keep_copy(self, name: str, data: bytes) -> None:
        path = self._copy_path(name)
        self._forget_refusal(path)
        try:
            files.make_directory(self._output)
            files.replace_unsynced(path, data)
        except OSError:  # memory serves, and an older copy must not say otherwise
            self._change(path, None)

    def _change(self, path: Path, data: bytes | None) -> bool:
        """Give a file its content, or remove it (None). If the disk refuses, report that, change it
        later, and return False."""
        try:
            if data is not None:
                files.write(path, data)
            elif os.path.lexists(path):  # a read-only disk refuses even what is done already
                files.remove(path)
        except OSError as error:
            self._refused[path] = data
            what = "remove" if data is None else "write"
            self._alarms.set_alarm(
                AlarmKind.PROCESS_FILE_REFUSED,
                str(path),
                f"cannot {what} this file of a process: {error.strerror}; processes run as they "
                "should, but an agent that starts now may not know: check the disk",
            )
            self._wake()
            return False
        self._forget_refusal(path)
        return True

    def _forget_refusal(self, path: Path) -> None:
        self._refused.pop(path, None)
        self._alarms.clear_alarm(AlarmKind.PROCESS_FILE_REFUSED, str(path))

    def _retry_refused(self) -> None:
        for path, data in [*self._refused.items()]:
            if self._change(path, data) and path.parent == self._records:
                self._change(self._copy_path(path.stem), None)

    def _settle_earlier_refusals(self) -> None:
        """Change the files that the disk refused to change for an earlier agent: alarms tell."""
        for alarm in self._alarms.current():
            path = Path(alarm.subject)
            if alarm.kind != AlarmKind.PROCESS_FILE_REFUSED or path in self._refused:
                continue
            watched = self._watched.get(path.stem)
            if watched is None or path == self._copy_path(path.stem):
                self._change(path, None)
            elif path == self._record_path(path.stem):
                self._save(watched)
            else:  # the output of a process that runs again
                self._forget_refusal(path)

    def _load(self) -> dict[str, tuple[_Record, bool]]:
        """The records by name, and whether each is where it should be."""
        found: dict[str, tuple[_Record, bool]] = {}
        records = sorted(self._records.glob("*.json"))
        for path in (*records, *sorted(self._output.glob("*.record"))):
            try:
                record = msgspec.json.decode(
                    path.read_bytes(), type=_Record, dec_hook=lambda kind, value: kind(value)
                )
            except (OSError, msgspec.MsgspecError) as error:
                logger.error("%s: cannot be read, ignored: %s", path, error)
            else:
                found[record.spec.name] = record, path.parent == self._records
        return found


def _encode(record: _Record) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)


def _send(pidfd: int, number: signal.Signals) -> None:
    """Send a signal, unless the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _has_ended(pidfd: int) -> bool:
    return _await_end(pidfd, 0)


def _await_end(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
