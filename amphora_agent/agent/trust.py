"""The certificates of the API: the agent's own, the controllers' authorities, and those of clients.

The agent watches the expiry of its certificate and of the authorities, and replaces its
certificate. It refuses clients whose certificates are revoked, and if the operator wants it, those
without an extended key usage. OpenSSL has verified them before. It could check revocation lists,
too, but would refuse everybody once a list has expired.
"""

import contextlib
import functools
import logging
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError, InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.supervisor.processes import run
from amphora_agent.x509.pem import Identity, identify
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
    subject: str,
    expires: float | None,
    *,
    level: int = 0,
    when_expired: str = "",
) -> None:
    """Set an alarm if something in a file expires soon, or has expired; else clear it.

    `subject` is that of the alarm's sentence, `level` replaces the level that goes with the
    time left, and `when_expired` follows the sentence about something that has expired.
    """
    reached = Stage.VALID if expires is None else find_stage(expires, time.time())
    if expires is None or reached is Stage.VALID:
        alarms.clear_alarm(AlarmKind.EXPIRY, str(path))
        return
    text = f"{subject} {reached.words}, at {format_time(expires)}"
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
        subject, level = "the controllers' authority", 0
        if len(times) > 1:
            subject = f"one of the {len(times)} authorities of the controllers"
            level = find_stage(max(times), time.time()).level
        report_expiry(alarms, self.path, subject, min(times, default=None), level=level)


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


#: The largest file of lists, in bytes.
_LARGEST_LIST = 16 << 20
#: Intermediate authorities, and clients without a key usage, that are remembered.
_MOST_BETWEEN, _MOST_REPORTED = 16, 100
#: Seconds between checks of the files.
_INTERVAL = 10.0

#: Alarms whose subjects are paths of files that decide about trust.
_FILE_ALARMS = (AlarmKind.EXPIRY, AlarmKind.AGENT_CERTIFICATE, AlarmKind.REVOCATION_LIST)

_identify = functools.lru_cache(maxsize=64)(identify)


