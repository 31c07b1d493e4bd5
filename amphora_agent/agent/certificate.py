"""The agent's own certificate and the controllers' authorities: their expiry, their replacement."""

import contextlib
import logging
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.supervisor.processes import run
from amphora_agent.x509.validity import Stage, find_stage, format_time, read_expiries

logger = logging.getLogger(__name__)

#: The status with which a check refuses, and nothing else.
EXIT_REFUSED = 3
_CHECK = "amphora_agent.agent.trust_check"
#: Seconds for a check, which takes a quarter of one.
_CHECK_TIMEOUT = 30.0
#: Characters that a check may print: some 100 for each revoked certificate.
_MOST_OUTPUT = 64 << 20


class RevocationQuestion(msgspec.Struct, frozen=True):
    """Revocation lists to be checked.

    `lists` is the content of a file (PEM with one list or more, or one list in DER), `authorities`
    the path of the authorities that the agent trusts, `between` further ones (DER) that clients
    have shown in verified chains. With `expired_too`, expired lists are used.
    """

    lists: bytes
    authorities: str
    between: tuple[bytes, ...] = ()
    expired_too: bool = False


class RevocationAnswer(msgspec.Struct, frozen=True):
    """Revoked serial numbers (decimal: JSON's numbers are shorter) by issuer (DER), and when the
    first of the lists expires, in seconds since 1970."""

    revoked: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    until: float | None = None


def check_own(path: Path, amphora_id: str) -> str:
    """Return when the certificate in a file expires, if it can be this amphora's own.

    Raises:
        InvalidRequest: the controller would not accept it; the details say why.
    """
    return _run_check("own", str(path), amphora_id)


def check_authority(path: Path, client_chain: Sequence[bytes]) -> None:
    """Check that the authorities in a file have signed a client's certificate. `client_chain` is
    that certificate and those above it, in DER.

    Raises:
        InvalidRequest: they have not; the details say why.
    """
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, client_chain))
    _run_check("authority", str(path), input=chain.encode())


def check_revocations(question: RevocationQuestion) -> RevocationAnswer:
    """Check revocation lists, and return what they say.

    Raises:
        InvalidRequest: they cannot be used; the details say why.
    """
    answer = _run_check("revocations", input=msgspec.json.encode(question))
    return msgspec.json.decode(answer.encode(), type=RevocationAnswer)


def _run_check(*arguments: str, input: bytes = b"") -> str:
    check = run(
        (sys.executable, "-m", _CHECK, *arguments),
        timeout=_CHECK_TIMEOUT,
        input=input,
        most_output=_MOST_OUTPUT,
    )
    if check.status == EXIT_REFUSED:
        raise InvalidRequest("Invalid request", check.output.strip())
    if not check.succeeded:
        raise OperationFailed("Cannot check the certificate", check.last_words)
    return check.output.strip()


def report_expiry(
    alarms: Alarms,
    path: Path,
    words: str,
    expires: float | None,
    *,
    level: int = 0,
    when_expired: str = "",
) -> None:
    """Set an alarm if something in a file expires soon, or has expired; else clear it.

    `words` is the subject of the alarm's sentence, `level` replaces the level that goes with the
    time left, and `when_expired` follows the sentence about something that has expired.
    """
    reached = Stage.VALID if expires is None else find_stage(expires, time.time())
    if expires is None or reached is Stage.VALID:
        alarms.clear_alarm(AlarmKind.EXPIRY, str(path))
        return
    text = f"{words} {reached.words}, at {format_time(expires)}"
    text += when_expired if reached is Stage.EXPIRED else ""
    alarms.set_alarm(AlarmKind.EXPIRY, str(path), text, level or reached.level)


class _CertificateFile:
    """Certificates in the file at `path()`, which a push may change."""

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._read: object = None
        self._expiries: tuple[float, ...] = ()

    @property
    def path(self) -> Path:
        """The path of the file now."""
        return self._path()

    def find_expiries(self) -> tuple[float, ...]:
        """Return when each certificate expires, in seconds since 1970; none if the file cannot be
        read. The file is read again when it changes."""
        path = self.path
        signature = (path, files.signature(path))
        if signature != self._read:
            self._read = signature
            try:
                text = path.read_text(errors="replace")
                self._expiries = tuple(until.timestamp() for until in read_expiries(text))
            except (OSError, ValueError) as error:
                self._expiries = ()
                logger.warning("%s: %s", path, error)
        return self._expiries


class AgentAuthorities(_CertificateFile):
    """The authorities whose clients the agent serves (PEM, one or more), in the file at `path`."""

    def expires(self) -> float | None:
        """Return when the first of them expires, in seconds since 1970; None if unreadable."""
        return min(self.find_expiries(), default=None)

    def report(self, alarms: Alarms) -> None:
        """Set an alarm if one of them expires soon. It is a warning while another one is valid for
        longer, as when they are exchanged."""
        times = self.find_expiries()
        words, level = "the controllers' authority", 0
        if len(times) > 1:
            words = f"one of the {len(times)} authorities of the controllers"
            level = find_stage(max(times), time.time()).level
        report_expiry(alarms, self.path, words, min(times, default=None), level=level)


class AgentCertificate(_CertificateFile):
    """The certificate and key at `path` (one PEM, any intermediate certificates after)."""

    def __init__(self, path: Callable[[], Path], amphora_id: str) -> None:
        super().__init__(path)
        self._amphora_id = amphora_id
        #: What `report` has checked.
        self._reported: object = None

    def expires(self) -> float | None:
        """Return when it expires, in seconds since 1970; None if unreadable."""
        return next(iter(self.find_expiries()), None)

    def report(self, alarms: Alarms) -> None:
        """Set alarms if it, or one above it, expires soon, or if the controller would not accept
        it."""
        path, times = self.path, self.find_expiries()
        first = min(times, default=None)
        above = " has one above it that" if first != self.expires() else ""
        report_expiry(alarms, path, f"the agent's certificate{above}", first)
        is_expired = first is not None and find_stage(first, time.time()) is Stage.EXPIRED
        key = (path, files.signature(path), is_expired)
        if key == self._reported:
            return
        try:
            check_own(path, self._amphora_id)
        except InvalidRequest as error:
            text = f"the controller does not accept the agent's certificate: {error.details}"
            alarms.set_alarm(AlarmKind.AGENT_CERTIFICATE, str(path), text)
        else:
            alarms.clear_alarm(AlarmKind.AGENT_CERTIFICATE, str(path))
        self._reported = key

    def replace(self, pem: bytes) -> None:
        """Check and install a certificate. Another one that was there stays beside it as
        `.previous`.

        Raises:
            InvalidRequest: it could not serve; the details say why. The file is as before.
        """
        path = self.path
        with files.Staged(path, pem, files.PRIVATE) as staged:
            expires = check_own(staged.path, self._amphora_id)
            with contextlib.suppress(FileNotFoundError):
                if (before := path.read_bytes()) != pem:
                    files.write(path.with_name(f"{path.name}.previous"), before)
            staged.commit()
        logger.info("change=agent-certificate expires=%s", expires)
