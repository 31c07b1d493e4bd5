"""The supervisor of an amphora: systemd. Each process has a unit, rendered from `systemd/`."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.errors import OperationFailed
from amphora_agent.supervisor import output as supervisor_output
from amphora_agent.supervisor.contract import Mark, ProcessSpec, ProcessState
from amphora_agent.supervisor.processes import run

logger = logging.getLogger(__name__)

#: Seconds for a systemctl call that waits for a unit: above the units' own time limits.
_PATIENCE = 60.0

#: Prefixes of the names of the agent's units.
_PREFIXES = ("haproxy-", "octavia-")

#: Seconds between two looks for restarts by systemd, and at the output of processes.
_LOOK = 10.0
#: Lines of the journal that are read at one look, and their characters.
_MOST_LINES, _MOST_OUTPUT = 2000, 2 << 20

#: Present exactly when systemd is PID 1 (sd_booted(3)).
_BOOTED = Path("/run/systemd/system")


def is_booted() -> bool:
    """Return whether systemd manages this machine."""
    return _BOOTED.is_dir()


def restart(*units: str) -> None:
    """Start units of the installation, also if they have ended, and wait for that.

    Raises:
        OperationFailed: they cannot be started.
    """
    _systemctl("restart", *units)


class SystemdSupervisor:
    """Implements `Supervisor` with units in `units` (normally /etc/systemd/system).

    Args:
        died: called for each process that ended by itself, with its name and the reason.
        cursor: a file that keeps the place up to which the journal has been read.
    """

    notified = True

    def __init__(
        self,
        units: Path,
        died: Callable[[str, str], None] | None = None,
        cursor: Path | None = None,
    ) -> None:
        self._units = units
        self._died = died
        self._cursor = cursor
        self._watcher: threading.Thread | None = None
        self.wanted = units / "multi-user.target.wants"

    def start(self, spec: ProcessSpec) -> None:
        unit = self._unit_path(spec.name)
        text = render_unit(spec).encode()
        if not files.has(unit, text):
            files.write(unit, text, files.PUBLIC)
            _systemctl("daemon-reload")
        _systemctl("enable", unit.name)
        # After a series of failures systemd refuses starts until they are reset.
        run(("systemctl", "reset-failed", unit.name), timeout=_PATIENCE)
        _systemctl("start", unit.name)

    def stop(self, name: str) -> None:
        unit = self._unit_path(name)
        if unit.exists():
            _end_enabled(unit.name)

    def reload(self, name: str) -> None:
        _systemctl("reload", f"{name}.service")

    def forget(self, name: str) -> None:
        self.stop(name)
        if files.remove(self._unit_path(name)):
            _systemctl("daemon-reload")

    def retire(self, name: str) -> None:
        unit = self._unit_path(name)
        if unit.exists():
            try:
                files.write(unit, _add_retirement(unit.read_text()).encode(), files.PUBLIC)
                _systemctl("daemon-reload")
            except OSError as error:
                logger.warning("%s ends at once, without finishing its work: %s", name, error)
            _end_enabled(unit.name)
            files.remove(unit)
            _systemctl("daemon-reload")

    def state(self, name: str) -> ProcessState:
        if not self._unit_path(name).exists():
            return ProcessState.STOPPED
        values = _show("ActiveState,UnitFileState", f"{name}.service")[0]
        if values.get("ActiveState") in {"active", "reloading"}:
            return ProcessState.RUNNING
        wanted = values.get("UnitFileState") == "enabled"
        return ProcessState.FAILED if wanted else ProcessState.STOPPED

    def mark(self, name: str) -> Mark:
        return Mark(time.time())

    def output(self, name: str, since: Mark) -> str:
        # The last lines of a process may still be on their way into the journal.
        run(("journalctl", "--sync"), timeout=_PATIENCE)
        place = f"--unit={name}.service", f"--since=@{since:.6f}"
        form = "--output=cat", "--no-pager", "--lines=200"
        return run(("journalctl", *place, *form), timeout=_PATIENCE).output

    def prepare_restarts(self, prepare: Callable[[str], None]) -> None:
        """Nothing to do: the units have `before`."""

    def adopt(self) -> None:
        """Nothing to do: systemd has kept the processes."""

    def resume(self) -> None:
        """Watch for restarts in a thread; systemd starts what is wanted."""
        if self._died is not None and self._watcher is None:
            watch = functools.partial(_watch, self.wanted, self._died, self._cursor)
            self._watcher = threading.Thread(target=watch, name="restarts", daemon=True)
            self._watcher.start()

    def _unit_path(self, name: str) -> Path:
        return self._units / f"{name}.service"


def render_unit(spec: ProcessSpec) -> str:
    """Return the text of the unit of a process.

    Raises:
        OperationFailed: a word of the command, or a path, is empty or has a character that a unit
            file interprets.
    """
    plain = (*spec.before, *spec.argv, str(spec.namespace), *map(str, spec.writable))
    for word in plain:
        if not word or not word.isprintable() or set(word) & set("\"'\\%$ ;"):
            raise OperationFailed(f"Cannot write the unit {spec.name}", f"unsafe word {word!r}")
    return templates.render(
        "systemd",
        spec.template,
        spec=spec,
        command=" ".join(spec.argv),
        before=" ".join(spec.before),
    )


def _end_enabled(unit: str) -> None:
    """Stop a unit and disable it. It is stopped even if the disk refuses to disable it; a
    repetition does that.

    Raises:
        OperationFailed: it could not be stopped, or not disabled.
    """
    try:
        _systemctl("disable", unit)
    finally:
        _systemctl("stop", unit)


def _add_retirement(text: str) -> str:
    """Return a unit whose stop returns at once, while its process finishes its work. Otherwise the
    unit would stay active, and its name not free."""
    retirement = "\n[Service]\nKillMode=none\nExecStop=-/bin/kill -USR1 $MAINPID\n"
    return text if text.endswith(retirement) else f"{text}{retirement}"


def _watch(wanted: Path, died: Callable[[str, str], None], cursor: Path | None) -> None:
    """Call `died` for processes that systemd has started again or given up, and log the serious
    lines of their output, without end."""
    known: dict[str, tuple[int, str]] = {}
    while True:
        try:
            units = sorted(path.name for path in wanted.glob("*.service"))
            units = [name for name in units if name.startswith(_PREFIXES)]
            now = dict(_read_restarts(units)) if units else {}
        except (OSError, OperationFailed) as error:
            logger.warning("cannot ask systemd for its restarts of processes: %s", error)
        else:
            for name, (count, state) in now.items():
                before, state_before = known.get(name, (count, state))
                if count > before:
                    died(name, f"ended; systemd has started it again, {count} times by now")
                elif state == "failed" != state_before:
                    died(name, "failed; systemd does not start it again")
            known = now
        if cursor is not None:
            _log_journal(cursor)
        time.sleep(_LOOK)


def _log_journal(cursor: Path) -> None:
    """Log the serious lines of the journal since the entry that `cursor` names."""
    # Not --boot: in a container, /proc/sys may be of another boot.
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        known = cursor.read_text() if cursor.exists() else ""
        journal = run(
            (
                *("journalctl", "--quiet", "--no-pager", f"--lines={_MOST_LINES}"),
                *("--output=json", "--output-fields=MESSAGE,_SYSTEMD_UNIT"),
                *(f"--unit={name}*.service" for name in _PREFIXES),
                f"--after-cursor={known}" if known else f"--since=@{booted:.0f}",
            ),
            timeout=_PATIENCE,
            most_output=_MOST_OUTPUT,
        )
        lines, last = supervisor_output.parse_journal(journal.output)
        supervisor_output.log_serious(lines)
        if last:
            files.replace_unsynced(cursor, last.encode())
        elif known and "cursor" in journal.output:  # the journal has dropped that entry
            files.remove(cursor)
        # Otherwise no unit has written anything.
    except (OSError, OperationFailed) as error:
        logger.warning("cannot read the output of processes: %s", error)


def _read_restarts(units: list[str]) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield each unit's name with its number of restarts and its state."""
    for values in _show("Id,NRestarts,ActiveState", *units):
        if values.get("NRestarts", "").isdigit():
            name = values["Id"].removesuffix(".service")
            yield name, (int(values["NRestarts"]), values.get("ActiveState", ""))


def _show(properties: str, *units: str) -> list[dict[str, str]]:
    """Return the properties of each unit by name, as far as systemd tells."""
    shown = run(("systemctl", "show", f"--property={properties}", *units), timeout=_PATIENCE)
    blocks = shown.output.split("\n\n")
    return [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]


def _systemctl(*arguments: str) -> None:
    done = run(("systemctl", *arguments), timeout=_PATIENCE)
    if not done.succeeded:
        raise OperationFailed(f"systemctl {' '.join(arguments)} failed", done.output.strip())
