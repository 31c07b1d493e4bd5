"""A supervisor for places without systemd: containers, tests, the demo.

Each process has a session of its own and writes to a file, so the agent can stop, crash or be
killed without any effect on it. What is wanted is on disk, one record a process; a new agent
adopts what it finds running by pid and start time, and starts the rest. A process that dies is
started again after a pause that grows while it keeps dying.
"""

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace
from amphora_agent.processes.identity import session_leader, start_time
from amphora_agent.processes.supervisor import Mark, ProcessSpec, ProcessState

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
    """Implements `Supervisor`. `records` survives a reboot, `output` need not."""

    notified = False

    def __init__(
        self, records: Path, output: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = self.wanted = records
        self._output = output
        self._clock = clock
        self._lock = threading.RLock()
        self._watched: dict[str, _Watched] = {}
        #: Children that end by and by; somebody must take notice.
        self._retired: list[subprocess.Popen[bytes]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread: threading.Thread | None = None

    def start(self, spec: ProcessSpec) -> None:
        with self._lock:
            watched = self._watched.get(spec.name)
            if watched is not None and watched.pidfd is not None:
                if not _has_ended(watched.pidfd):
                    self._save(watched, spec=spec)
                    return
                self._release(watched)
            watched = _Watched(_Record(spec=spec, wanted=True))
            self._launch(watched)
            self._watched[spec.name] = watched
        self._wake()

    def stop(self, name: str) -> None:
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is None:
                return
            self._save(watched, wanted=False)
        self._wake()
        self._end(watched)
        self._save(watched, pid=None, start_time=None)

    def reload(self, name: str) -> None:
        with self._lock:
            watched = self._watched.get(name)
            if watched is None or watched.pidfd is None or _has_ended(watched.pidfd):
                raise OperationFailed(f"Cannot reload {name}", "it does not run")
            signal.pidfd_send_signal(watched.pidfd, signal.SIGHUP)

    def forget(self, name: str) -> None:
        self.stop(name)
        files.remove(self._record_path(name))
        files.remove(self._output_path(name))

    def retire(self, name: str) -> None:
        with self._lock:
            watched = self._watched.pop(name, None)
            if watched is not None and watched.pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(watched.pidfd, signal.SIGUSR1)
                os.close(watched.pidfd)
                if watched.child is not None:
                    self._retired.append(watched.child)
        files.remove(self._record_path(name))
        files.remove(self._output_path(name))

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
        files.make_directory(self._records)
        with self._lock:
            for record in self._load():
                if record.spec.name in self._watched:
                    continue
                watched = _Watched(record)
                if not record.wanted:
                    if self._adopt(watched):  # an agent was killed while it stopped this one
                        self._end(watched)
                    continue
                self._watched[record.spec.name] = watched
                if record.pid is None and (pid := session_leader(record.spec.argv)) is not None:
                    # An agent was killed between starting it and writing down which one it is.
                    self._save(watched, pid=pid, start_time=start_time(pid))
                if self._adopt(watched):
                    logger.info("%s: adopted, pid %d", record.spec.name, watched.record.pid)

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
        spec = watched.record.spec
        files.make_directory(self._output)

        def spawn() -> subprocess.Popen[bytes]:
            with self._output_path(spec.name).open("ab") as output:
                return subprocess.Popen(
                    spec.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    start_new_session=True,
                )

        self._save(watched, wanted=True, pid=None, start_time=None)
        try:
            child = Namespace(spec.namespace).run(spawn)
        except OSError as error:
            raise OperationFailed(f"Cannot start {spec.name}", str(error)) from error
        watched.child = child
        watched.pidfd = os.pidfd_open(child.pid)
        watched.started_at = self._clock()
        watched.restart_at = None
        self._save(watched, pid=child.pid, start_time=start_time(child.pid))
        logger.info("%s: started, pid %d", spec.name, child.pid)

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

    def _end(self, watched: _Watched) -> None:
        if watched.pidfd is None:
            return
        group = watched.record.pid
        assert group is not None
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watched.pidfd, signal.SIGTERM)
            if not _await_end(watched.pidfd, _PATIENCE):
                logger.warning("%s: did not end in time, killed", watched.record.spec.name)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
                _await_end(watched.pidfd, _PATIENCE)
        finally:
            self._release(watched)

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
        while True:
            with self._lock:
                self._restart_due()
                pidfds = [w.pidfd for w in self._watched.values() if w.pidfd is not None]
                due = [w.restart_at for w in self._watched.values() if w.restart_at is not None]
            now = self._clock()
            if now >= size_check_at:
                size_check_at = now + _HOUSEKEEPING
                for path in self._output.glob("*.log"):
                    files.cap(path, _OUTPUT_LIMIT)
            poll = select.poll()
            for descriptor in (self._wake_read, *pidfds):
                poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, min([size_check_at, *due]) - now) * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            with self._lock:
                self._note_deaths()
                self._retired = [child for child in self._retired if child.poll() is None]

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
            logger.error(
                "%s: died%s; starts again in %.1f s",
                name,
                "" if status is None else f" with status {status}",
                watched.pause,
            )
            watched.pause = min(watched.pause * 2, _LONGEST_PAUSE)

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

    def _save(self, watched: _Watched, **changes: object) -> None:
        watched.record = msgspec.structs.replace(watched.record, **changes)
        data = msgspec.json.encode(watched.record, enc_hook=str)
        files.write(self._record_path(watched.record.spec.name), data)

    def _load(self) -> Iterator[_Record]:
        for path in sorted(self._records.glob("*.json")):
            try:
                yield msgspec.json.decode(
                    path.read_bytes(), type=_Record, dec_hook=lambda kind, value: kind(value)
                )
            except (OSError, msgspec.MsgspecError) as error:
                logger.error("%s: cannot be read, ignored: %s", path, error)


def _has_ended(pidfd: int) -> bool:
    return _await_end(pidfd, 0)


def _await_end(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
