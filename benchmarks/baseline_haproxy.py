"""haproxy without an agent: the floor under everything that an agent does with it.

It speaks to the master socket by itself, so that nothing the agent does badly is in the floor.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from lab import processes
from lab.lifecycle import Closing
from lab.network import Namespace
from lab.processes import Process

#: Seconds between looks at a haproxy that is coming up, and until that is given up.
_PAUSE, _PATIENCE = 0.002, 30.0

_WORKER = re.compile(r"^(\d+)\s+worker\s", re.MULTILINE)
_FAILED = re.compile(r"^\d+\s+master\s.*\[failed: [1-9]", re.MULTILINE)


class BareHaproxyError(RuntimeError):
    """haproxy did not do what it was told; the text has its own words."""


def private_copy(haproxy: Path, directory: Path) -> Path:
    """The same program under a name of its own: who watches it sees nobody else's."""
    copy = Path(shutil.copy2(haproxy, directory / "haproxy"))
    libraries = haproxy.resolve().with_name("lib")
    if libraries.is_dir():  # a program that looks for them beside itself (lab.haproxies)
        (directory / libraries.name).symlink_to(libraries)
    return copy


class BareHaproxy(Closing):
    """haproxy in master-worker mode in a namespace, with its files in one directory.

    `name` (`-L`) is its own among its peers. `master_socket` may be elsewhere.
    """

    def __init__(
        self,
        program: Path,
        directory: Path,
        namespace: Namespace,
        name: str,
        *,
        master_socket: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.configuration = directory / "haproxy.cfg"
        self.master_socket = master_socket or directory / "master"
        self._output = directory / "output"
        self._program = program
        self._namespace = namespace
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, text: str) -> None:
        """Start with a configuration, and return when it serves."""
        self.configuration.write_text(text)
        command = [
            *(str(self._program), "-W", "-db", "-S", f"{self.master_socket},mode,600"),
            *("-f", str(self.configuration), "-L", self._name),
        ]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._namespace.command(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._await_worker(after=None)

    def check(self) -> None:
        """`haproxy -c` of the configuration on disk, as the agent's own is run."""
        checked = subprocess.run(
            [self._program, "-c", "-f", self.configuration, "-L", self._name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if checked.returncode != 0:
            raise BareHaproxyError(checked.stdout.decode(errors="replace"))

    def reload(self) -> None:
        """Ask the master for a reload, and return when the new worker answers."""
        before = self.worker()
        self.ask("reload", timeout=_PATIENCE)
        self._await_worker(after=before)

    def worker(self) -> int:
        """The process id of the worker that serves."""
        found = _WORKER.search(self.ask("show proc").partition("# old workers")[0])
        if found is None:
            raise BareHaproxyError("there is no worker")
        return int(found[1])

    def ask(self, command: str, *, timeout: float = 10.0) -> str:
        """The reply of the master socket to one command. Raises OSError."""
        return ask(self.master_socket, command, timeout=timeout)

    def processes(self) -> list[Process]:
        return [p for p in processes.mentioning(self.configuration) if p.program == "haproxy"]

    def close(self) -> None:
        if self._process is not None:
            processes.end(self.processes())
            self._process.wait()
            self._process = None

    def _await_worker(self, after: int | None) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                reply = self.ask("show proc")
                if after is not None and _FAILED.search(reply):
                    raise BareHaproxyError(f"the reload failed: {self._said()}")
                found = _WORKER.search(reply.partition("# old workers")[0])
                if found is not None and int(found[1]) != after:
                    self.ask(f"@!{found[1]} show version")
                    return
            except OSError:
                pass  # not yet there, or executing itself anew
            if self._process.poll() is not None:
                raise BareHaproxyError(f"haproxy ended: {self._said()}")
            time.sleep(_PAUSE)
        raise BareHaproxyError(f"no new worker within {_PATIENCE:g} s: {self._said()}")

    def _said(self) -> str:
        return self._output.read_text(errors="replace")[-2000:]


def ask(path: Path, command: str, *, timeout: float = 10.0) -> str:
    """The reply of any socket of haproxy to one command. Raises OSError."""
    pieces = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        with contextlib.suppress(ConnectionError):  # haproxy 2.6 hangs up on a reload at once
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 20):
                pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
