"""A machine with a real systemd as its first process, booted in about a second by systemd-nspawn.

    with Machine(lab, "amphora", tree()) as machine:
        machine.run(["systemctl", "is-active", "amphora-agent"])

It has processes, mounts, control groups and a network of its own; the layers it is made of stay as
they are. Its network namespace is one of the laboratory's, so cables lead to it as to any other,
also before it boots: its ports are there then when its first process starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.archive import UnavailableError
from lab.cleanup_registry import delete_namespace
from lab.debian import in_mounted
from lab.lifecycle import Starting
from lab.network import CommandError, Lab
from lab.processes import PROC, Process, descendants, end
from lab.waiting import until

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
# systemd(1): SIGRTMIN+4 asks the first process to power off.
_POWER_OFF = signal.SIGRTMIN + 4


class BootError(RuntimeError):
    """The machine started and did not come up; the text has the end of its journal."""


class Machine(Starting):
    """A machine on the given layers (see ``lab.debian``); its name counts inside one laboratory."""

    def __init__(self, lab: Lab, name: str, layers: Sequence[Path]) -> None:
        self.name = f"{lab.prefix}-{name}"
        self.namespace = lab.namespace(name)
        """The one that its first process is in, and the agent."""
        self._lab = lab
        self._short_name = name
        self._layers = layers
        self._directory = lab.directory()
        self._cgroups = [mount / f"amphora-lab-{self.name}" for mount in _cgroup_mounts()]
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a file into the machine before it boots, as a config drive does."""
        file = self._directory / "changes/upper" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)

    def written(self, path: str) -> bytes:
        """What `write` has put there."""
        return (self._directory / "changes/upper" / path.lstrip("/")).read_bytes()

    def start(self, *, timeout: float = 30) -> Machine:
        """Boot, and wait until systemd has started everything that it should.

        Raises UnavailableError where systemd-nspawn cannot run, BootError.
        """
        if self._process is not None:
            raise BootError(f"{self.name} has been started already")
        for program in ("systemd-nspawn", "nsenter", "unshare"):
            if shutil.which(program) is None:
                raise UnavailableError(f"the program {program} is not installed")
        self._lab.record.add_workplace(self._directory)
        for cgroup in self._cgroups:
            cgroup.mkdir(exist_ok=True)
        target = self._directory / "root"
        enter = "".join(f"echo $$ >{cgroup}/cgroup.procs\n" for cgroup in self._cgroups)
        console = self._directory / "console"
        with console.open("wb") as log:
            self._process = subprocess.Popen(
                in_mounted(
                    self._layers,
                    self._directory / "changes",
                    target,
                    f'{enter}exec systemd-nspawn "$@"',
                    *("--quiet", "--boot", "--console=passive"),
                    *("--register=no", "--keep-unit", "--capability=all"),
                    f"--network-namespace-path={self.namespace.path}",
                    *(f"--machine={self.name}", f"--directory={target}"),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    # Where the host mounts both versions of control groups, the guest gets this.
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    # The settings of its network are its own, as on a machine.
                    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
                },
                start_new_session=True,
            )
        until(lambda: self._has_first_process() or self._ended(), "nspawn started", timeout=timeout)
        if not self._leader:
            # Of what it says without having started anything, the cause is this machine.
            said = console.read_text().strip() or f"exit code {self._process.poll()}"
            raise UnavailableError(f"systemd-nspawn cannot run: {said}")
        try:
            until(lambda: self.state() in ("running", "degraded"), "systemd is up", timeout=timeout)
        except TimeoutError as error:
            raise BootError(f"{error}: {self.state()}\n{self.journal()}") from None
        return self

    def state(self) -> str:
        """``running``: everything is up. ``degraded``: something failed."""
        done = self.run(["systemctl", "is-system-running"], check=False)
        return (done.stdout or done.stderr).strip()

    def run(
        self, arguments: Sequence[str], *, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; raises CommandError when it fails and must not."""
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net"),
                *("--pid", "--cgroup", "--root", "--wd", "env", "-i", f"PATH={_PATH}"),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise CommandError(f"{' '.join(arguments)}: exit code {done.returncode}: {said}")
        return done

    def output(self, *arguments: str) -> str:
        """What a program says that must succeed."""
        return self.run(arguments).stdout.strip()

    def properties(self, unit: str) -> dict[str, str]:
        """All that systemd tells of a unit, whether there is one or not."""
        lines = self.output("systemctl", "show", "--all", unit).splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def journal(self, *, lines: int = 60) -> str:
        shown = self.run(["journalctl", "--no-pager", "--boot", f"--lines={lines}"], check=False)
        return shown.stdout

    def path(self, inside: str) -> Path:
        """A file of the running machine, as seen from here."""
        return PROC / str(self._leader) / "root" / inside.lstrip("/")

    def stop(self, *, timeout: float = 30) -> None:
        """Power off in order; raises TimeoutError. Its cables are gone then, its disk is not: new
        ones may be laid, and it may be started again."""
        if self._process is None:
            return
        os.kill(self._leader, _POWER_OFF)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} has not powered off in {timeout:g} s") from None
        self.close()
        self.namespace = self._lab.namespace(self._short_name)

    def close(self) -> None:
        """Pull the plug, if it still runs, and the cables. May be called again."""
        if self._process is not None:
            # The first process of the machine dies with its parent, and all others with it.
            leader = Process.of(self._leader) if self._leader else None
            self._process.kill()
            self._process.wait()
            self._process, self._leader = None, 0
            end([leader] if leader else [])
        delete_namespace(self.name)
        for cgroup in self._cgroups:
            _remove_cgroup(cgroup)

    def _has_first_process(self) -> bool:
        assert self._process is not None
        for process in descendants(self._process.pid):
            with contextlib.suppress(OSError):
                status = (PROC / str(process.pid) / "status").read_text()
                (numbers,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
                if numbers.split()[-1] == "1":
                    self._leader = process.pid
        return bool(self._leader)

    def _ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None


def _cgroup_mounts() -> list[Path]:
    """Where systemd looks for its control groups: those of version 2, or a named one of 1.

    A machine gets groups of its own there: several would share one named ``payload`` otherwise.
    """
    mounts = []
    for line in (PROC / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            mounts.append(Path(before.split()[4]))
    return mounts


def _remove_cgroup(cgroup: Path) -> None:
    def gone() -> bool:
        # Busy for as long as the kernel takes to bury the last of its processes.
        for directory, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return not cgroup.exists()

    until(gone, f"{cgroup} is empty")