class RevocationLists:
    """The revocation lists of the controllers' certificates, in the file at `path`.

    A file that cannot be used, or has expired, is reported, and the last good one stays in force,
    also after a restart: `kept` has its content. If there was never a good one, an expired one
    counts; with none at all, clients are served without.
    """

    def __init__(
        self, path: Path, kept: Path, authorities: Callable[[], Path], alarms: Alarms
    ) -> None:
        self.path = path
        self._kept = kept
        self._authorities = authorities
        self._alarms = alarms
        self._lock = threading.Lock()
        self._between: tuple[bytes, ...] = ()
        self._good: bytes | None = None
        self._key: object = None
        self._until: float | None = None
        #: Revoked serial numbers by issuer (DER).
        self._revoked: Mapping[bytes, frozenset[int]] = {}

    def is_revoked(self, chain: Sequence[bytes], identities: Sequence[Identity]) -> bool:
        """Return whether one of a client's certificates is revoked. Reads the file if it has
        changed. `chain` are the certificates (DER), `identities` the same ones."""
        self.update()
        self._learn(chain[1:-1])  # the last one is an authority of the agent's own file
        revoked = self._revoked
        return any(identity.serial in revoked.get(identity.issuer, ()) for identity in identities)

    def update(self) -> None:
        """Read the lists if a file or the known authorities have changed."""
        with self._lock:
            authorities = self._authorities()
            key = (files.signature(self.path), authorities, files.signature(authorities))
            if (*key, self._between) != self._key:
                self._key = (*key, self._between)
                self._read(authorities)

    def report_expiry(self) -> None:
        """Set an alarm if one of the lists in force expires soon, or has expired."""
        report_expiry(
            self._alarms,
            self.path,
            "the revocation list",
            self._until,
            when_expired="; it stays in force",
        )

    def _learn(self, between: Sequence[bytes]) -> None:
        """Lists may be by authorities that only clients show."""
        new = [authority for authority in between if authority not in self._between]
        if new and len(self._between) < _MOST_BETWEEN:
            self._between += tuple(new)
            self.update()

    def _read(self, authorities: Path) -> None:
        try:
            data = self._read_file()
            self._use(data, authorities)
        except AgentError as error:
            text = f"the revocation list cannot be used: {error.details}"
            text += f"; {self._fall_back(authorities)}"
            self._alarms.set_alarm(AlarmKind.REVOCATION_LIST, str(self.path), text)
            return
        self._good = data
        try:
            files.provide(self._kept, data)
        except OSError as error:
            logger.warning("%s: cannot keep the revocation list: %s", self._kept, error.strerror)
        self._alarms.clear_alarm(AlarmKind.REVOCATION_LIST, str(self.path))

    def _fall_back(self, authorities: Path) -> str:
        """Use the best lists that there are; return what that means."""
        with contextlib.suppress(AgentError, OSError):
            if self._good is None:
                self._good = self._kept.read_bytes()
            self._use(self._good, authorities, expired_too=True)
            return "the last good one stays in force"
        with contextlib.suppress(AgentError):
            self._use(self._read_file(), authorities, expired_too=True)
            return "it is used nevertheless, since there is no better one"
        self._revoked, self._until = {}, None
        return "clients are served without one"

    def _read_file(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = file.read(_LARGEST_LIST + 1)
        except OSError as error:
            raise InvalidRequest("Invalid file", error.strerror or str(error)) from None
        if len(data) > _LARGEST_LIST:
            raise InvalidRequest("Invalid file", f"it is larger than {_LARGEST_LIST} bytes")
        return data

    def _use(self, data: bytes, authorities: Path, *, expired_too: bool = False) -> None:
        answer = check_revocations(
            RevocationQuestion(data, str(authorities), self._between, expired_too)
        )
        revoked: dict[bytes, frozenset[int]] = {}
        for issuer, serials in answer.revoked:
            revoked[issuer] = revoked.get(issuer, frozenset()) | frozenset(map(int, serials))
        self._revoked, self._until = revoked, answer.until


class Admission:
    """Decides by a client's certificates whether it is served.

    With `require_usage`, a certificate without an extended key usage is refused; without, the
    client is served, and reported once.
    """

    def __init__(
        self, alarms: Alarms, lists: RevocationLists | None, *, require_usage: bool
    ) -> None:
        self._alarms = alarms
        self._lists = lists
        self._require_usage = require_usage
        self._reported: set[str] = set()

    def find_refusal(self, name: str, chain: Sequence[bytes]) -> str | None:
        """Return why a client is refused; None when it is served. `chain` are its certificates
        (DER), its own first; `name` is its name in there."""
        try:
            identities = [_identify(certificate) for certificate in chain]
        except (IndexError, StopIteration, ValueError):
            return "its certificate cannot be read"
        if not identities:
            return "it has shown no certificate"
        if self._lists is not None and self._lists.is_revoked(chain, identities):
            return "its certificate is revoked"
        if not identities[0].says_use:
            if self._require_usage:
                return "its certificate has no extended key usage"
            self._report_missing_usage(f"{name} ({identities[0].serial:X})")
        return None

    def start(self, certificate: AgentCertificate, authorities: AgentAuthorities) -> None:
        """Check the lists, the agent's own certificate and the authorities from now on, in a
        thread."""
        for alarm in self._alarms.current():
            if alarm.kind == AlarmKind.CLIENT_CERTIFICATE:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)

        def watch() -> None:
            while True:
                try:
                    if self._lists is not None:
                        self._lists.update()
                        self._lists.report_expiry()
                    certificate.report(self._alarms)
                    authorities.report(self._alarms)
                    self._forget_others({str(certificate.path), str(authorities.path)})
                except Exception:  # the next check must come, whatever this one met
                    logger.exception("cannot check the certificates of the API")
                time.sleep(_INTERVAL)

        threading.Thread(target=watch, name="trust", daemon=True).start()

    def _forget_others(self, paths: set[str]) -> None:
        """Clear the alarms of files that the agent used before."""
        if self._lists is not None:
            paths.add(str(self._lists.path))
        for alarm in self._alarms.current():
            if alarm.kind in _FILE_ALARMS and "/" in alarm.subject and alarm.subject not in paths:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)

    def _report_missing_usage(self, subject: str) -> None:
        if subject in self._reported or len(self._reported) >= _MOST_REPORTED:
            return
        self._reported.add(subject)
        text = "the client's certificate has no extended key usage; it is served nevertheless"
        self._alarms.set_alarm(AlarmKind.CLIENT_CERTIFICATE, subject, text, logging.WARNING)
