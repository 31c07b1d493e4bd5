"""Counters of workers that are replaced, kept in files until heartbeats have told them.

A worker's counters die with it. So the agent reads them once more around a reload
(`keeping_final_counters`), and the reader takes that last word for as long as nothing newer is
known: no connection that a replaced worker accepted is lost, and what it counts while its last
connections drain is read from it directly.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.replies import read_information
from amphora_agent.haproxy.runtime.socket import InteractiveSession, master_of
from amphora_agent.model.status import WorkerReading
from amphora_agent.paths import InstanceLayout
from amphora_agent.supervisor.processes import boot_id, start_time

logger = logging.getLogger(__name__)

#: haproxy's types of statistics: 1 is frontends, which is where a listener counts.
FRONTENDS = "-1 1 -1"
#: Seconds between tries while a master of haproxy 2.6 executes itself anew.
_RETRY_PAUSE = 0.02
#: How often a worker that was replaced is asked whether it listens no more.
_LOOKS = 50
#: After how many looks at which nothing has changed no handshake is waited for.
_SAME = 5


def worker_name(pid: int) -> str | None:
    """Return a name that no other worker of this machine has or will have; None if it is gone."""
    started = start_time(pid)
    if started is None:
        return None
    return f"{pid}-{started.rpartition(':')[2]}-{_this_boot()}"


@contextlib.contextmanager
def keeping_final_counters(
    instance: InstanceLayout, pid: int | None, *, timeout: float
) -> Iterator[Callable[[], None]]:
    """Write the counters of a worker down before it is replaced. The function given writes them
    again, and is to be called when its successor serves. Nothing is written for no worker.

    What it counts in between would be lost if it left before it is read the next time; so it is
    held by a connection until it has stopped listening, and has said how many came.
    """
    if pid is None:
        yield lambda: None
        return
    question = f"show stat {FRONTENDS}"
    try:
        path = instance.final_counters / (worker_name(pid) or "gone")
        _keep_last_word(path, master_of(instance).command(f"@!{pid} {question}", timeout=timeout))
        session = InteractiveSession(instance.stats_socket, timeout=timeout)
    except (OSError, OperationFailed) as error:
        logger.warning(
            "instance=%s last counters of its worker are not kept: %s", instance.id, error
        )
        yield lambda: None
        return
    with session:

        def keep() -> None:
            try:
                for _ in range(_LOOKS):
                    if read_information(session.ask("show info")).get("Stopping") == "1":
                        break
                    time.sleep(_RETRY_PAUSE)
                _keep_last_word(path, _await_handshakes(partial(session.ask, question)))
            except OperationFailed as error:
                logger.info("instance=%s its worker has left: %s", instance.id, error)

        yield keep


def _keep_last_word(path: Path, reply: str) -> None:
    try:
        files.write(path, reply.encode())
    except OSError as error:  # a reload is worth more than a few counters
        logger.warning("%s: cannot be written, counters are lost: %s", path, error)


def _await_handshakes(ask: Callable[[], str]) -> str:
    """Return the statistics of a worker that accepts no more, when open handshakes are over: only
    then do their connections count. Those that have failed long ago look alike, but stay."""
    reply, same = ask(), 0
    for _ in range(_LOOKS):
        left = replies.count_unfinished(reply)
        if left <= 0 or same == _SAME:
            break
        time.sleep(_RETRY_PAUSE)
        reply = ask()
        same = same + 1 if replies.count_unfinished(reply) == left else 0
    return reply


def read_final_counters(instance: InstanceLayout) -> list[WorkerReading]:
    """Read the last words of this boot; whether those from before were told nobody knows."""
    readings = []
    for path in sorted(instance.final_counters.glob(f"[0-9]*-{_this_boot()}")):
        try:
            readings.append(replies.read_worker(path.read_text(), path.name))
        except (OSError, OperationFailed) as error:
            logger.warning("%s: %s", path, error)
    return readings


def forget_final_counters(instance: InstanceLayout, names: set[str]) -> None:
    for path in instance.final_counters.glob("[0-9]*"):
        pid = int(path.name.partition("-")[0])
        of_this_boot = path.name.endswith(f"-{_this_boot()}")
        if not of_this_boot or (path.name in names and worker_name(pid) != path.name):
            try:
                files.remove(path)
            except OSError as error:  # it counts for nothing any more; the next time, perhaps
                logger.debug("%s: cannot be removed: %s", path, error)


def _this_boot() -> str:
    return boot_id()[:8]
