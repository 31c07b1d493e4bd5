"""A supervisor for places without systemd: containers, tests, the demo.

Each process has a session of its own and writes to a file: it outlives an agent that stops, crashes
or is killed. A record on disk (`process_records`) says that it is wanted. A new agent adopts what
runs, by pid and start time, and starts the rest. A process that dies is started again after a pause
that grows while it keeps dying.
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
from amphora_agent.namespace import Namespace
from amphora_agent.supervisor import output as supervisor_output
from amphora_agent.supervisor.contract import Mark, ProcessSpec, ProcessState
from amphora_agent.supervisor.process_records import ProcessRecord, ProcessRecords
from amphora_agent.supervisor.processes import find_session_leader, open_process, start_time

logger = logging.getLogger(__name__)

#: Seconds before the first restart, and the longest pause; it doubles in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
#: Seconds of life after which the pause begins anew.
_STABLE_AFTER = 60.0
#: Seconds that a process gets to end after SIGTERM.
_PATIENCE = 10.0
#: Bytes of output that the file of a process keeps, and that are read back at most.
_OUTPUT_LIMIT, _OUTPUT_READ = 1 << 20, 1 << 16
#: Seconds between looks at the size of output files.
_HOUSEKEEPING = 60.0
#: Seconds between two looks at the output of processes.
_OUTPUT_LOOK = 10.0
#: Seconds between attempts at what the disk, or the kernel at a signal, has refused.
_RETRY = 5.0


@dataclass
class _Watched:
    """A wanted process."""

    record: ProcessRecord
    pidfd: int | None = None
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause: float = _FIRST_PAUSE
    restart_at: float | None = None

    @property
    def runs(self) -> bool:
        return self.pidfd is not None and not _await_end(self.pidfd, 0)

    @property
    def has_died(self) -> bool:
        """Whether it ran and has ended, and nothing has taken notice yet."""
        return self.pidfd is not None and not self.runs

    def back_off(self, now: float) -> float:
        """Schedule the next start; return the pause until then, and double the next one."""
        pause = self.pause
        self.restart_at = now + pause
        self.pause = min(pause * 2, _LONGEST_PAUSE)
        return pause


class EmbeddedSupervisor:
    """Implements `Supervisor`.

    Args:
        records: a directory that survives a reboot; `output` need not.
        died: called for each process that ends by itself, with its name and the reason; it must not
            wait for anything.
    """

    notified = False

    def __init__(
        self,
        records: Path,
        output: Path,
        clock: Callable[[], float] = time.monotonic,
        died: Callable[[str, str], None] | None = None,
        alarms: Alarms | None = None,
    ) -> None:
        self.wanted = records
        self._output = output
        self._clock = clock
        self._died = died
        self._lock = threading.RLock()
        self._watched: dict[str, _Watched] = {}
        #: Children that were retired: their exit status is to be collected.
        self._retired: list[subprocess.Popen[bytes]] = []
        #: Processes that could not be told to end when their work is done.
        self._reluctant: list[_Watched] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._prepare: Callable[[str], None] = lambda name: None
        alarms = alarms or Alarms(output / "alarms")
        self._records = ProcessRecords(records, output, alarms, self._wake)
        self._output_files = supervisor_output.OutputFiles(self._records.output_path)

    def prepare_restarts(self, prepare: Callable[[str], None]) -> None:
        self._prepare = prepare

    def start(self, spec: ProcessSpec) -> None:
        self._output_files.follow(spec.name)
        with self._lock:
            before = self._watched.get(spec.name)
            if before is not None:
                if before.runs:
                    self._save(before, spec=spec)
                    return
                self._release(before)
            watched = _Watched(ProcessRecord(spec=spec, wanted=True))
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
        self._output_files.forget(name)
        with self._lock:
            self._records.remove(name, watched.record if watched else None)

    def reload(self, name: str) -> None:
        with self._lock:
            watched = self._watched.get(name)
            if watched is None or watched.pidfd is None or not watched.runs:
                raise OperationFailed(f"Cannot reload {name}", "it does not run")
            try:
                _send(watched.pidfd, signal.SIGHUP)
            except OSError as error:
                raise OperationFailed(f"Cannot reload {name}", describe_os_error(error)) from error

    def forget(self, name: str) -> None:
        self.stop(name)
        with self._lock:
            self._records.remove_output(name)
        self._wake()

    def retire(self, name: str) -> None:
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is None or self._tell_to_end(watched):
                self._records.remove(name, watched.record if watched else None)
                self._records.remove_output(name)
            else:  # its successor serves: the caller has nothing to undo
                self._reluctant.append(watched)
        self._output_files.forget(name)
        self._wake()

    def state(self, name: str) -> ProcessState:
        with self._lock:
            watched = self._watched.get(name)
            if watched is None:
                return ProcessState.STOPPED
            return ProcessState.RUNNING if watched.runs else ProcessState.FAILED

    def mark(self, name: str) -> Mark:
        try:
            return Mark(self._records.output_path(name).stat().st_size)
        except FileNotFoundError:
            return Mark(0)

    def output(self, name: str, since: Mark) -> str:
        try:
            with self._records.output_path(name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = int(since) if since <= size else 0
                file.seek(max(begin, size - _OUTPUT_READ))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def adopt(self) -> None:
        with self._lock:
            for name, (record, written) in self._records.load().items():
                if name in self._watched:
                    continue
                self._output_files.follow(name)
                watched = _Watched(record)
                if not record.wanted:
                    try:
                        if self._adopt(watched):  # an agent was killed as it stopped this
                            self._end(watched)
                    except OSError as error:
                        logger.error("%s: cannot be ended, and runs on: %s", name, error)
                        self._keep(watched)
                    else:
                        self._records.remove(name, watched.record)
                    continue
                self._watched[name] = watched
                if self._adopt(watched) or self._adopt_by_command(watched):
                    logger.info("%s: adopted, pid %d", name, watched.record.pid)
                if not written:
                    self._save(watched)
            current = {name: watched.record for name, watched in self._watched.items()}
            self._records.retry_earlier(current)

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
        """Start a process. Raises OperationFailed if it has not been started."""
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

    def _save(self, watched: _Watched, **changes: object) -> None:
        watched.record = msgspec.structs.replace(watched.record, **changes)
        self._records.save(watched.record)

    def _open_output(self, name: str) -> IO[bytes]:
        self._records.keep_output(name)
        try:
            files.make_directory(self._output)
            return self._records.output_path(name).open("ab")
        except OSError as error:
            logger.warning("%s: cannot write its output, which is lost: %s", name, error)
            return open(os.devnull, "ab")

    def _withdraw(self, name: str, failed: _Watched, before: _Watched | None) -> None:
        """After a failed start, want what was wanted before: nothing, or the process that died."""
        if before is None:
            self._records.remove(name, failed.record)
            return
        self._save(before, pid=None, start_time=None)
        if before.restart_at is None:
            before.restart_at = self._clock() + before.pause
        self._wake()

    def _adopt(self, watched: _Watched) -> bool:
        record = watched.record
        if record.pid is None:
            return False
        with contextlib.suppress(OSError):
            watched.pidfd = open_process(record.pid, record.start_time)
        if watched.has_died:
            self._release(watched)
        watched.started_at = self._clock()
        return watched.pidfd is not None

    def _adopt_by_command(self, watched: _Watched) -> bool:
        """Adopt a process whose record has no pid: an agent was killed, or the disk refused, before
        it was written."""
        pid = find_session_leader(watched.record.spec.argv)
        if pid is None:
            return False
        self._save(watched, pid=pid, start_time=start_time(pid))
        return self._adopt(watched)

    def _end(self, watched: _Watched) -> None:
        """End a process. Raises OSError if it lives on."""
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
        """Keep a process that could not be ended among the wanted ones."""
        with self._lock:
            self._watched[watched.record.spec.name] = watched
            self._save(watched, wanted=True)
        self._wake()

    def _tell_to_end(self, watched: _Watched) -> bool:
        """Tell a process to end when its work is done; return False if the kernel refuses."""
        if watched.pidfd is None:
            return True
        try:
            _send(watched.pidfd, signal.SIGUSR1)
        except OSError as error:
            name, reason = watched.record.spec.name, describe_os_error(error)
            logger.error("%s: cannot be told to end, and is told again later: %s", name, reason)
            return False
        os.close(watched.pidfd)
        if watched.child is not None:
            self._retired.append(watched.child)
        return True

    def _retry_reluctant(self) -> None:
        for watched in [*self._reluctant]:
            if self._tell_to_end(watched):
                self._reluctant.remove(watched)
                name = watched.record.spec.name
                if name not in self._watched:  # a successor of that name has record and output
                    self._records.remove(name, watched.record)
                    self._records.remove_output(name)

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
        retry_at = output_at = self._clock()
        while True:
            # Outside the lock: it takes long, and others may wait for this thread.
            for name in self._list_due():
                self._prepare(name)
            with self._lock:
                self._restart_due()
                watched = self._watched.values()
                pidfds = [each.pidfd for each in watched if each.pidfd is not None]
                due = [each.restart_at for each in watched if each.restart_at is not None]
                now = self._clock()
                if now >= retry_at:
                    retry_at = now + _RETRY
                    self._records.retry()
                    self._retry_reluctant()
                if self._records.has_refused or self._reluctant:
                    due.append(retry_at)
            if now >= size_check_at:
                size_check_at = now + _HOUSEKEEPING
                for path in self._output.glob("*.log"):
                    with contextlib.suppress(OSError):  # the watch goes on without the disk
                        files.cap(path, _OUTPUT_LIMIT)
            poll = select.poll()
            for descriptor in (self._wake_read, *pidfds):
                poll.register(descriptor, select.POLLIN)
            if pidfds:
                due.append(output_at)
            poll.poll(max(0.0, min([size_check_at, *due]) - now) * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            if self._clock() >= output_at or self._has_death():
                output_at = self._clock() + _OUTPUT_LOOK
                supervisor_output.log_serious(self._output_files.read())
            with self._lock:
                self._note_deaths()
                self._retired = [child for child in self._retired if child.poll() is None]

    def _has_death(self) -> bool:
        with self._lock:
            return any(watched.has_died for watched in self._watched.values())

    def _note_deaths(self) -> None:
        for name, watched in self._watched.items():
            if not watched.has_died:
                continue
            status = watched.child.poll() if watched.child else None
            self._release(watched)
            now = self._clock()
            if now - watched.started_at >= _STABLE_AFTER:
                watched.pause = _FIRST_PAUSE
            how = "" if status is None else f" with status {status}"
            reason = f"died{how}; starts again in {watched.back_off(now):.1f} s"
            logger.error("%s: %s", name, reason)
            if self._died is not None:
                self._died(name, reason)

    def _list_due(self) -> list[str]:
        with self._lock:
            now = self._clock()
            return [
                name
                for name, watched in self._watched.items()
                if watched.restart_at is not None and watched.restart_at <= now
            ]

    def _restart_due(self) -> None:
        for name in self._list_due():
            watched = self._watched[name]
            try:
                self._launch(watched)
            except (OperationFailed, OSError) as error:
                pause = watched.back_off(self._clock())
                logger.error("%s: %s; next try in %.1f s", name, error, pause)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self._wake_write, b"\0")


def _send(pidfd: int, number: signal.Signals) -> None:
    """Send a signal, unless the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _await_end(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
