"""The records of the embedded supervisor: the processes that are wanted, on disk.

A disk that refuses keeps no process from being started or ended. A record that cannot be written is
kept in the directory of the output, normally in memory, as `<name>.record`; an alarm reports it,
and the supervisor writes it later.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.supervisor.contract import ProcessSpec

logger = logging.getLogger(__name__)


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is, or was, wanted. A pid identifies it only together with its start time."""

    spec: ProcessSpec
    wanted: bool
    pid: int | None = None
    start_time: str | None = None


class ProcessRecords:
    """Records in `records`, which survives a reboot; output in `output`, which need not.

    `refused` is called when the disk refuses a change. The caller sees to it that one thread at a
    time uses this.
    """

    def __init__(
        self, records: Path, output: Path, alarms: Alarms, refused: Callable[[], None]
    ) -> None:
        self._records = records
        self._output = output
        self._alarms = alarms
        self._report_refusal = refused
        #: The contents of files (None: no file) that the disk has refused to write.
        self._refused: dict[Path, bytes | None] = {}

    @property
    def has_refused(self) -> bool:
        """Whether `retry` has something to do."""
        return bool(self._refused)

    def save(self, record: ProcessRecord) -> None:
        name, data = record.spec.name, _encode(record)
        if self._change(self._record_path(name), data):
            self._change(self._copy_path(name), None)
        else:
            self._keep_copy(name, data)

    def remove(self, name: str, record: ProcessRecord | None) -> None:
        """Remove the record of a process that is neither wanted nor to be ended any more."""
        if self._change(self._record_path(name), None):
            self._change(self._copy_path(name), None)
        elif record is not None:
            gone = msgspec.structs.replace(record, wanted=False, pid=None, start_time=None)
            self._keep_copy(name, _encode(gone))

    def output_path(self, name: str) -> Path:
        """Return the file for the output of a process."""
        return self._output / f"{name}.log"

    def remove_output(self, name: str) -> None:
        self._change(self.output_path(name), None)

    def keep_output(self, name: str) -> None:
        """Do not remove the output of a process, which is needed again."""
        self._forget_refusal(self.output_path(name))

    def retry(self) -> None:
        """Try again what the disk has refused."""
        for path, data in [*self._refused.items()]:
            if self._change(path, data) and path.parent == self._records:
                self._change(self._copy_path(path.stem), None)

    def retry_earlier(self, current: Mapping[str, ProcessRecord]) -> None:
        """Try again what the disk refused to an earlier agent, as alarms tell. `current` are the
        records of the processes that are wanted."""
        for alarm in self._alarms.current():
            path = Path(alarm.subject)
            if alarm.kind != AlarmKind.PROCESS_FILE_REFUSED or path in self._refused:
                continue
            record = current.get(path.stem)
            if record is None or path == self._copy_path(path.stem):
                self._change(path, None)
            elif path == self._record_path(path.stem):
                self.save(record)
            else:  # the output of a process that runs again
                self._forget_refusal(path)

    def load(self) -> dict[str, tuple[ProcessRecord, bool]]:
        """Return the records by name, each with whether it is in its place and no copy."""
        loaded: dict[str, tuple[ProcessRecord, bool]] = {}
        records = sorted(self._records.glob("*.json"))
        # A copy is newer than the record.
        for path in (*records, *sorted(self._output.glob("*.record"))):
            try:
                record = msgspec.json.decode(
                    path.read_bytes(), type=ProcessRecord, dec_hook=lambda kind, value: kind(value)
                )
            except (OSError, msgspec.MsgspecError) as error:
                logger.error("%s: cannot be read, ignored: %s", path, error)
            else:
                loaded[record.spec.name] = record, path.parent == self._records
        return loaded

    def _record_path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _copy_path(self, name: str) -> Path:
        return self._output / f"{name}.record"

    def _keep_copy(self, name: str, data: bytes) -> None:
        path = self._copy_path(name)
        self._forget_refusal(path)
        try:
            files.make_directory(self._output)
            files.replace_unsynced(path, data)
        except OSError:  # memory serves, and an older copy must not contradict it
            self._change(path, None)

    def _change(self, path: Path, data: bytes | None) -> bool:
        """Write a file, or remove it (None). If the disk refuses, raise an alarm, keep the change
        for `retry`, and return False."""
        try:
            if data is not None:
                files.write(path, data)
            elif os.path.lexists(path):  # a read-only disk refuses even to remove nothing
                files.remove(path)
        except OSError as error:
            self._refused[path] = data
            action = "remove" if data is None else "write"
            self._alarms.set_alarm(
                AlarmKind.PROCESS_FILE_REFUSED,
                str(path),
                f"cannot {action} this file of a process: {error.strerror}; processes run as they "
                "should, but an agent that starts now may not know: check the disk",
            )
            self._report_refusal()
            return False
        self._forget_refusal(path)
        return True

    def _forget_refusal(self, path: Path) -> None:
        self._refused.pop(path, None)
        self._alarms.clear_alarm(AlarmKind.PROCESS_FILE_REFUSED, str(path))


def _encode(record: ProcessRecord) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)
