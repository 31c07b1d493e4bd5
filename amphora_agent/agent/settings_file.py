"""What the controller has decided: its file of settings, and the API version that it speaks."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.settings import policy
from amphora_agent.settings.reader import Settings, SettingsError, decode_settings

logger = logging.getLogger(__name__)


class ChosenSettings(msgspec.Struct, frozen=True, tag=True):
    """The settings that an agent starts with, without secrets, the file that they are of, and the
    signature of the file that was looked at first."""

    settings: Settings
    source: str
    signature: tuple[int, int, int] | None


def read(path: Path) -> Settings:
    """Read the file at `path`.

    Raises:
        SettingsError: it cannot be read, or not be used.
    """
    return decode_settings(_read_bytes(path), str(path))


def _read_bytes(path: Path) -> bytes:
    """Return the content of the file. Raises as `read`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(str(path), error.strerror or type(error).__name__) from None


def _accept(settings: Settings) -> None:
    """Accept any settings that can be read."""


class SettingsFile:
    """The settings as they are now: read again when the file has been replaced.

    Each process has its own, so a change reaches them all without messages between them. A file
    that cannot be used is reported, and the last good settings stay. At the start these are those
    of the file `.previous`: the last one with which an agent has served.

    `require_usable` raises an AgentError for settings that a process cannot start with.
    """

    def __init__(
        self,
        path: Path,
        *,
        alarms: Alarms | None = None,
        require_usable: Callable[[Settings], None] = _accept,
        chosen: ChosenSettings | None = None,
    ) -> None:
        """Choose the settings to start with, or take those `chosen` by another process: then their
        file is read at the first use, by each process that is forked before.

        Raises:
            AgentError: neither file can be used.
        """
        self.path = path
        self.previous = path.with_name(f"{path.name}.previous")
        self._alarms = alarms
        self._lock = threading.Lock()
        #: The file of settings of which this process has no secrets yet.
        self._unread: Path | None = None
        if chosen is not None:
            self._settings = self._started = chosen.settings
            self._data = b""
            self._unread, self._signature = Path(chosen.source), chosen.signature
            return
        self._signature = files.signature(path)
        self._source = path
        try:
            self._settings, self._data = self._start(path, require_usable)
        except AgentError as error:
            self._source = self.previous
            try:
                self._settings, self._data = self._start(self.previous, require_usable)
            except AgentError as other:
                if not self.previous.exists():
                    raise error from None
                raise AgentError(error.message, f"{error.details}; nor {other.details}") from None
            self._report(f"{error}; the agent uses {self.previous} instead: push a good one")
        else:
            self._clear()
        self._started = self._settings

    def chosen(self) -> ChosenSettings:
        """Return what was chosen to start with."""
        settings = replace(self._started, heartbeat_key="")
        return ChosenSettings(settings, str(self._source), self._signature)

    def current(self) -> Settings:
        """Return the settings of the file. Costs one `stat` when nothing changed."""
        if self._unread is not None:
            self._read_chosen()
        signature = files.signature(self.path)
        if signature == self._signature:
            return self._settings
        with self._lock:
            if signature != self._signature:
                try:
                    data = _read_bytes(self.path)
                    self._signature = signature  # what the disk refuses now is read another time
                    self._settings, self._data = decode_settings(data, str(self.path)), data
                except SettingsError as error:
                    self._report(f"{error}; the settings before it stay in force")
                else:
                    logger.info("settings taken up again from %s", self.path)
                    self._clear()
        return self._settings

    def _read_chosen(self) -> None:
        with self._lock:
            if self._unread is None:
                return
            signature = files.signature(self._unread)
            try:
                data = _read_bytes(self._unread)
                self._settings, self._data = decode_settings(data, str(self._unread)), data
            except SettingsError as error:
                self._report(f"{error}; the settings of the start stay in force, without the key")
            if self._unread == self.path:
                self._signature = signature
            self._unread = None

    def in_force(self) -> Settings:
        """Return the settings that this process uses: those that are read only at the start are as
        they were then."""
        return policy.with_start_settings(self.current(), self._started)

    def store(self, data: bytes) -> None:
        """Put a new file in place. The file before becomes `.previous` if this agent could start
        with it. If not, or if the same content is stored again, the `.previous` stays.

        Raises:
            OSError: nothing is changed.
        """
        with files.Staged(self.path, data, files.PRIVATE) as staged:
            try:
                before = self.path.read_bytes()
            except OSError:
                before = self._data  # the last that could be read
            try:
                startable = not policy.differs_at_start(
                    self._started, decode_settings(before, str(self.path))
                )
            except SettingsError:
                startable = False
            if startable and before != data:
                files.write(self.previous, before)
            staged.commit()

    @staticmethod
    def _start(path: Path, require_usable: Callable[[Settings], None]) -> tuple[Settings, bytes]:
        data = _read_bytes(path)
        settings = decode_settings(data, str(path))
        try:
            require_usable(settings)
        except SettingsError:
            raise
        except AgentError as error:
            raise AgentError(error.message, f"{error.details} (settings of {path})") from error
        return settings, data

    def _report(self, text: str) -> None:
        if self._alarms is None:
            logger.error("%s", text)
        else:
            self._alarms.set_alarm(AlarmKind.CONFIGURATION, str(self.path), text)

    def _clear(self) -> None:
        if self._alarms is not None:
            self._alarms.clear_alarm(AlarmKind.CONFIGURATION, str(self.path))


class ControllerApi:
    """The version of the API in which the controller has last changed something. It decides about
    the form of heartbeats. The API's process writes it to the file `memory`, the heartbeat's reads
    it; `default` is used until then."""

    def __init__(self, memory: Path, default: str) -> None:
        self._memory = memory
        self._default = default
        self._lock = threading.Lock()

    def version(self) -> str:
        try:
            return self._memory.read_text(errors="replace").strip() or self._default
        except OSError:
            return self._default

    def record(self, version: str) -> None:
        """Remember the version of a change. The change is made by now, so a failure is logged."""
        with self._lock:
            if self.version() != version:
                try:
                    files.write(self._memory, f"{version}\n".encode())
                except OSError as error:
                    logger.error("%s: cannot be written: %s", self._memory, error)
                else:
                    logger.info("the controller speaks API %s", version)
