"""Which clients are served: none whose certificate has been revoked; and, if the operator says so,
only those whose certificate says that it is for clients.

OpenSSL has verified the certificate before. It could look at revocation lists, too, but would
refuse everybody once a list has expired.
"""

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.agent.certificate import AgentAuthorities, AgentCertificate
from amphora_agent.errors import AgentError, InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events.alarms import AlarmKind
from amphora_agent.supervisor.command import run
from amphora_agent.x509.der import Identity, identify
from amphora_agent.x509.validity import Stage, shown, stage

logger = logging.getLogger(__name__)

_CHECK = "amphora_agent.agent.revocation_check"
_EXIT_REFUSED = 3
#: Seconds for the check, and the most that it may say: some 100 bytes for each certificate.
_CHECK_PATIENCE, _MOST_OUTPUT = 30.0, 64 << 20
#: The largest file of lists, in bytes.
_LARGEST = 16 << 20
#: Authorities between, and certificates that say no use, that are remembered.
_MOST_BETWEEN, _MOST_TOLD = 16, 100
#: Seconds between looks at the files.
_INTERVAL = 10.0

#: Alarms whose subjects are paths of files that clients are trusted by.
_OF_FILES = (AlarmKind.EXPIRY, AlarmKind.AGENT_CERTIFICATE, AlarmKind.REVOCATION_LIST)

_identify = functools.lru_cache(maxsize=64)(identify)


class _Lists(msgspec.Struct, frozen=True):
    """What revocation lists say: as `revocation_check.Answer`, which has the same fields."""

    revoked: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    until: float | None = None
    unknown: int = 0


@dataclass(frozen=True)
class _InForce:
    """Revoked serial numbers by issuer."""

    revoked: Mapping[bytes, frozenset[int]]
    lists: _Lists


