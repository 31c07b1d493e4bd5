"""The agent's processes: an arbiter that keeps its workers alive, the API and the heartbeat. The
API is two workers where there is an unprivileged user for the one that receives.

gunicorn's arbiter starts them from one loaded parent, so that they share its memory, starts them
again when they die, and ends a worker without a sign of life. The arbiter has no secret: each
worker reads its own.
"""

import contextlib
import enum
import gc
import logging
import mmap
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.systemd import sd_notify
from gunicorn.workers import base

from amphora_agent.agent import logs
from amphora_agent.api.server import channel
from amphora_agent.api.server.requests import LocalBackend
from amphora_agent.api.server.worker import ApiWorker
from amphora_agent.daemon.privileges import User
from amphora_agent.daemon.workers import FrontWorker, ServicesWorker
from amphora_agent.heartbeat.reader import Reader
from amphora_agent.heartbeat.sender import Sender
from amphora_agent.metrics.shared import HEARTBEAT_WORKER, HeartbeatBoard, WorkerDeaths
from amphora_agent.supervisor.processes import ABORT, KILL

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which the arbiter ends a worker: the heartbeat's, the API's,
#: and one that starts.
_BEATING_TIMEOUT, _SERVING_TIMEOUT, _STARTING_TIMEOUT = 8.0, 20.0, 60.0

#: If more seconds pass between two checks, the arbiter itself was held up, and perhaps its workers
#: with it: then their time begins anew.
_HELD_UP = 5.0

#: Seconds for running requests to end when the agent is stopped.
_GRACE = 30

#: Seconds that the first heartbeat waits for the first readings.
_FIRST_READINGS = 3.0

#: Seconds for the last messages of a worker that ends.
_LAST_WORDS = 1.0


class WorkerPhase(enum.IntEnum):
    """The phase of a worker's life."""

    STARTING = 0
    WORKING = 1
    #: It is done, though its process may still exist.
    ENDED = 2


class Pulse:
    """The signs of life of a worker, in memory that it shares with the arbiter: gunicorn keeps them
    in a file, and the disk may stall. gunicorn passes its `cfg`.

    The arbiter may read at any instant of a write. So each value is one aligned word, which
    processors write whole; `struct.pack_into` would write zeros first.
    """

    _UPDATED, _PHASE = 0, 1

    def __init__(self, cfg: object = None) -> None:
        self._descriptor = os.memfd_create("pulse")
        os.ftruncate(self._descriptor, mmap.PAGESIZE)
        self._memory = mmap.mmap(self._descriptor, mmap.PAGESIZE)
        self._words = memoryview(self._memory).cast("d")
        self._write(WorkerPhase.STARTING)

    def notify(self) -> None:
        self._write(WorkerPhase.WORKING)

    def end(self) -> None:
        """Note that this worker is done, though its process may still exist."""
        self._write(WorkerPhase.ENDED)

    def last_update(self) -> float:
        """Return the monotonic time of the last sign of life, in seconds."""
        return self._words[self._UPDATED]

    @property
    def started(self) -> bool:
        return self._words[self._PHASE] != WorkerPhase.STARTING

    @property
    def ended(self) -> bool:
        return self._words[self._PHASE] == WorkerPhase.ENDED

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Called for each worker that has ended, and in each worker for those beside it."""
        os.close(self._descriptor)
        self._words.release()
        self._memory.close()

    def _write(self, phase: WorkerPhase) -> None:
        # In this order: a new phase is visible only with its time.
        self._words[self._UPDATED] = time.monotonic()
        self._words[self._PHASE] = phase


#: gunicorn makes one for each worker.
base.WorkerTmp = Pulse


class Heart(NamedTuple):
    """The reader of instances, and the sender of what it has read."""

    reader: Reader
    sender: Sender


class HeartbeatWorker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Sends a heartbeat each interval. Other threads of its process do what may wait. It closes the
    API's sockets."""

    name = HEARTBEAT_WORKER

    def init_process(self) -> None:
        for listener in self.sockets:
            listener.close()
        self.sockets: list[Any] = []
        if self.app.listener is not None:
            self.app.listener.close()
        super().init_process()

    def load_wsgi(self) -> None:
        """Load nothing: this worker serves no application."""

    def run(self) -> None:
        log = logs.WaitingLog()
        try:
            self._beat_on(self.app.make_heart())
        finally:
            log.finish(_LAST_WORDS)
            self.tmp.end()

    def _beat_on(self, heart: Heart) -> None:
        self._next_beat = time.monotonic()
        heart.reader.start(lambda: self._next_beat)
        self._await_readings(heart)
        while self._lives():
            now = time.monotonic()
            if now >= self._next_beat:
                self._attempt(heart.sender.beat)
                # No burst after a pause of the machine, and no drift without one.
                self._next_beat = max(self._next_beat + heart.sender.interval(), now)
            # A shortened interval counts from the last beat.
            self._next_beat = min(self._next_beat, time.monotonic() + heart.sender.interval())
            pause = max(0.0, min(1.0, self._next_beat - time.monotonic()))
            # A signal writes to the pipe: the worker ends at once.
            ready, _, _ = select.select([self.PIPE[0], *heart.sender.sockets()], [], [], pause)
            if self.PIPE[0] in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.PIPE[0], 4096)
            elif ready:
                self._attempt(heart.sender.take_errors)
        self._attempt(heart.sender.finish)

    def _await_readings(self, heart: Heart) -> None:
        """Wait for readings: the controller takes listeners for lost that the first message
        lacks."""
        deadline = time.monotonic() + _FIRST_READINGS
        while self._lives() and time.monotonic() < deadline:
            if heart.reader.await_first(0.1):
                return

    def _lives(self) -> bool:
        self.notify()
        return bool(self.alive and self.ppid == os.getppid())

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # the next heartbeat must come, whatever this one met
            logger.exception("no heartbeat was sent")


class AgentArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Keeps one worker of each of `app.kinds`."""

    _looked = 0.0
    _patient_since = 0.0
    _stopping = False

    def __init__(self, app: "AgentServer") -> None:
        #: Deaths that no worker has recorded yet. The arbiter has no threads, which a fork would
        #: break, and must not wait for a disk: the next worker records them.
        self._deaths: list[tuple[str, str]] = []
        self._hung: dict[int, float] = {}
        super().__init__(app)
        self.cfg.set("post_fork", _record_deaths)

    def spawn_worker(self) -> Any:
        living = {type(worker) for worker in self.WORKERS.values()}
        self.worker_class = next(kind for kind in self.app.kinds if kind not in living)
        pid = super().spawn_worker()
        self._deaths.clear()
        return pid

    def take_deaths(self) -> list[tuple[str, str]]:
        """Return the deaths that a new worker must record: names of workers, and how they ended."""
        return self._deaths

    def spawn_workers(self) -> None:
        while len(self.WORKERS) < self.num_workers:
            self.spawn_worker()

    def murder_workers(self) -> None:
        """End workers that hang; gunicorn calls this about once a second. Notify systemd's
        watchdog, unless one of them does not end: then systemd replaces all processes at last."""
        now = time.monotonic()
        if now - self._looked > _HELD_UP:
            self._patient_since = now
        self._looked = now
        for pid, worker in [*self.WORKERS.items()]:
            silent = now - max(worker.tmp.last_update(), self._patient_since)
            if silent > _get_timeout(worker):
                self._end_hung(pid, worker, silent)
        if not any(worker.aborted for worker in self.WORKERS.values()):
            sd_notify("WATCHDOG=1", self.log)

    def _end_hung(self, pid: int, worker: Any, silent: float) -> None:
        if not worker.aborted:
            kind = type(worker).__name__
            logger.critical("%s, pid %d, hangs for %.1f s: it is replaced", kind, pid, silent)
            worker.aborted = True
            self._hung[pid] = silent
            self.kill_worker(pid, ABORT)
        elif _is_zombie(pid):
            # One of its threads waits for the disk, and the kernel cannot end that yet.
            del self.WORKERS[pid]
            self._note_death(pid, worker, "ended")
        else:
            self.kill_worker(pid, KILL)

    def stop(self, graceful: bool = True) -> None:
        """End. Running requests may take longer than the watchdog allows."""
        self._stopping = True
        sd_notify("STOPPING=1", self.log)
        super().stop(graceful)

    def reap_workers(self) -> None:
        """Note which workers have ended. When the agent stops, one that is done counts as ended,
        even if one of its threads still waits for the disk."""
        ended = {pid: how for pid in self.WORKERS if (how := _describe_end(pid))}
        workers = dict(self.WORKERS)
        super().reap_workers()
        for pid, how in ended.items():
            if pid not in self.WORKERS:
                self._note_death(pid, workers[pid], how)
        if self._stopping:
            for pid in [pid for pid, worker in self.WORKERS.items() if worker.tmp.ended]:
                del self.WORKERS[pid]

    def _note_death(self, pid: int, worker: Any, how: str) -> None:
        silent = self._hung.pop(pid, None)
        if self._stopping:
            return
        name = worker.name
        self.app.deaths.count(name, hung=silent is not None)
        why = "" if silent is None else f"hung for {silent:.1f} s, and "
        words = f"{why}{how}; another one takes its place"
        logger.error("%s, pid %d, %s", name, pid, words)
        self._deaths.append((name, words))

    def handle_hup(self) -> None:
        """Do nothing: changed settings and certificates are read anyway."""

    def handle_ttin(self) -> None:
        """Do nothing: the number of workers is fixed."""

    handle_ttou = handle_usr2 = handle_ttin


def _get_timeout(worker: Any) -> float:
    if not worker.tmp.started:
        return _STARTING_TIMEOUT
    return _BEATING_TIMEOUT if isinstance(worker, HeartbeatWorker) else _SERVING_TIMEOUT


def _record_deaths(arbiter: AgentArbiter, worker: base.Worker) -> None:
    """Record deaths, in a worker that begins."""
    for name, words in arbiter.take_deaths():
        arbiter.app.died(name, words)


def _describe_end(pid: int) -> str:
    """Return how an unreaped child ended; empty if it lives."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return ""
    if ended is None:
        return ""
    if ended.si_code == os.CLD_EXITED:
        return f"ended with status {ended.si_status}"
    return f"was ended by signal {ended.si_status}"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


class AgentLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends gunicorn's messages where all others go."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)  # its DEBUG is about gunicorn, not about the agent

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg.startswith("Listening at"):  # gunicorn does not know that this is TLS
            args = (str(args[0]).replace("http://", "https://"), *args[1:])
        super().info(msg, *args, **kwargs)


class AgentServer(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """The `app` of the workers: their settings and callbacks."""

    def __init__(
        self,
        bind: str,
        backend: LocalBackend,
        *,
        make_heart: Callable[[], Heart],
        died: Callable[[str, str], None],
        deaths: WorkerDeaths,
        board: HeartbeatBoard,
        user: User | None = None,
    ) -> None:
        """`user` is that of the worker that receives; None if one worker has the whole API."""
        self._bind = bind
        self.backend = backend
        self.make_heart = make_heart
        self.died = died
        self.deaths = deaths
        self._board = board
        self.user = user
        self.kinds: tuple[type[base.Worker], ...] = (ApiWorker, HeartbeatWorker)
        #: Where the worker that has the services listens for the one that receives.
        self.listener: socket.socket | None = None
        if user is not None:
            self.kinds = (ServicesWorker, FrontWorker, HeartbeatWorker)
            self.listener = channel.listen()
        super().__init__()

    def keep_for_root(self) -> None:
        """Close what only root's processes share; called by the one that is not root's."""
        if self.listener is not None:
            self.listener.close()
        self._board.close()
        self.deaths.close()

    def load_config(self) -> None:
        for name, value in {
            "bind": self._bind,
            "workers": len(self.kinds),
            "worker_class": self.kinds[0],
            "logger_class": AgentLog,
            "graceful_timeout": _GRACE,
            "control_socket_disable": True,
            "preload_app": True,
            "proc_name": "amphora-agent",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> None:
        """Load nothing: the backend has the application."""

    def run(self) -> None:
        """Serve until told to stop."""
        # OpenSSL reads its tables for the first one: 3 MB that all processes share.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        gc.collect()
        gc.freeze()  # all that is loaded now is shared by all processes, and never garbage
        AgentArbiter(self).run()
