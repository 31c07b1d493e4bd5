"""The agent's own certificate: replaced only by one that the controller will accept."""

import logging
import sys
from pathlib import Path

from amphora_agent import files
from amphora_agent.certificate_validity import expiry
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.processes.command import run

logger = logging.getLogger(__name__)

#: The module that checks, run as a program: the libraries that this takes are 10 MB, which the
#: agent would keep for what happens once in the life of a certificate.
_CHECK = "amphora_agent.certificate_check"

#: How it says that the certificate is at fault, and nothing else.
_EXIT_REFUSED = 3

#: Seconds for the check: it takes a quarter of one.
_CHECK_PATIENCE = 30.0


class AgentCertificate:
    """The certificate and key at `path` (one PEM, any intermediate certificates after)."""

    def __init__(self, path: Path, amphora_id: str) -> None:
        self.path = path
        self._amphora_id = amphora_id
        self._read: object = None
        self._expires: float | None = None

    def expires(self) -> float | None:
        """When it expires, in seconds since 1970; None when that cannot be read from it."""
        signature = files.signature(self.path)
        if signature != self._read:
            self._read = signature
            try:
                self._expires = expiry(self.path.read_text(errors="replace")).timestamp()
            except (OSError, ValueError) as error:
                self._expires = None
                logger.warning("%s: %s", self.path, error)
        return self._expires

    def replace(self, pem: bytes) -> None:
        """Check and install a certificate; the one before is kept beside it as `.previous`.

        Raises:
            InvalidRequest: it could not serve; the details say why. The file is as before.
        """
        with files.Staged(self.path, pem, files.PRIVATE) as staged:
            checked = run(
                (sys.executable, "-m", _CHECK, str(staged.path), self._amphora_id),
                timeout=_CHECK_PATIENCE,
            )
            if checked.status == _EXIT_REFUSED:
                raise InvalidRequest("Invalid request", checked.output.strip())
            if not checked.succeeded:
                raise OperationFailed("Cannot check the certificate", checked.output.strip())
            files.keep_as(self.path, self.path.with_name(f"{self.path.name}.previous"))
            staged.commit()
        logger.info("change=agent-certificate expires=%s", checked.output.strip())