class RevocationLists:
    """The revocation lists of the controllers' certificates, in the file at `path`.

    A file that cannot be used, or has expired, is reported, and the last good one stays in force:
    its content is kept at `kept`, so also after a restart. If there was never a good one, an
    expired one counts; with none at all, clients are served without.
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
        self._in_force = _InForce({}, _Lists())

    def revoked(self, chain: Sequence[bytes], identities: Sequence[Identity]) -> bool:
        """Whether one of a client's certificates is revoked. Reads the file if it has changed."""
        self.look()
        self._learn(chain[1:-1])  # the last one is an authority of the agent's own file
        revoked = self._in_force.revoked
        return any(each.serial in revoked.get(each.issuer, ()) for each in identities)

    def look(self) -> None:
        """Read the lists if something has changed."""
        with self._lock:
            authorities = self._authorities()
            key = (files.signature(self.path), authorities, files.signature(authorities))
            if (*key, self._between) != self._key:
                self._key = (*key, self._between)
                self._read(authorities)

    def report_expiry(self) -> None:
        """Report that one of the lists in force expires soon, or has expired."""
        until = self._in_force.lists.until
        reached = Stage.VALID if until is None else stage(until, time.time())
        if until is None or reached is Stage.VALID:
            self._alarms.clear_alarm(AlarmKind.EXPIRY, str(self.path))
            return
        text = f"the revocation list {reached.words}, at {shown(until)}"
        if reached is Stage.EXPIRED:
            text += "; it stays in force"
        self._alarms.set_alarm(AlarmKind.EXPIRY, str(self.path), text, reached.level)

    def _learn(self, between: Sequence[bytes]) -> None:
        """Lists may be by authorities that only clients show."""
        new = [each for each in between if each not in self._between]
        if new and len(self._between) < _MOST_BETWEEN:
            self._between += tuple(new)
            self.look()

    def _read(self, authorities: Path) -> None:
        try:
            data = self._read_file()
            self._use(self._ask(data, authorities))
        except AgentError as error:
            flaw = error.details
        else:
            self._keep(data)
            self._alarms.clear_alarm(AlarmKind.REVOCATION_LIST, str(self.path))
            return
        if self._good is None:
            self._good = self._read_kept()
        consequence = "the last good one stays in force"
        if not (self._good and self._try(self._good, authorities)):
            consequence = "it is used nevertheless, since there is no better one"
            if not self._try_file(authorities):
                consequence = "clients are served without one"
                self._in_force = _InForce({}, _Lists())
        text = f"the revocation list cannot be used: {flaw}; {consequence}"
        self._alarms.set_alarm(AlarmKind.REVOCATION_LIST, str(self.path), text)

    def _read_file(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except OSError as error:
            raise InvalidRequest("Invalid file", error.strerror or str(error)) from None
        if len(data) > _LARGEST:
            raise InvalidRequest("Invalid file", f"it is larger than {_LARGEST} bytes")
        return data

    def _read_kept(self) -> bytes | None:
        try:
            return self._kept.read_bytes()
        except OSError:
            return None

    def _keep(self, data: bytes) -> None:
        self._good = data
        try:
            files.provide(self._kept, data)
        except OSError as error:
            logger.warning("%s: cannot keep the revocation list: %s", self._kept, error.strerror)

    def _try(self, data: bytes, authorities: Path) -> bool:
        try:
            self._use(self._ask(data, authorities, expired_too=True))
        except AgentError:
            return False
        return True

    def _try_file(self, authorities: Path) -> bool:
        try:
            return self._try(self._read_file(), authorities)
        except AgentError:
            return False

    def _ask(self, data: bytes, authorities: Path, *, expired_too: bool = False) -> _Lists:
        question = {
            "lists": data,
            "authorities": str(authorities),
            "between": self._between,
            "expired_too": expired_too,
        }
        checked = run(
            (sys.executable, "-m", _CHECK),
            timeout=_CHECK_PATIENCE,
            input=msgspec.json.encode(question),
            most_output=_MOST_OUTPUT,
        )
        if checked.status == _EXIT_REFUSED:
            raise InvalidRequest("Invalid file", checked.output.strip())
        if not checked.succeeded:
            raise OperationFailed("Cannot check", checked.last_words)
        return msgspec.json.decode(checked.output.encode(), type=_Lists)

    def _use(self, lists: _Lists) -> None:
        revoked: dict[bytes, frozenset[int]] = {}
        for issuer, serials in lists.revoked:
            revoked[issuer] = revoked.get(issuer, frozenset()) | frozenset(map(int, serials))
        self._in_force = _InForce(revoked, lists)


class Admission:
    """Decides whether a client is served, by its certificates.

    `require_usage`: a certificate without an extended key usage is refused; else it is served,
    and reported once.
    """

    def __init__(
        self, alarms: Alarms, lists: RevocationLists | None, *, require_usage: bool
    ) -> None:
        self._alarms = alarms
        self._lists = lists
        self._require_usage = require_usage
        self._told: set[str] = set()

    def find_refusal(self, name: str, chain: Sequence[bytes]) -> str | None:
        """Return why a client is not served; None when it is. `chain` are its certificates
        (DER), its own first; `name` is what it calls itself."""
        try:
            identities = [_identify(each) for each in chain]
        except (IndexError, StopIteration, ValueError):
            return "its certificate cannot be read"
        if not identities:
            return "it has shown no certificate"
        if self._lists is not None and self._lists.revoked(chain, identities):
            return "its certificate is revoked"
        if not identities[0].says_use:
            if self._require_usage:
                return "its certificate has no extended key usage"
            self._report(f"{name} ({identities[0].serial:X})")
        return None

    def start(self, certificate: AgentCertificate, authorities: AgentAuthorities) -> None:
        """Look at the lists, at the agent's own certificate and at whom it trusts from now on, in a
        thread."""
        for alarm in self._alarms.current():
            if alarm.kind == AlarmKind.CLIENT_CERTIFICATE:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)

        def watch() -> None:
            while True:
                try:
                    if self._lists is not None:
                        self._lists.look()
                        self._lists.report_expiry()
                    certificate.report(self._alarms)
                    authorities.report(self._alarms)
                    self._forget_others({str(certificate.path), str(authorities.path)})
                except Exception:  # the next look must come, whatever this one met
                    logger.exception("cannot look at the certificates of the API")
                time.sleep(_INTERVAL)

        threading.Thread(target=watch, name="trust", daemon=True).start()

    def _forget_others(self, paths: set[str]) -> None:
        """End the alarms of files that a push or a command line has named before."""
        if self._lists is not None:
            paths.add(str(self._lists.path))
        for alarm in self._alarms.current():
            if alarm.kind in _OF_FILES and "/" in alarm.subject and alarm.subject not in paths:
                self._alarms.clear_alarm(alarm.kind, alarm.subject)

    def _report(self, subject: str) -> None:
        if subject in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(subject)
        text = "the client's certificate has no extended key usage; it is served nevertheless"
        self._alarms.set_alarm(AlarmKind.CLIENT_CERTIFICATE, subject, text, logging.WARNING)
