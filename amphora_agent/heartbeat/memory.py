"""The memory of reported counters: no increase is reported twice.

An increase is sent only after the counters that include it have been written, so after any end of
the agent the memory has at least what was sent. What it has beyond that is lost: the increases of
one interval, at most.

Threads write the memory to two files: on disk, and in the run directory, which is memory of the
machine. One of the two is enough. Only power loss loses the second, and it ends all workers whose
counters are in there. While neither can be written, increases wait: heartbeats go out at their
intervals, with no increases, and the first successful write releases them. Waiting increases are
lost when the worker that has counted them ends unread, or the memory is damaged.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from amphora_agent.events.alarms import Alarms
from amphora_agent.heartbeat import message
from amphora_agent.heartbeat.message import Reported
from amphora_agent.model.events import AlarmKind
from amphora_agent.model.status import Counters, InstanceReading
from amphora_agent.slots import Slot, SlotFile

logger = logging.getLogger(__name__)

#: Accounts that wait for their writes one by one; later ones are merged.
_MOST_WAITING = 8


class Saved(msgspec.Struct, frozen=True):
    """The content of a file: the reported counters, and the boot that they are of."""

    boot: str
    reported: dict[str, dict[str, dict[str, Counters]]]


class CounterMemory:
    """Accounts for readings, writes the accounts, and releases increases that are written.

    One thread calls `account`, another one `take`; neither waits for a file. The threads that do
    begin with `start`. `boot` is the id of this boot.
    """

    def __init__(
        self,
        files: Sequence[SlotFile],
        boot: str,
        alarms: Alarms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keepers = [_Keeper(file, alarms, clock) for file in files]
        self._boot = boot
        self._number = 0
        self._reported: Reported | None = None
        self._forgetful = False
        #: Instances whose counters an agent whose memory is lost may have reported.
        self._doubtful: set[str] = set()
        self._waiting: deque[tuple[int, Mapping[str, Counters]]] = deque()

    def start(self) -> None:
        """Read the files, and write them from then on, each in a thread of its own."""
        for keeper in self._keepers:
            threading.Thread(target=keeper.run, name="counters", daemon=True).start()

    @property
    def written(self) -> int:
        """The number of the newest accounts that are written."""
        return max(keeper.written for keeper in self._keepers)

    def account(
        self, readings: Mapping[str, InstanceReading], *, complete: bool = True
    ) -> int | None:
        """Account for readings; return the number of these accounts. While the files are not read
        yet, do nothing and return None. Unless the readings are `complete`, an instance without a
        reading is not gone, and its reported counters are remembered."""
        if self._reported is None:
            self._reported = self._load()
            if self._reported is None:
                return None
        if self._forgetful:
            self._forgetful = not complete
            self._doubtful.update(readings.keys() - self._reported.keys())
        increase, reported = message.find_increases(readings, self._reported)
        if not complete:
            reported = {**self._reported, **reported}
        if reported == self._reported:
            return self._number
        self._reported = reported
        self._number += 1
        self._hold(self._drop_doubtful(increase, readings))
        payload = msgspec.json.encode({"boot": self._boot, "reported": reported})
        for keeper in self._keepers:
            keeper.write(Slot(self._number, payload))
        return self._number

    def take(self) -> dict[str, Counters]:
        """Return the increases that may be sent now; from here on they are the caller's."""
        written, taken = self.written, dict[str, Counters]()
        while self._waiting and self._waiting[0][0] <= written:
            taken = message.sum_counters((taken, self._waiting.popleft()[1]))
        return taken

    def give_back(self, increase: Mapping[str, Counters]) -> None:
        """Take back increases that no message has reported."""
        if increase:
            self._waiting.appendleft((0, increase))

    def totals(self) -> dict[str, Counters]:
        """Return what each listener has counted since its beginning."""
        return message.sum_reported(self._reported or {})

    def review(self, patience: float) -> None:
        """Report a write that has taken longer than `patience` seconds."""
        for keeper in self._keepers:
            keeper.review(patience)

    def _hold(self, increase: Mapping[str, Counters]) -> None:
        grown = {name: counted for name, counted in increase.items() if any(counted)}
        if len(self._waiting) >= _MOST_WAITING:
            # The write of this number covers the last one, too.
            with contextlib.suppress(IndexError):  # all have been taken meanwhile
                grown = message.sum_counters((self._waiting.pop()[1], grown))
        if grown:
            self._waiting.append((self._number, grown))

    def _load(self) -> Reported | None:
        """Return the newest content of the files; None while one of them is still being read."""
        if not all(keeper.read for keeper in self._keepers):
            return None
        slots = [keeper.loaded for keeper in self._keepers if keeper.loaded is not None]
        for slot in sorted(slots, reverse=True):
            self._number = max(self._number, slot.number)
            try:
                saved = msgspec.json.decode(slot.payload, type=Saved)
            except msgspec.MsgspecError as error:
                logger.error("the memory of counters makes no sense: %s", error)
                continue
            if saved.boot != self._boot:
                return message.move_to_gone(saved.reported)
            return saved.reported
        logger.info("no memory of counters: increases are told from now on")
        self._forgetful = True
        return {}

    def _drop_doubtful(
        self, increase: Mapping[str, Counters], readings: Mapping[str, InstanceReading]
    ) -> Mapping[str, Counters]:
        """Return the increases without those that may have been reported before the memory was
        lost."""
        dropped: set[str] = set()
        for instance_id in self._doubtful & readings.keys():
            reading = readings[instance_id]
            dropped.update(reading.listeners)
            if reading.current is not None and reading.complete:
                self._doubtful.discard(instance_id)
        return {name: counted for name, counted in increase.items() if name not in dropped}


class _Keeper:
    """Writes one file: the newest slot, as soon as the one before is written."""

    def __init__(self, file: SlotFile, alarms: Alarms, clock: Callable[[], float]) -> None:
        self._file = file
        self._alarms = alarms
        self._clock = clock
        self._wanted: Slot | None = None
        self._wake = threading.Event()
        self._began: float | None = None
        self.read = False
        self.loaded: Slot | None = None
        self.written = 0

    def write(self, slot: Slot) -> None:
        self._wanted = slot
        self._wake.set()

    def review(self, patience: float) -> None:
        began = self._began
        if began is not None and self._clock() - began > patience:
            self._report(f"no answer of the disk for {patience:g} s")

    def run(self) -> None:
        """Read the file, then write it whenever there is something new."""
        try:
            self.loaded = self._file.read()
            self.written = self.loaded.number if self.loaded else 0
        except OSError as error:
            self._report(str(error))
        self.read = True
        while True:
            self._wake.wait()
            self._wake.clear()
            slot, self._wanted = self._wanted, None
            if slot is not None:
                self._write(slot)

    def _write(self, slot: Slot) -> None:
        self._began = self._clock()
        try:
            self._file.write(slot.number, slot.payload)
        except OSError as error:  # the next interval tries again
            self._report(str(error))
        else:
            self.written = slot.number
            self._alarms.clear_alarm(AlarmKind.COUNTERS_NOT_SAVED, str(self._file.path))
        finally:
            self._began = None

    def _report(self, reason: str) -> None:
        self._alarms.set_alarm(
            AlarmKind.COUNTERS_NOT_SAVED,
            str(self._file.path),
            f"cannot write down what heartbeats have told: {reason}; free or repair the disk. "
            "Increases of counters are told while the other file can be written",
        )
