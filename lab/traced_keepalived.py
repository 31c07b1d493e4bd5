"""keepalived, started for real under strace: what it says it has read, what it opens and runs.

It has a network namespace and mounts of its own. The kernel of a development machine often has no
IPVS, without which keepalived ends before it tells what it has read of a UDP listener: strace then
answers in the kernel's place that every virtual server is there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab import processes
from lab.network import Namespace
from lab.processes import Process
from lab.waiting import until

Kind = Literal["vrrp", "check"]

#: What is said when the text has been read, the dump is complete, and the first checks begin.
_BEGUN = {
    "vrrp": re.compile(r"Entering \w+ STATE|Stopped Keepalived|exited with"),
    "check": re.compile(r"Activating BFD healthchecker|Stopped Keepalived|exited with"),
}
_DATE = re.compile(r"(?m)^\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}: ")
#: `openat(AT_FDCWD, "path", ...`, `execve("path", ["argument", ...`.
_OPENED = re.compile(r"\bopen(?:at|at2)?\((?:[^,\"]*, )?\"((?:[^\"\\]|\\.)*)\"")
_EXECUTED = re.compile(r"\bexecve(?:at)?\((?:\d+, )?\"((?:[^\"\\]|\\.)*)\"")
_CONNECTED = re.compile(r"\bconnect\(\d+, (\{sa_family=AF_(?:INET6?|UNIX)[^}]*\})")


@dataclass(frozen=True)
class Traced:
    """What a keepalived did from its start to its end. `said` has no dates."""

    said: str
    executed: tuple[str, ...]
    opened: frozenset[str]
    connected: tuple[str, ...]

    @property
    def dump(self) -> str:
        """What keepalived says it has read, but for what the machine has."""
        _, begun, rest = self.said.partition("------< Global definitions >------")
        if not begun:
            raise RuntimeError(f"keepalived has not dumped what it has read:\n{self.said}")
        found = rest.partition("------< Interfaces >------")[0]
        # What is said of the life between, before and after is not indented.
        lines = (line for line in found.splitlines() if line.startswith((" ", "------<")))
        return "\n".join(lines)


def run_traced(
    kind: Kind,
    text: Path,
    namespace: Namespace,
    directory: Path,
    *,
    path: Path | None = None,
    to_the_end: bool = False,
) -> Traced:
    """Start keepalived with a text, wait until it has read it, and kill it, or with `to_the_end`
    ask it to end. It finds programs in the directory `path`, too."""
    trace, said, pid_file, child_pid_file = (
        directory / name for name in ("trace", "said", "keepalived.pid", "child.pid")
    )
    for file in (trace, said, pid_file, child_pid_file):
        file.unlink(missing_ok=True)
    command = namespace.command(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("strace", "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", "signal=none"),
            *("-e", "trace=open,openat,openat2,execve,execveat,connect,setsockopt,getsockopt"),
            *(("-e", "inject=setsockopt,getsockopt:retval=0") if kind == "check" else ()),
            *("keepalived", "--dont-fork", "--log-console", "--no-syslog", "--dump-conf"),
            *(f"--{kind}", "--use-file", str(text), "--pid", str(pid_file)),
            *("--vrrp_pid" if kind == "vrrp" else "--checkers_pid", str(child_pid_file)),
        ]
    )
    environment = {**os.environ, "PATH": f"{path or ''}:{os.environ['PATH']}"}
    with said.open("wb") as output:
        started = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    try:
        until(
            lambda: started.poll() is not None or bool(_BEGUN[kind].search(_text(said))),
            "keepalived has begun",
            timeout=60,
        )
        if to_the_end:
            for process in processes.descendants(started.pid):
                if process.program == "keepalived" and process.parent == started.pid:
                    process.send(signal.SIGTERM)
            started.wait(60)
    finally:
        # strace leads the session; keepalived's child has one of its own, and ends with its parent.
        processes.end([*processes.descendants(started.pid), *_leader(started.pid)])
        started.wait()
    return _traced(_text(trace), _DATE.sub("", _text(said)))


def _text(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


def _leader(pid: int) -> list[Process]:
    found = Process.of(pid)
    return [found] if found else []


def _traced(trace: str, said: str) -> Traced:
    return Traced(
        said=said,
        executed=tuple(_EXECUTED.findall(trace)),
        opened=frozenset(_OPENED.findall(trace)),
        connected=tuple(_CONNECTED.findall(trace)),
    )
