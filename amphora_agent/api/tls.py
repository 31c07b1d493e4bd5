"""The server's side of mutual TLS: a context made once, and anew when its files change."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from amphora_agent import files
from amphora_agent.settings import Settings

logger = logging.getLogger(__name__)


class ServerTls:
    """Gives the TLS context for new connections.

    Established connections keep the context that they began with: a new certificate disturbs
    nobody. Files that cannot be used are reported once, and the last good context stays: an
    agent that nobody can reach cannot be repaired.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._key = self._present()
        self._context = make_context(settings())

    def context(self) -> ssl.SSLContext:
        """The context for a connection that begins now. Costs two `stat` when nothing changed."""
        key = self._present()
        if key != self._key:
            self._key = key
            try:
                self._context = make_context(self._settings())
            except (OSError, ValueError) as error:
                logger.error(
                    "the agent's TLS files cannot be used, the last good ones stay: %s", error
                )
            else:
                logger.info("the agent's TLS files were taken up again")
        return self._context

    def _present(self) -> tuple[object, ...]:
        settings = self._settings()
        return (
            files.signature(Path(settings.agent_server_cert)),
            files.signature(Path(settings.agent_server_ca)),
            settings.agent_tls_protocol,
        )


def make_context(settings: Settings) -> ssl.SSLContext:
    """TLS 1.2 or newer, a client certificate of the controller's CA demanded of everybody.

    Raises:
        OSError: (ssl.SSLError among them) a file is missing, unusable, or key and certificate
            do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    newest_only = settings.agent_tls_protocol == "TLSv1.3"
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if newest_only else ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(settings.agent_server_cert)
    context.load_verify_locations(settings.agent_server_ca)
    return context
