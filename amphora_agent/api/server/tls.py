"""Make the server's context of mutual TLS, and a new one when its files change."""

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.settings.reader import Settings

logger = logging.getLogger(__name__)

_NO_CERTIFICATE = "no usable certificate with its key"
_NO_AUTHORITY = "no usable authority of the controllers"


class WorkerSettings(msgspec.Struct, frozen=True, tag="settings"):
    """The contents of TLS files, and settings, for the worker that receives. Later ones have a
    higher `version`; `patience` are the seconds for a body or an answer."""

    version: int
    certificate: bytes
    authorities: bytes
    newest_only: bool
    patience: float
    debug: bool


class UnusableTlsFile(AgentError):
    """The API cannot be served with the file at `path`; the text names it and says why."""

    def __init__(self, path: str, what: str, error: OSError) -> None:
        words = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        super().__init__("Cannot serve TLS", f"{path}: {what}: {words or error}")
        self.path = path


class ServerTls:
    """Has the TLS context for new connections.

    Established connections keep their context: a new certificate disturbs none. Unusable files are
    reported, and the last good context stays: an unreachable agent could not be repaired. At the
    start, that is a context with the certificate before (`.previous`).
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        alarms: Alarms,
        revocation_list: Path | None = None,
    ) -> None:
        """A change of `revocation_list` makes a new context, without the old one's sessions."""
        self._settings = settings
        self._alarms = alarms
        self._revocation_list = revocation_list
        self._lock = threading.Lock()
        self._key: object = None
        #: Both are made at the first use: the arbiter must not have the key in its memory.
        self._good: WorkerSettings | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Costs some `stat` if nothing has changed.

        Raises:
            UnusableTlsFile: as `worker_settings`.
        """
        self.worker_settings()
        assert self._context is not None
        return self._context

    def worker_settings(self) -> WorkerSettings:
        """Return the contents of the last good files, with settings.

        Raises:
            UnusableTlsFile: there have never been good files.
        """
        settings = self._settings()
        key = self._identify_files(settings)
        good = self._good
        if good is not None and key == self._key and _has_settings(good, settings):
            return good
        with self._lock:
            if self._good is None or key != self._key:
                self._good, self._context = self._read(settings)
                self._key = key
            if not _has_settings(self._good, settings):
                self._good = _with_settings(self._good, settings)
            return self._good

    def _read(self, settings: Settings) -> tuple[WorkerSettings, ssl.SSLContext]:
        if self._good is None or self._context is None:
            good, error = read_first_files(settings)
            if error is not None:
                consequence = f"{_name_previous(settings)} is used instead: push a good certificate"
                self._report(error, consequence)
                return good, make_context_of(good)
        else:
            try:
                good = read_files(settings)
            except UnusableTlsFile as unusable:
                self._report(unusable, "the last good ones stay in use")
                return self._good, self._context
            logger.info("the agent's TLS files were taken up again")
        for path in (settings.agent_server_cert, settings.agent_server_ca):
            self._alarms.clear_alarm(AlarmKind.AGENT_TLS, path)
        return good, make_context_of(good)

    def _report(self, error: UnusableTlsFile, consequence: str) -> None:
        self._alarms.set_alarm(AlarmKind.AGENT_TLS, error.path, f"{error}; {consequence}")

    def _identify_files(self, settings: Settings) -> tuple[object, ...]:
        paths = settings.agent_server_cert, settings.agent_server_ca
        return (
            *((path, files.signature(Path(path))) for path in paths),
            settings.agent_tls_protocol,
            self._revocation_list and files.signature(self._revocation_list),
        )


def _has_settings(good: WorkerSettings, settings: Settings) -> bool:
    return (good.patience, good.debug) == (settings.agent_request_read_timeout, settings.debug)


def _with_settings(good: WorkerSettings, settings: Settings) -> WorkerSettings:
    return msgspec.structs.replace(
        good,
        version=time.monotonic_ns(),
        patience=settings.agent_request_read_timeout,
        debug=settings.debug,
    )


def read_first_files(settings: Settings) -> tuple[WorkerSettings, UnusableTlsFile | None]:
    """Read the files to start with: if the certificate cannot be used, the one before it. Return
    also the error of the first one.

    Raises:
        UnusableTlsFile: there is none before it, or that is no better.
    """
    try:
        return read_files(settings), None
    except UnusableTlsFile as error:
        if error.path != settings.agent_server_cert:
            raise
        try:
            return read_files(settings, certificate=_name_previous(settings)), error
        except UnusableTlsFile:
            raise error from None


def _name_previous(settings: Settings) -> str:
    return f"{settings.agent_server_cert}.previous"


def read_files(settings: Settings, certificate: str | None = None) -> WorkerSettings:
    """Return the contents of the files, which make a context. `certificate` replaces the path in
    the settings.

    Raises:
        UnusableTlsFile: a file is missing, unusable, or key and certificate do not belong together.
    """
    certificate = certificate or settings.agent_server_cert
    authority = settings.agent_server_ca
    contents = WorkerSettings(
        version=time.monotonic_ns(),
        certificate=_read_file(certificate, _NO_CERTIFICATE),
        authorities=_read_file(authority, _NO_AUTHORITY),
        newest_only=settings.agent_tls_protocol == "TLSv1.3",
        patience=settings.agent_request_read_timeout,
        debug=settings.debug,
    )
    make_context_of(contents, certificate, authority)
    return contents


def _read_file(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnusableTlsFile(path, what, error) from error


def make_context_of(
    contents: WorkerSettings, certificate: str = "", authority: str = ""
) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer, which requires a client certificate of the
    controller's CA. `certificate` and `authority` are the names of the files for errors.

    Raises:
        UnusableTlsFile: one is unusable, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    newest = ssl.TLSVersion.TLSv1_3 if contents.newest_only else ssl.TLSVersion.TLSv1_2
    context.minimum_version = newest
    context.verify_mode = ssl.CERT_REQUIRED
    # Every connection shows its certificates anew.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # An encrypted key must not make OpenSSL ask at the terminal for its passphrase.
        _load(contents.certificate, lambda path: context.load_cert_chain(path, password=""))
    except OSError as error:
        raise UnusableTlsFile(certificate, _NO_CERTIFICATE, error) from error
    try:
        _load(contents.authorities, context.load_verify_locations)
    except OSError as error:
        raise UnusableTlsFile(authority, _NO_AUTHORITY, error) from error
    return context


def _load(content: bytes, load: Callable[[str], None]) -> None:
    """Have OpenSSL load a file with this content, from memory."""
    with os.fdopen(os.memfd_create("tls"), "wb") as file:
        file.write(content)
        file.flush()
        load(f"/proc/self/fd/{file.fileno()}")
