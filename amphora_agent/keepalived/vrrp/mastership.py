"""Record each change of state of keepalived's VRRP instances: who holds the VIPs.

keepalived writes each change to a FIFO, and never waits for a reader. What it wrote while no agent
read stays there as long as a process holds the FIFO open. The FIFO misses some changes: those for
which it had no room, the end of keepalived, and those of a keepalived that runs with the text of an
earlier agent. So the watch also looks, every few seconds, whether keepalived runs and whether the
VIPs are there. A contradiction to the FIFO counts when it is seen twice.
"""

import contextlib
import enum
import ipaddress
import logging
import os
import select
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError
from amphora_agent.events.journal import Journal
from amphora_agent.keepalived.config import vrrp as config_vrrp
from amphora_agent.keepalived.config.language import ConfigError
from amphora_agent.keepalived.program import is_running
from amphora_agent.model.addressing import Address
from amphora_agent.model.events import Difference, Operation, Part
from amphora_agent.paths import VrrpLayout

logger = logging.getLogger(__name__)

#: Seconds between two looks whether keepalived runs and where the VIPs are.
_LOOK = 2.0
#: Looks that must agree before they count against the FIFO.
_LOOKS = 2
#: Bytes read from the FIFO at once.
_READ = 1 << 16


class VrrpState(enum.StrEnum):
    """keepalived's states, and one for an instance without keepalived."""

    MASTER = "MASTER"
    BACKUP = "BACKUP"
    FAULT = "FAULT"
    STOPPED = "STOPPED"


_Known = dict[str, VrrpState]


class Mastership:
    """Watches the VRRP instances. `addresses` returns those of the amphora's namespace."""

    def __init__(
        self,
        vrrp: VrrpLayout,
        addresses: Callable[[], Collection[Address]],
        journal: Journal,
        *,
        running: Callable[[VrrpLayout], bool] = is_running,
        look: float = _LOOK,
    ) -> None:
        self._vrrp = vrrp
        self._addresses = addresses
        self._journal = journal
        self._running = running
        self._look_pause = look
        self._known: _Known = _load(vrrp.states)
        #: By instance, the state that looks saw instead of the known one, and how often in a row.
        self._doubts: dict[str, tuple[VrrpState, int]] = {}
        self._vips: tuple[object, dict[str, frozenset[Address]]] = None, {}
        self._fifo: int | None = None
        self._rest = b""
        #: Why the FIFO cannot be opened, logged once.
        self._refusal = ""

    def watch(self) -> None:
        """Record changes until the process ends."""
        while True:
            try:
                self.step()
            except Exception:  # nobody would start this thread again
                logger.exception("cannot look at the state of VRRP: the next look follows")
                time.sleep(self._look_pause)

    def step(self) -> None:
        """Record what keepalived writes within some seconds; if that is nothing, look."""
        if not self._vrrp.configuration.exists():
            time.sleep(self._look_pause)
            return
        self._open()
        if self._read_fifo():
            self._doubts.clear()
        else:
            self._look()

    def close(self) -> None:
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None

    # What keepalived writes

    def _open(self) -> None:
        """Hold open the FIFO that has the name now: a keepalived that made the FIFO removes it when
        it ends and when it reloads."""
        with contextlib.suppress(OSError):
            if self._fifo is not None and os.path.samestat(
                os.fstat(self._fifo), self._vrrp.fifo.lstat()
            ):
                return
        if self._fifo is not None:
            self._record_lines(self._fifo)
        self.close()
        self._rest = b""
        try:
            # For reading and writing: there is no end of file between two keepaliveds.
            self._fifo = files.open_fifo(self._vrrp.fifo)
        except OSError as error:
            if str(error) != self._refusal:
                logger.warning("%s: changes of VRRP are seen late: %s", self._vrrp.fifo, error)
            self._refusal = str(error)
        else:
            self._refusal = ""

    def _read_fifo(self) -> bool:
        """Record what keepalived wrote; return whether it wrote anything."""
        if self._fifo is None:
            time.sleep(self._look_pause)
            return False
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        return bool(poll.poll(self._look_pause * 1000)) and self._record_lines(self._fifo)

    def _record_lines(self, fifo: int) -> bool:
        """Record what is in the FIFO."""
        try:
            content = os.read(fifo, _READ)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            change = _parse_line(line)
            if change is not None:
                self._record(*change, "keepalived says so")
        return bool(lines)

    # What is seen

    def _look(self) -> None:
        seen = self._find_states()
        for instance, state in seen.items():
            known = self._known.get(instance)
            if known is state or (state is VrrpState.BACKUP and known is VrrpState.FAULT):
                self._doubts.pop(instance, None)
                continue
            before, looks = self._doubts.get(instance, (state, 0))
            looks = looks + 1 if before is state else 1
            if looks < _LOOKS:
                self._doubts[instance] = state, looks
            else:
                self._doubts.pop(instance, None)
                self._record(instance, state, "seen by its processes and addresses")

    def _find_states(self) -> _Known:
        """Return the states that can be seen; none of an instance that never ran."""
        if not self._running(self._vrrp):
            return dict.fromkeys(self._known, VrrpState.STOPPED)
        try:
            present = frozenset(self._addresses())
        except (AgentError, OSError):  # no namespace: its maker reports that
            return {}
        return {
            name: VrrpState.MASTER if addresses & present else VrrpState.BACKUP
            for name, addresses in self._read_vips().items()
        }

    def _read_vips(self) -> dict[str, frozenset[Address]]:
        """Return the configured VIPs of each instance. Parse again only a file that changed."""
        signature = files.signature(self._vrrp.configuration)
        if signature != self._vips[0]:
            self._vips = signature, self._parse_vips()
        return self._vips[1]

    def _parse_vips(self) -> dict[str, frozenset[Address]]:
        try:
            configuration = self._vrrp.configuration.read_bytes()
            vips = config_vrrp.find_vips(configuration, str(self._vrrp.check_script))
        except (OSError, ConfigError):  # the service reports it
            return {}
        return {
            name: frozenset(map(ipaddress.ip_address, addresses))
            for name, addresses in vips.items()
        }

    # The record

    def _record(self, instance: str, state: VrrpState, how: str) -> None:
        before = self._known.get(instance)
        if before is state:
            return
        level = logging.INFO if state in (VrrpState.MASTER, VrrpState.BACKUP) else logging.WARNING
        logger.log(level, "vrrp instance=%s state %s -> %s: %s", instance, before, state, how)
        self._journal.report(
            Part.VRRP,
            instance,
            Operation.MASTERSHIP,
            [how],
            [Difference("state", before, state)],
        )
        self._known[instance] = state
        with contextlib.suppress(OSError):  # the next agent may record it once more
            files.replace_unsynced(self._vrrp.states, msgspec.json.encode(self._known))


def _parse_line(line: bytes) -> tuple[str, VrrpState] | None:
    """Return the instance and its state, of a line `INSTANCE "name" MASTER 100`."""
    words = line.decode("latin-1").rsplit(" ", 2)
    if len(words) != 3 or not words[0].startswith("INSTANCE "):
        return None
    name = words[0].removeprefix("INSTANCE ").strip('"')
    with contextlib.suppress(ValueError):
        return name, VrrpState(words[1])
    return None  # a word of keepalived that does not say who holds the VIPs


def _load(path: Path) -> _Known:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Known)
    except (OSError, msgspec.MsgspecError):
        return {}
