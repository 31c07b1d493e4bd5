"""The agent's own certificate: replaced only by one that the controller will accept."""

import contextlib
import logging
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events.alarms import AlarmKind
from amphora_agent.supervisor.command import run
from amphora_agent.x509.validity import Stage, expiries, shown, stage

logger = logging.getLogger(__name__)

#: The module that checks, run as a program: the libraries that this takes are 10 MB, which the
#: agent would keep for what happens once in the life of a certificate.
_CHECK = "amphora_agent.agent.certificate_check"

#: How it says that the certificate is at fault, and nothing else.
_EXIT_REFUSED = 3

#: Seconds for the check: it takes a quarter of one.
_CHECK_PATIENCE = 30.0


def check(path: Path, amphora_id: str) -> str:
    """Return when the certificate in a file expires, if it can be this amphora's own.

    Raises:
        InvalidRequest: the controller would not accept it; the details say why.
    """
    return _run_check(str(path), amphora_id)


def check_authority(path: Path, client_chain: Sequence[bytes]) -> None:
    """See that the authorities in a file have signed a client's certificate (DER, with those
    above it).

    Raises:
        InvalidRequest: they have not; the details say why.
    """
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, client_chain))
    _run_check("--authority", str(path), input=chain.encode())


def _run_check(*arguments: str, input: bytes = b"") -> str:
    checked = run((sys.executable, "-m", _CHECK, *arguments), timeout=_CHECK_PATIENCE, input=input)
    if checked.status == _EXIT_REFUSED:
        raise InvalidRequest("Invalid request", checked.output.strip())
    if not checked.succeeded:
        raise OperationFailed("Cannot check the certificate", checked.last_words)
    return checked.output.strip()


class _Dates:
    """When the certificates of the file at `path()` expire. It is read again when it changes."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._read: object = None
        self._found: tuple[float, ...] = ()

    def find(self) -> tuple[float, ...]:
        """In seconds since 1970, in their order; none when that cannot be read from them."""
        path = self._path()
        signature = (path, files.signature(path))
        if signature != self._read:
            self._read = signature
            try:
                text = path.read_text(errors="replace")
                self._found = tuple(until.timestamp() for until in expiries(text))
            except (OSError, ValueError) as error:
                self._found = ()
                logger.warning("%s: %s", path, error)
        return self._found


def _report_expiry(alarms: Alarms, path: Path, words: str, expires: float, level: int = 0) -> None:
    """Report that something in a file expires soon, or has expired; by its own level, unless
    another one is given."""
    reached = stage(expires, time.time())
    if reached is Stage.VALID:
        alarms.clear_alarm(AlarmKind.EXPIRY, str(path))
    else:
        text = f"{words} {reached.words}, at {shown(expires)}"
        alarms.set_alarm(AlarmKind.EXPIRY, str(path), text, level or reached.level)


class AgentAuthorities:
    """The authorities whose clients the agent serves (PEM, one or more), in the file at `path`."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._dates = _Dates(path)

    @property
    def path(self) -> Path:
        """Return where the files are now."""
        return self._path()

    def expires(self) -> float | None:
        """When the first of them expires, in seconds since 1970; None when that cannot be read."""
        return min(self._dates.find(), default=None)

    def report(self, alarms: Alarms) -> None:
        """Report by an alarm that one of them expires soon. While another one is valid for longer,
        as when they are exchanged, that is a warning."""
        dates = self._dates.find()
        if not dates:
            alarms.clear_alarm(AlarmKind.EXPIRY, str(self.path))
        elif len(dates) == 1:
            _report_expiry(alarms, self.path, "the controllers' authority", dates[0])
        else:
            words = f"one of the {len(dates)} authorities of the controllers"
            level = logging.WARNING
            if stage(max(dates), time.time()).level == logging.ERROR:
                level = logging.ERROR
            _report_expiry(alarms, self.path, words, min(dates), level)


class AgentCertificate:
    """The certificate and key at `path` (one PEM, any intermediate certificates after)."""

    def __init__(self, path: Callable[[], Path], amphora_id: str) -> None:
        self._path = path
        self._amphora_id = amphora_id
        self._dates = _Dates(path)
        #: What has been checked for `report`.
        self._reported: object = None

    @property
    def path(self) -> Path:
        """Where it is now: a push may name another file."""
        return self._path()

    def expires(self) -> float | None:
        """When it expires, in seconds since 1970; None when that cannot be read from it."""
        return next(iter(self._dates.find()), None)

    def report(self, alarms: Alarms) -> None:
        """Report by alarms that it, or one above it, expires soon, or that the controller would not
        accept it."""
        path, dates = self.path, self._dates.find()
        if not dates:
            alarms.clear_alarm(AlarmKind.EXPIRY, str(path))
        else:
            first = min(dates)
            words = "certificate" if first == dates[0] else "certificate has one above it that"
            _report_expiry(alarms, path, f"the agent's {words}", first)
        is_expired = bool(dates) and stage(min(dates), time.time()) is Stage.EXPIRED
        key = (path, files.signature(path), is_expired)
        if key == self._reported:
            return
        try:
            check(path, self._amphora_id)
        except InvalidRequest as error:
            text = f"the controller does not accept the agent's certificate: {error.details}"
            alarms.set_alarm(AlarmKind.AGENT_CERTIFICATE, str(path), text)
        else:
            alarms.clear_alarm(AlarmKind.AGENT_CERTIFICATE, str(path))
        self._reported = key

    def replace(self, pem: bytes) -> None:
        """Check and install a certificate; the one before is kept beside it as `.previous`, unless
        it is the same one.

        Raises:
            InvalidRequest: it could not serve; the details say why. The file is as before.
        """
        path = self.path
        with files.Staged(path, pem, files.PRIVATE) as staged:
            expires = check(staged.path, self._amphora_id)
            with contextlib.suppress(FileNotFoundError):
                if (before := path.read_bytes()) != pem:
                    files.write(path.with_name(f"{path.name}.previous"), before)
            staged.commit()
        logger.info("change=agent-certificate expires=%s", expires)
