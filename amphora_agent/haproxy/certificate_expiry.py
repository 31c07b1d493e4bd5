"""Watch when the certificates, CAs and revocation lists of load balancers expire.

Only files that the committed configuration of a load balancer names count: a controller leaves the
one before behind when it renews a certificate. Files are read when they change, in a thread that
nothing waits for.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from amphora_agent import files
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.config import queries
from amphora_agent.haproxy.config.queries import Role
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import InstanceLayout, Layout, RenderedLayout
from amphora_agent.revisions.reading import instances
from amphora_agent.x509 import pem
from amphora_agent.x509.validity import FileExpiry, find_stage, format_time

logger = logging.getLogger(__name__)

#: Seconds between two looks at all files, and before one at those of a load balancer that changed.
_INTERVAL, _DELAY = 60.0, 1.0
#: Files that an alarm names, and that are told to Prometheus: the first to expire.
_MOST_NAMED, _MOST_TOLD = 5, 1000


_T = TypeVar("_T")


class _Cache(Generic[_T]):
    """What `read` makes of files, kept as long as they stay as they are and are asked for."""

    def __init__(self, read: Callable[[Path], _T]) -> None:
        self._read = read
        self._known: dict[Path, tuple[object, _T]] = {}
        self._asked: dict[Path, tuple[object, _T]] = {}

    def get(self, path: Path) -> _T | None:
        """Return what a file has; None for one that is not there."""
        signature = files.signature(path)
        known = self._known.get(path)
        if known is None or known[0] != signature:
            try:
                known = signature, self._read(path)
            except OSError:
                return None
        self._asked[path] = known
        return known[1]

    def forget_others(self) -> None:
        """Forget files that were not asked for since this was called last."""
        self._known, self._asked = self._asked, {}


class ExpiryWatch:
    """Looks after the files of all load balancers, and sets one alarm for each load balancer."""

    def __init__(
        self, layout: Layout, alarms: Alarms, now: Callable[[], float] = time.time
    ) -> None:
        self._layout = layout
        self._alarms = alarms
        self._now = now
        self._texts = _Cache(partial(_find_named, layout.certificates))
        self._lists = _Cache(lambda path: certificate_content.read_entries(path.read_bytes()))
        self._dates = _Cache(_read_expiry)
        self._found: Mapping[str, tuple[FileExpiry, ...]] = {}
        self._changed = threading.Event()

    def start(self) -> None:
        """Look from now on, in a thread."""
        threading.Thread(target=self._run, name="expiry", daemon=True).start()

    def note_change(self) -> None:
        """Look soon: files of a load balancer may have changed. Returns at once."""
        self._changed.set()

    def soonest(self) -> list[FileExpiry]:
        """Return the files that expire first, as they were found last."""
        expiries = [expiry for file_expiries in self._found.values() for expiry in file_expiries]
        return sorted(expiries, key=lambda expiry: expiry.expires)[:_MOST_TOLD]

    def look(self) -> None:
        """Read what has changed, and set or clear the alarms."""
        found = {str(each.id): tuple(self._find_expiries(each)) for each in instances(self._layout)}
        for cache in (self._texts, self._lists, self._dates):
            cache.forget_others()
        self._found = found
        for instance_id, expiries in found.items():
            self._report(instance_id, expiries)
        known = [each for each in self._alarms.current() if each.kind == AlarmKind.EXPIRY]
        for alarm in known:
            if _is_load_balancer(alarm.subject) and alarm.subject not in found:
                self._alarms.clear_alarm(AlarmKind.EXPIRY, alarm.subject)

    def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                self.look()
            except Exception:  # the next look must come, whatever this one met
                logger.exception("Cannot look at the certificates of load balancers")
            if self._changed.wait(_INTERVAL):
                time.sleep(_DELAY)  # changes come together

    def _report(self, instance_id: str, expiries: Iterable[FileExpiry]) -> None:
        now = self._now()
        near = [(expiry, find_stage(expiry.expires, now)) for expiry in expiries]
        near = sorted((entry for entry in near if entry[1]), key=lambda entry: entry[0].expires)
        if not near:
            self._alarms.clear_alarm(AlarmKind.EXPIRY, instance_id)
            return
        sentences = [
            f"{expiry.what} {expiry.file} {reached.words}, at {format_time(expiry.expires)}"
            for expiry, reached in near[:_MOST_NAMED]
        ]
        if len(near) > _MOST_NAMED:
            sentences.append(f"and {len(near) - _MOST_NAMED} more")
        level = max(reached for _, reached in near).level
        self._alarms.set_alarm(AlarmKind.EXPIRY, instance_id, "; ".join(sentences), level)

    def _find_expiries(self, instance: InstanceLayout) -> Iterator[FileExpiry]:
        for path, what in sorted(self._find_in_use(instance).items()):
            expires = self._dates.get(path)
            if expires is not None:
                yield FileExpiry(instance.id, path.name, what, expires)

    def _find_in_use(self, instance: InstanceLayout) -> dict[Path, str]:
        """Return the files that a load balancer uses, and what for."""
        if isinstance(instance, RenderedLayout):
            return {path: _find_purpose(path.name) for path in instance.certificates.glob("*.pem")}
        purposes: dict[Path, str] = {}
        for path, roles in (self._texts.get(instance.configuration) or {}).items():
            if path.parent != instance.certificates:
                continue
            if Role.CRT_LIST in roles:
                for entry in self._lists.get(path) or ():
                    purposes[Path(entry.path)] = Role.CERTIFICATE.value
                    purposes |= {Path(file): "CA or CRL file" for file in entry.files}
            else:
                purposes[path] = " and ".join(sorted(role.value for role in roles))
        return purposes


def _find_named(certificates: Path, configuration: Path) -> Mapping[Path, frozenset[Role]]:
    """Return the files below the directory of certificates that a configuration names."""
    roles_by_path = queries.find_files_below({"": files.text(configuration)}, str(certificates))
    return {Path(path): roles for path, roles in roles_by_path.items()}


def _read_expiry(path: Path) -> float | None:
    """Return when the first certificate or revocation list of a file expires; None when there is
    none, or it cannot be read."""
    with contextlib.suppress(pem.Unreadable):
        dates = [
            until.timestamp()
            for block in pem.parse_pem(path.read_bytes()).blocks
            if block.label in (pem.CERTIFICATE, pem.REVOCATIONS)
            and (until := pem.read_expiry(block)) is not None
        ]
        return min(dates, default=None)
    return None


def _find_purpose(name: str) -> str:
    """Return what a file of a rendered load balancer is for, by its name."""
    purpose = name.removesuffix(".pem").rpartition(".")[2].rpartition("-")[2]
    roles = {"ca": Role.AUTHORITIES, "crl": Role.REVOCATIONS}
    return roles.get(purpose, Role.CERTIFICATE).value


def _is_load_balancer(subject: str) -> bool:
    """Whether an alarm is about a load balancer: others are about the agent, or about a path."""
    return subject != "agent" and "/" not in subject
