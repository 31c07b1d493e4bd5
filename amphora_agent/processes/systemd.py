"""The supervisor of an amphora: systemd. One unit a process, rendered from `systemd/`."""

import logging
import time
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import OperationFailed
from amphora_agent.processes.command import run
from amphora_agent.processes.supervisor import Mark, ProcessSpec, ProcessState

logger = logging.getLogger(__name__)

#: Seconds for a systemctl call that waits for a unit: above the units' own time limits.
_PATIENCE = 60.0

#: Present exactly when systemd is PID 1 (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")


def is_booted() -> bool:
    """Whether systemd manages this machine."""
    return _BOOTED.is_dir()


def restart(unit: str) -> None:
    """Start a unit that is part of the installation, again if it has ended, and await that.

    Raises:
        OperationFailed: it cannot be started.
    """
    _systemctl("restart", unit)


class SystemdSupervisor:
    """Implements `Supervisor` with units in `units` (normally /etc/systemd/system)."""

    notified = True

    def __init__(self, units: Path) -> None:
        self._units = units
        self.wanted = units / "multi-user.target.wants"

    def start(self, spec: ProcessSpec) -> None:
        unit = self._unit_path(spec.name)
        text = unit_text(spec).encode()
        if not files.has(unit, text):
            files.write(unit, text, files.PUBLIC)
            _systemctl("daemon-reload")
        _systemctl("enable", unit.name)
        # After a series of failures systemd refuses further starts until told to forget them.
        run(("systemctl", "reset-failed", unit.name), timeout=_PATIENCE)
        _systemctl("start", unit.name)

    def stop(self, name: str) -> None:
        unit = self._unit_path(name)
        if unit.exists():
            _systemctl("disable", unit.name)
            _systemctl("stop", unit.name)

    def reload(self, name: str) -> None:
        _systemctl("reload", f"{name}.service")

    def forget(self, name: str) -> None:
        self.stop(name)
        if files.remove(self._unit_path(name)):
            _systemctl("daemon-reload")

    def retire(self, name: str) -> None:
        unit = self._unit_path(name)
        if unit.exists():
            _systemctl("disable", unit.name)
            files.write(unit, _retiring(unit.read_text()).encode(), files.PUBLIC)
            _systemctl("daemon-reload")
            _systemctl("stop", unit.name)
            files.remove(unit)
            _systemctl("daemon-reload")

    def state(self, name: str) -> ProcessState:
        if not self._unit_path(name).exists():
            return ProcessState.STOPPED
        shown = run(
            ("systemctl", "show", "--property=ActiveState,UnitFileState", f"{name}.service"),
            timeout=_PATIENCE,
        ).output
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        if values.get("ActiveState") in {"active", "reloading"}:
            return ProcessState.RUNNING
        wanted = values.get("UnitFileState") == "enabled"
        return ProcessState.FAILED if wanted else ProcessState.STOPPED

    def mark(self, name: str) -> Mark:
        return Mark(time.time())

    def output(self, name: str, since: Mark) -> str:
        # What a process has said just now may still be on its way into the journal.
        run(("journalctl", "--sync"), timeout=_PATIENCE)
        return run(
            (
                "journalctl",
                f"--unit={name}.service",
                f"--since=@{since:.6f}",
                "--output=cat",
                "--no-pager",
                "--lines=200",
            ),
            timeout=_PATIENCE,
        ).output

    def adopt(self) -> None:
        """Nothing to do: systemd has kept everything running."""

    resume = adopt

    def _unit_path(self, name: str) -> Path:
        return self._units / f"{name}.service"


def unit_text(spec: ProcessSpec) -> str:
    """The unit of a process.

    Raises:
        OperationFailed: a word of the command has a character that a unit file would interpret,
            or none at all.
    """
    for word in spec.argv:
        if not word or not word.isprintable() or set(word) & set("\"'\\%$ ;"):
            raise OperationFailed(f"Cannot write the unit {spec.name}", f"unsafe word {word!r}")
    return templates.render("systemd", spec.template, spec=spec, command=" ".join(spec.argv))


def _retiring(text: str) -> str:
    """A unit that is stopped at once, while its process goes on until its work is done. Otherwise
    the unit would be active as long, and its name not free."""
    return f"{text}\n[Service]\nKillMode=none\nExecStop=-/bin/kill -USR1 $MAINPID\n"


def _systemctl(*arguments: str) -> None:
    done = run(("systemctl", *arguments), timeout=_PATIENCE)
    if not done.succeeded:
        raise OperationFailed(f"systemctl {' '.join(arguments)} failed", done.output.strip())
