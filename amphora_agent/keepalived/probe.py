"""The check that decides mastership: does every process that carries traffic answer?

    haproxy-vrrp-check SOCKET…          ask each of these sockets once
    probe.py once BASE WANTED           ask all processes that should run, for a few seconds
    probe.py serve BASE WANTED VERDICT  ask them each second, and write the verdict to a file

BASE is the agent's base_path, WANTED the directory where its supervisor keeps what should run. Exit
status 0: all answer.

keepalived runs a shell script that reads the verdict (docs/decisions/0012). So this program stays
in memory, is small, and is no part of the agent, whose end must not move a VIP. It is run by its
path with `python -I -S`, and loads neither the agent nor more of Python than it needs.
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
#: Rounds without an answer after which a process is lost, and rounds with one after which it is
#: back.
FALL, RISE = 3, 2

#: haproxy answers this in one line, at the lowest level, without its statistics.
_QUESTION = b"show version\n"

_HAPROXY, _LVS = "haproxy-", "octavia-keepalivedlvs-"


def list_wanted(base: str, directory: str) -> list[str]:
    """Return the statistics socket of each haproxy that should run, and the pid file of each
    keepalived of a UDP or SCTP listener.

    `directory` has a link for each enabled unit of systemd, or a record of the embedded supervisor
    for each process.
    """
    paths = []
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.listdir(directory)):
            name, kind = os.path.splitext(entry)
            if kind == ".json":
                if b'"wanted":true' not in _read(os.path.join(directory, entry)):
                    continue
            elif kind != ".service":
                continue
            if name.startswith(_HAPROXY):
                # After a dot: which of two processes, while one replaces the other.
                instance = name.removeprefix(_HAPROXY).partition(".")[0]
                paths.append(os.path.join(base, f"{instance}.sock"))
            elif name.startswith(_LVS):
                paths.append(os.path.join(base, "lvs", f"{name}.pid"))
    return [*dict.fromkeys(paths)]


def is_configured(base: str) -> bool:
    """Return whether there is a configuration, also of a process that was stopped: then the
    controller wants that nothing answers."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(base):
            for file in ("haproxy.cfg", "current/haproxy.cfg"):
                if os.path.exists(os.path.join(base, name, file)):
                    return True
        for name in os.listdir(os.path.join(base, "lvs")):
            if name.startswith(_LVS) and name.endswith(".conf"):
                return True
    return False


def find_silent(asked: Iterable[str], timeout: float = ANSWER) -> set[str]:
    """Return those of `asked` that do not answer within `timeout` seconds, all asked at once.

    Any byte is an answer of a socket. A pid file answers if its keepalived lives.
    """
    silent = set()
    poll = select.poll()
    waiting: dict[int, tuple[socket.socket, str]] = {}
    for path in asked:
        if path.endswith(".pid"):
            if not _is_alive(path):
                silent.add(path)
            continue
        silent.add(path)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(path)
            connection.send(_QUESTION)
        except OSError:
            connection.close()
            continue
        waiting[connection.fileno()] = connection, path
        poll.register(connection, select.POLLIN)
    deadline = time.monotonic() + timeout
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            connection, path = waiting.pop(descriptor)
            poll.unregister(descriptor)
            with contextlib.suppress(OSError):
                if connection.recv(1):
                    silent.discard(path)
            connection.close()
    for connection, _ in waiting.values():
        connection.close()
    return silent


class Judge:
    """Hysteresis: one missing answer does not move the VIPs.

    A new process counts as one that answers, while it starts.
    """

    def __init__(self, fall: int = FALL, rise: int = RISE) -> None:
        self._fall, self._rise = fall, rise
        self._lost: set[str] = set()
        #: Rounds in a row that contradict `_lost`.
        self._against: dict[str, int] = {}

    def add_round(self, asked: Collection[str], silent: Collection[str]) -> list[str]:
        """Add the result of one round; return those that are lost now, sorted."""
        self._lost.intersection_update(asked)
        against = {}
        for path in asked:
            if (path in silent) == (path in self._lost):
                continue
            rounds = self._against.get(path, 0) + 1
            if rounds < (self._rise if path in self._lost else self._fall):
                against[path] = rounds
            else:
                self._lost ^= {path}
        self._against = against
        return sorted(self._lost)


def serve(base: str, directory: str, verdict: str) -> None:
    """Ask each second, without end. Replace the file `verdict` each round: seconds since boot, 0
    or 1, and the reason."""
    judge = Judge()
    last_reason = None
    while True:
        started = time.monotonic()
        asked = list_wanted(base, directory)
        silent = find_silent(asked)
        lost = judge.add_round(asked, silent)
        # A process that has never answered may be starting: no verdict yet. keepalived's script
        # asks by itself then.
        if last_reason is not None or lost or not silent:
            unconfigured = "" if asked or is_configured(base) else "nothing is configured"
            reason = " ".join(lost) or unconfigured
            now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
            _write(verdict, f"{now} {int(bool(reason))} {reason}\n")
            if reason != last_reason:
                last_reason = reason
                print(f"does not answer: {reason}" if reason else "all answer", flush=True)
        time.sleep(max(0.0, started + PERIOD - time.monotonic()))


def check_once(base: str, directory: str, timeout: float = FALL * ANSWER) -> bool:
    """Return whether all processes that should run answer within `timeout` seconds: at a boot
    they all start at once."""
    deadline = time.monotonic() + timeout
    while True:
        asked = list_wanted(base, directory)
        if not asked:
            return is_configured(base)
        if not find_silent(asked):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def main(arguments: list[str] | None = None) -> int:
    """Run `haproxy-vrrp-check`; return 0 if all sockets answer."""
    return 1 if find_silent(sys.argv[1:] if arguments is None else arguments) else 0


def _is_alive(pid_file: str) -> bool:
    pid = _read(pid_file).strip()
    # The file outlives a boot, after which the pid may be another process's.
    return pid.isdigit() and _read(f"/proc/{int(pid)}/comm").startswith(b"keepalived")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(path: str, text: str) -> None:
    # Without files.py: the file is in memory, and counts for seconds.
    stage = f"{path}.new"
    with open(stage, "w") as file:
        file.write(text)
    os.replace(stage, path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", base, directory, verdict]:
            serve(base, directory, verdict)
        case ["once", base, directory]:
            sys.exit(not check_once(base, directory))
        case _:
            sys.exit(__doc__)
