"""The live files of a load balancer, which haproxy opens and a person may edit.

What is committed is the manifest that a reference names; live files are copies. So a change is
committed at one instant, however many files it has, and whoever starts or reloads haproxy first
compares the live files with the manifest. A file that differs is saved beside the configuration as
`<name>.edited`, reported, and replaced by what was committed.

A file is compared by its digest. While the agent lives it remembers inode, size, mode and times of
files that it has compared; the time of the last change of an inode (ctime) cannot be set by a
program, so a file with the same values is not read again.
"""

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import (
    CERTIFICATES,
    COMMITTED,
    NO_FILES,
    PLACING,
    WAITING,
    ContentLost,
    Manifest,
    ManifestEntry,
    Revisions,
    digest_of,
    part,
)

logger = logging.getLogger(__name__)

_EDITED = ".edited"
#: Nanoseconds. The kernel's clock for files goes in steps of up to 10 ms: a file that was changed
#: less than this ago may change again without a sign.
_STEP = 50_000_000
#: Files that an alarm names.
_MOST_NAMED = 10

_Signature = tuple[int, ...]


class Place(NamedTuple):
    """Where live files are: those of certificates, and the others. `whole`: nothing else may be
    below `directory`. Files that differ are saved in `saved`."""

    directory: str
    certificates: str
    whole: bool
    saved: Path

    @classmethod
    def of(cls, instance: InstanceLayout, prefix: str = "") -> "Place":
        """Return that of the load balancer of an instance, or of its directory `prefix`."""
        return cls(
            str(instance.live / prefix),
            str(instance.live_certificates(prefix)),
            instance.owns_live,
            instance.directory,
        )

    def make_directory(self, name: str) -> None:
        """Make the directory of a file."""
        path = Path(self.path(name)).parent
        files.make_private_directories(path, Path(self.directory) if self.whole else path)

    def remove_emptied(self, directory: Path) -> None:
        """Remove a directory of files that were removed, and those above it, if nothing is left."""
        while self.whole and directory.is_relative_to(self.directory):
            if directory == Path(self.directory):
                return
            try:
                directory.rmdir()
            except OSError:  # it has more; or it stays, as it does no harm
                return
            directory = directory.parent

    def path(self, name: str) -> str:
        if name.startswith(CERTIFICATES):
            return f"{self.certificates}/{name.removeprefix(CERTIFICATES)}"
        return f"{self.directory}/{name}"

    def others(self, manifest: Manifest) -> Iterator[str]:
        """Return the names of files that are there and not in the manifest. Hidden ones are
        nobody's: haproxy does not load them."""
        places = [("", self.directory)] if self.whole else [(CERTIFICATES, self.certificates)]
        while places:
            inside, directory = places.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if self.whole:
                            places.append((f"{name}/", entry.path))
                    elif name not in manifest:
                        yield name


