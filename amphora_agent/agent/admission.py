"""Decide which clients are served: refuse revoked certificates, and if the operator wants it, those
without an extended key usage.

OpenSSL has verified the certificate before. It could check revocation lists, too, but would refuse
everybody once a list has expired.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from amphora_agent import files
from amphora_agent.agent.certificate import (
    AgentAuthorities,
    AgentCertificate,
    RevocationQuestion,
    check_revocations,
    report_expiry,
)
from amphora_agent.errors import AgentError, InvalidRequest
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.x509.pem import Identity, identify

logger = logging.getLogger(__name__)

#: The largest file of lists, in bytes.
_LARGEST = 16 << 20
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
        return any(each.serial in revoked.get(each.issuer, ()) for each in identities)

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
                data = file.read(_LARGEST + 1)
        except OSError as error:
            raise InvalidRequest("Invalid file", error.strerror or str(error)) from None
        if len(data) > _LARGEST:
            raise InvalidRequest("Invalid file", f"it is larger than {_LARGEST} bytes")
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
