"""Make the server's context of mutual TLS, and a new one when its files change."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import AgentError
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.settings.reader import Settings

logger = logging.getLogger(__name__)


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
        """Make the first context. A change of `revocation_list` makes a new one, without the
        sessions of the old one.

        Raises:
            UnusableTlsFile
        """
        self._settings = settings
        self._alarms = alarms
        self._revocation_list = revocation_list
        self._key = self._identify_files()
        self._context = self._begin(settings())

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Costs two `stat` if nothing has changed."""
        key = self._identify_files()
        if key != self._key:
            self._key = key
            settings = self._settings()
            try:
                self._context = make_context(settings)
            except UnusableTlsFile as error:
                self._report(error, "the last good ones stay in use")
            else:
                logger.info("the agent's TLS files were taken up again")
                self._clear(settings)
        return self._context

    def _begin(self, settings: Settings) -> ssl.SSLContext:
        context, error = make_first_context(settings)
        if error is None:
            self._clear(settings)
        else:
            self._report(
                error, f"{_name_previous(settings)} is used instead: push a good certificate"
            )
        return context

    def _report(self, error: UnusableTlsFile, consequence: str) -> None:
        self._alarms.set_alarm(AlarmKind.AGENT_TLS, error.path, f"{error}; {consequence}")

    def _clear(self, settings: Settings) -> None:
        for path in (settings.agent_server_cert, settings.agent_server_ca):
            self._alarms.clear_alarm(AlarmKind.AGENT_TLS, path)

    def _identify_files(self) -> tuple[object, ...]:
        settings = self._settings()
        paths = settings.agent_server_cert, settings.agent_server_ca
        return (
            *((path, files.signature(Path(path))) for path in paths),
            settings.agent_tls_protocol,
            self._revocation_list and files.signature(self._revocation_list),
        )


def make_first_context(settings: Settings) -> tuple[ssl.SSLContext, UnusableTlsFile | None]:
    """Make the context to start with: if the certificate cannot be used, with the one before it.
    Return also the error of the first one.

    Raises:
        UnusableTlsFile: there is none before it, or that is no better.
    """
    try:
        return make_context(settings), None
    except UnusableTlsFile as error:
        if error.path != settings.agent_server_cert:
            raise
        try:
            return make_context(settings, certificate=_name_previous(settings)), error
        except UnusableTlsFile:
            raise error from None


def _name_previous(settings: Settings) -> str:
    return f"{settings.agent_server_cert}.previous"


def make_context(settings: Settings, certificate: str | None = None) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer, which requires a client certificate of the
    controller's CA. `certificate` replaces the path in the settings.

    Raises:
        UnusableTlsFile: a file is missing, unusable, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    newest_only = settings.agent_tls_protocol == "TLSv1.3"
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest_only else ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Every connection shows its certificates anew.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    certificate = certificate or settings.agent_server_cert
    try:
        # An encrypted key must not make OpenSSL ask at the terminal for its passphrase.
        context.load_cert_chain(certificate, password="")
    except OSError as error:
        raise UnusableTlsFile(certificate, "no usable certificate with its key", error) from error
    authority = settings.agent_server_ca
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise UnusableTlsFile(authority, "no usable authority of the controllers", error) from error
    return context