class LiveFiles:
    """The live files of all load balancers. Who commits holds the lock of the load balancer."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._lock = threading.Lock()
        #: By instance and name: the digest of a file, and what would tell that it has changed.
        self._compared: dict[str, dict[str, tuple[str, _Signature]]] = {}

    def commit(
        self, instance: InstanceLayout, manifest: Manifest, known: Mapping[str, bytes]
    ) -> None:
        """Make a manifest, whose contents are kept, the committed one, and live files agree with
        it. `known` are contents by the names of files, to save reading them.

        Raises:
            OSError, OperationFailed: nothing has changed.
        """
        revisions, place = Revisions.of(instance), Place.of(instance)
        with contextlib.suppress(ContentLost):  # what is committed now may replace it
            self.finish(instance)
        digest = revisions.keep_manifest(manifest)
        name = COMMITTED if instance.landmark in manifest else WAITING
        was = revisions.committed
        if was == digest:
            return
        before = reading.committed_or_loaded(instance)
        with _Written(revisions, place, before, manifest, known) as written:
            revisions.refer(PLACING, was or NO_FILES, sync=False)
            try:
                revisions.refer(name, digest)
            except BaseException:  # also an end by force: nothing may stay half-way
                if revisions.reference(name) != digest:  # unless even that is refused
                    revisions.drop(PLACING)
                raise
            # From here on it is committed: whoever starts haproxy next would do the same.
            try:
                revisions.drop(WAITING if name == COMMITTED else COMMITTED)
                edited = self._differing(instance, place, written.replaced)
                self._report(instance, [self._save(place, each) for each in edited])
                written.put_in_place()
                revisions.drop(PLACING)
            except OSError as error:
                logger.error("instance=%s live files are behind: %s", instance.id, error)

    def finish(self, instance: InstanceLayout) -> None:
        """Bring live files up to what is committed, if the disk, or a kill, has left them behind.
        Raises as `check`."""
        if Revisions.of(instance).reference(PLACING):
            self.check(instance)

    def take_away(self, instance: InstanceLayout) -> None:
        """Remove the configuration of an instance that is deleted. Should that be interrupted, it
        is put back as if it had been there."""
        revisions = Revisions.of(instance)
        with contextlib.suppress(OSError):  # on a full disk it is deleted all the same
            if (committed := revisions.committed) is not None:
                revisions.refer(PLACING, committed, sync=False)
        files.remove(instance.configuration)

    def check(self, instance: InstanceLayout, *, alone: bool = True) -> None:
        """See that live files are what is committed; save, report and replace those that are not.

        `alone`: the caller holds the lock. Else a commit may go on meanwhile; it, too, makes live
        files what is committed.

        Raises:
            ContentLost: nobody can read what was committed of a file; it stays as it is, and all
                others are put back.
            OperationFailed: a file cannot be put back.
        """
        revisions, prefix = Revisions.of(instance), instance.prefix
        place = Place.of(instance, prefix)
        while True:
            digest = revisions.committed
            if digest is None:
                return
            manifest = part(revisions.manifest(digest), prefix)
            placing = revisions.reference(PLACING)
            unfinished = part(revisions.manifest(placing), prefix) if placing else None
            differing = self._differing(instance, place, manifest)
            if digest == revisions.committed:
                break
        edits: list[str] = []
        lost: ContentLost | None = None
        try:
            for name in [*place.others(manifest)]:
                self._put_away(place, name, unfinished, edits)
            for name in differing:
                try:
                    data = revisions.read(manifest[name].digest)
                except ContentLost as error:
                    lost = lost or error
                else:
                    self._put_back(place, name, data, manifest[name].mode, unfinished, edits)
            if alone and lost is None and not prefix:  # not only a part of them was looked at
                revisions.drop(PLACING)
        except OSError as error:
            raise OperationFailed("Cannot put committed files back", str(error)) from error
        finally:
            self._report(instance, edits)
        if lost is not None:
            raise lost

    def forget(self, instance_id: str) -> None:
        """Forget what is known of a load balancer that is no more."""
        with self._lock:
            self._compared.pop(instance_id, None)
        self._alarms.clear_subject(instance_id)

    # Comparing

    def _differing(self, instance: InstanceLayout, place: Place, manifest: Manifest) -> list[str]:
        """Return the names of files that are missing, or are not as they were committed."""
        with self._lock:
            compared = self._compared.get(instance.id, {})
        now: dict[str, tuple[str, _Signature]] = dict(compared)
        found = []
        for name, entry in manifest.items():
            path = place.path(name)
            try:
                status = os.lstat(path)
            except OSError:
                found.append(name)
                continue
            signature = _signature(status)
            if compared.get(name) == (entry.digest, signature):
                continue
            taken = time.time_ns()
            if _is_committed(path, status, entry):
                if 0 <= status.st_ctime_ns < taken - _STEP:
                    now[name] = entry.digest, signature
            else:
                now.pop(name, None)
                found.append(name)
        with self._lock:
            self._compared[instance.id] = now
        return found

    # What differs

    def _put_away(
        self, place: Place, name: str, unfinished: Manifest | None, edits: list[str]
    ) -> None:
        """Remove a file that is not committed."""
        path = place.path(name)
        if unfinished is None or not _is(path, unfinished.get(name)):
            edits.append(self._save(place, name))
        Path(path).unlink(missing_ok=True)
        place.remove_emptied(Path(path).parent)

    def _put_back(
        self,
        place: Place,
        name: str,
        data: bytes,
        mode: int,
        unfinished: Manifest | None,
        edits: list[str],
    ) -> None:
        """Write what is committed of a file."""
        path = place.path(name)
        is_behind = unfinished is not None and (
            _is(path, unfinished.get(name)) or not os.path.lexists(path)
        )
        if not is_behind:
            edits.append(self._save(place, name))
        place.make_directory(name)
        files.replace_unsynced(Path(path), data, mode)

    def _save(self, place: Place, name: str) -> str:
        """Keep what a person has made of a file, under another name; return what is said of it."""
        path = place.path(name)
        saved = place.saved / f"{name.removeprefix(CERTIFICATES).replace('/', '-')}{_EDITED}"
        try:
            status = os.lstat(path)
        except OSError:
            return f"{path} was removed"
        try:
            if not stat.S_ISDIR(status.st_mode):
                files.keep_or_copy(Path(path), saved)
            else:
                os.rename(path, saved)
        except OSError as error:
            return f"{path} was changed by hand, and cannot be saved: {error}"
        return f"{path} was changed by hand: saved as {saved}"

    def _report(self, instance: InstanceLayout, edits: list[str]) -> None:
        if edits:
            more = f"; and {len(edits) - _MOST_NAMED} more" if len(edits) > _MOST_NAMED else ""
            text = "; ".join(edits[:_MOST_NAMED]) + more + "; what was committed is in place again"
            self._alarms.set_alarm(AlarmKind.FILE_EDITED, instance.id, text)
        elif not any(instance.directory.glob(f"*{_EDITED}")):
            self._alarms.clear_alarm(AlarmKind.FILE_EDITED, instance.id)


class _Written:
    """The live files that change from one manifest to another: written beside their destinations
    where space may run out, then renamed. Certificates come first and go last, so that what is
    named by either text is there."""

    def __init__(
        self,
        revisions: Revisions,
        place: Place,
        before: Manifest,
        after: Manifest,
        known: Mapping[str, bytes],
    ) -> None:
        changed = {name for name, entry in after.items() if before.get(name) != entry}
        #: What is replaced or removed, as it was committed before.
        self.replaced = {
            name: entry for name, entry in before.items() if name in changed or name not in after
        }
        gone = sorted(before.keys() - after.keys())
        self._removed = [Path(place.path(name)) for name in gone]
        self._place = place
        self._staged: list[tuple[Path, Path]] = []
        try:
            for name in sorted(changed, key=lambda name: (not name.startswith(CERTIFICATES), name)):
                path, entry = Path(place.path(name)), after[name]
                data = known[name] if name in known else revisions.read(entry.digest)
                place.make_directory(name)
                self._staged.append((files.write_beside(path, data, entry.mode), path))
        except BaseException:  # also an end by force: nothing may lie about
            self.__exit__()
            raise

    def put_in_place(self) -> None:
        while self._staged:
            temporary, path = self._staged[0]
            os.replace(temporary, path)
            del self._staged[0]
        for path in self._removed:
            path.unlink(missing_ok=True)
            self._place.remove_emptied(path.parent)

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for temporary, _ in self._staged:
            files.discard(temporary)


def _signature(status: os.stat_result) -> _Signature:
    return (
        status.st_ino,
        status.st_size,
        status.st_mode,
        status.st_uid,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _is_committed(path: str, status: os.stat_result, entry: ManifestEntry) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_IMODE(status.st_mode) == entry.mode
        and status.st_uid == os.geteuid()
        and status.st_size == entry.size
        and _digest(path) == entry.digest
    )


def _is(path: str, entry: ManifestEntry | None) -> bool:
    """Whether a file has the content of an entry."""
    if entry is None:
        return False
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and _digest(path) == entry.digest
        )
    return False


def _digest(path: str) -> str:
    """The digest of a regular file; none when it cannot be read, not even at a second attempt: one
    that could not be read for a moment has not been edited."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            return digest_of(Path(path).read_bytes())
    return ""
