"""The check that decides mastership: does everything answer that carries traffic?

    haproxy-vrrp-check SOCKET…          ask each of these once
    probe.py once BASE WANTED           ask all that should run, for a moment
    probe.py serve BASE WANTED VERDICT  go on asking, and write down what they say

BASE is the agent's base_path, WANTED the directory where its supervisor says what should run. Exit
status 0: all answer.

keepalived runs a shell script that reads the verdict (docs/decisions/0012). So this program is
resident, small, and not part of the agent, whose end must not move a VIP. It is run by its path
with `python -I -S`, loads nothing of the agent, and no more of Python than it needs.
"""

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Collection, Iterable

#: Seconds for an answer, and between two rounds of questions.
ANSWER, PERIOD = 1.0, 1.0
#: So many rounds without an answer: it is lost. So many with one: it is back.
FALL, RISE = 3, 2

#: haproxy answers it at the level of a user, in a line; without a look at any statistics.
_QUESTION = b"show version\n"

_HAPROXY, _LVS = "haproxy-", "octavia-keepalivedlvs-"


def wanted(base: str, directory: str) -> list[str]:
    """What should run: the statistics socket of each haproxy, the pid file of each keepalived of a
    UDP or SCTP listener.

    `directory` has a link for each enabled unit of systemd, or a record of the embedded supervisor.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(directory)):
            name, kind = os.path.splitext(entry)
            if kind == ".json":
                if b'"wanted":true' not in _read(os.path.join(directory, entry)):
                    continue
            elif kind != ".service":
                continue
            if name.startswith(_HAPROXY):
                # Behind a dot: which of two it is, while one takes the other's place.
                instance = name.removeprefix(_HAPROXY).partition(".")[0]
                found.append(os.path.join(base, f"{instance}.sock"))
            elif name.startswith(_LVS):
                found.append(os.path.join(base, "lvs", f"{name}.pid"))
    return [*dict.fromkeys(found)]


def configured(base: str) -> bool:
    """Whether there is any configuration. One whose process was stopped counts: that nothing
    answers is what the controller wanted."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(base):
            for file in ("haproxy.cfg", "current/haproxy.cfg"):
                if os.path.exists(os.path.join(base, name, file)):
                    return True
        for name in os.listdir(os.path.join(base, "lvs")):
            if name.startswith(_LVS) and name.endswith(".conf"):
                return True
    return False


def silent(asked: Iterable[str], answer: float = ANSWER) -> set[str]:
    """Those that do not answer within `answer` seconds, all asked at the same time.

    A socket answers with anything at all, a pid file by naming a process that lives.
    """
    mute = set()
    poll = select.poll()
    waiting: dict[int, tuple[socket.socket, str]] = {}
    for path in asked:
        if path.endswith(".pid"):
            if not _lives(path):
                mute.add(path)
            continue
        mute.add(path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(path)
            connection.send(_QUESTION)
        except OSError:
            connection.close()
            continue
        waiting[connection.fileno()] = connection, path
        poll.register(connection, select.POLLIN)
    deadline = time.monotonic() + answer
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            connection, path = waiting.pop(descriptor)
            poll.unregister(descriptor)
            with contextlib.suppress(OSError):
                if connection.recv(1):
                    mute.discard(path)
            connection.close()
    for connection, _ in waiting.values():
        connection.close()
    return mute


class Judge:
    """Hysteresis: one answer that is missing is no reason to move the VIPs.

    What is new among the wanted is being started, and is believed to answer as long.
    """

    def __init__(self, fall: int = FALL, rise: int = RISE) -> None:
        self._fall, self._rise = fall, rise
        self._lost: set[str] = set()
        #: Rounds in a row that speak against what is believed.
        self._against: dict[str, int] = {}

    def hear(self, asked: Collection[str], mute: Collection[str]) -> list[str]:
        """Take the result of one round; return those that are lost now, sorted."""
        self._lost.intersection_update(asked)
        against = {}
        for path in asked:
            if (path in mute) == (path in self._lost):
                continue
            rounds = self._against.get(path, 0) + 1
            if rounds < (self._rise if path in self._lost else self._fall):
                against[path] = rounds
            else:
                self._lost ^= {path}
        self._against = against
        return sorted(self._lost)


def serve(base: str, directory: str, verdict: str) -> None:
    """Ask for ever. `verdict` is replaced each round: seconds since boot, 0 or 1, and why."""
    judge = Judge()
    said = None
    while True:
        begun = time.monotonic()
        asked = wanted(base, directory)
        mute = silent(asked)
        lost = judge.hear(asked, mute)
        # What has never been heard may be coming up: no verdict yet, and who needs one asks.
        if said is not None or lost or not mute:
            why = " ".join(lost) or ("" if asked or configured(base) else "nothing is configured")
            now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
            _write(verdict, f"{now} {int(bool(why))} {why}\n")
            if why != said:
                said = why
                print(f"does not answer: {why}" if why else "all answer", flush=True)
        time.sleep(max(0.0, begun + PERIOD - time.monotonic()))


def once(base: str, directory: str, patience: float = FALL * ANSWER) -> bool:
    """Whether all that should run answer, within `patience` seconds: at a boot everything starts
    at once."""
    deadline = time.monotonic() + patience
    while True:
        asked = wanted(base, directory)
        if not asked:
            return configured(base)
        if not silent(asked):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def main(arguments: list[str] | None = None) -> int:
    """The command `haproxy-vrrp-check`: 0 when all sockets answer."""
    return 1 if silent(sys.argv[1:] if arguments is None else arguments) else 0


def _lives(pid_file: str) -> bool:
    pid = _read(pid_file).strip()
    # The file outlives a boot, after which the pid may be another's.
    return pid.isdigit() and _read(f"/proc/{int(pid)}/comm").startswith(b"keepalived")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(path: str, text: str) -> None:
    # Not by way of files.py: this is in memory, and for as long as it is fresh.
    stage = f"{path}.new"
    with open(stage, "w") as file:
        file.write(text)
    os.replace(stage, path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", base, directory, verdict]:
            serve(base, directory, verdict)
        case ["once", base, directory]:
            sys.exit(not once(base, directory))
        case _:
            sys.exit(__doc__)
