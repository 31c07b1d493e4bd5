"""Direct log messages to standard error (often systemd's journal), or to syslog if the settings
want it."""

import logging
import os
import queue
import sys
import threading
from pathlib import Path

from amphora_agent.settings.reader import Settings

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
#: The name in the log: `journalctl -t amphora-agent` finds it.
_TAG = "amphora-agent"
_SYSLOG = Path("/dev/log")

#: Messages that wait for a slow journal or disk; further ones are dropped.
_MOST_WAITING = 10_000

#: syslog's priorities, which systemd reads at the beginning of a line (sd-daemon(3)).
_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def set_up(settings: Settings, *, of_command: bool = False) -> None:
    """Direct all logging of this process and its children.

    A command at a terminal logs only warnings and errors: its output is the answer.
    """
    to_journal = _stderr_is_journal()
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_JournalFormatter() if to_journal else logging.Formatter(_FORMAT))
    if settings.use_syslog and _SYSLOG.exists():
        handler = _make_syslog_handler(settings, handler)
    elif of_command and not to_journal and not settings.debug:
        handler.setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a log that cannot be written is no error of its own
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(settings)


def set_level(settings: Settings) -> None:
    """Log as much as `settings` want."""
    logging.getLogger().setLevel(logging.DEBUG if settings.debug else logging.INFO)


class WaitingLog(logging.Handler):
    """Takes messages without waiting for a journal or a disk that may stall. A thread passes them
    to the handlers that were installed before."""

    def __init__(self) -> None:
        super().__init__()
        root = logging.getLogger()
        self._handlers = [*root.handlers]
        self._waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pass_on, name="log", daemon=True)
        self._thread.start()
        root.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() < _MOST_WAITING:
            # Formatted now: the arguments may change.
            record.msg, record.args = record.getMessage(), None
            self._waiting.put(record)

    def finish(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all messages are passed on."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _pass_on(self) -> None:
        while (record := self._waiting.get()) is not None:
            for handler in self._handlers:
                handler.handle(record)


def _stderr_is_journal() -> bool:
    """Return whether systemd's journal reads standard error, as the environment says."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or none at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _JournalFormatter(logging.Formatter):
    """Formats each line with its priority; the journal adds the time and the process."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        level = max(
            (known for known in _PRIORITIES if known <= record.levelno), default=logging.DEBUG
        )
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{_PRIORITIES[level]}>{line}" for line in lines)


def _make_syslog_handler(settings: Settings, otherwise: logging.Handler) -> logging.Handler:
    # Imported here: it is a tenth of a short command's start time.
    from logging.handlers import SysLogHandler

    class Syslog(SysLogHandler):
        """Sends messages that syslog does not take to standard error."""

        def handleError(self, record: logging.LogRecord) -> None:
            otherwise.handle(record)

    facility = settings.syslog_log_facility.upper().removeprefix("LOG_").lower()
    codes = SysLogHandler.facility_names
    handler = Syslog(str(_SYSLOG), codes.get(facility, codes["user"]))
    handler.append_nul = False  # some readers take it for a part of the message
    handler.setFormatter(logging.Formatter(f"{_TAG}[%(process)d]: %(name)s: %(message)s"))
    return handler
