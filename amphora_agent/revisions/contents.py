"""Contents by digest, and revisions: which file has which content.

A directory holds the contents of one load balancer, each once, in a read-only file that is named by
its SHA-256. No live file shares an inode with one of them. A manifest says which file has which
content, and is a content itself. A *reference* is a symbolic link that names a manifest: what is
committed, what came up last, and each generation. It changes by one rename.

A load balancer that the agent renders (API 2.0) has references of its own beside those of one that
was uploaded, so that either stays whole while the other takes its place.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.paths import RENDERED_REFERENCES, InstanceLayout

#: The file that every load balancer has, and the directory of certificates, in a manifest.
CONFIGURATION, CERTIFICATES = "haproxy.cfg", "certificates/"
#: What the agent adds to an uploaded text, and the name of the peer.
ADDITION, PEER = "agent.cfg", "peer"
#: What is committed; before there is a configuration, which certificates wait for one.
COMMITTED, WAITING = "committed", "waiting"
#: What live files may still be, after a kill between a commit and the end of writing them.
PLACING = "placing"
#: Before the name of a process: what it loaded when it last came up.
LOADED = "loaded-"

#: Hexadecimal digits of a SHA-256.
_DIGITS = 64
#: So many new contents are synced at once: this costs less than syncing each.
_MANY = 16


class ContentLost(OperationFailed):
    """A content is missing, or its file has other bytes than its name says."""


class ManifestEntry(msgspec.Struct, frozen=True, array_like=True):
    """A file of a revision."""

    digest: str
    size: int
    mode: int = files.PRIVATE

    @classmethod
    def of(cls, data: bytes) -> "ManifestEntry":
        return cls(digest_of(data), len(data))


#: The files of a revision by their names.
Manifest = Mapping[str, ManifestEntry]


def digest_of(data: bytes) -> str:
    """Return the name of a content."""
    return hashlib.sha256(data).hexdigest()


#: The digest of a manifest without files, which needs no content.
NO_FILES = digest_of(b"{}")


class Revisions:
    """The revisions of one load balancer. Who changes them holds its lock.

    `directory` is made with the first content.
    """

    def __init__(self, directory: Path, kind: str = "") -> None:
        self.directory = directory
        #: Before the names of references.
        self._kind = kind

    @classmethod
    def of(cls, instance: InstanceLayout) -> "Revisions":
        return cls(instance.revisions, instance.reference_prefix)

    # Contents

    def path(self, digest: str) -> Path:
        """Return the read-only file of a content, for a program that only reads it."""
        return self.directory / digest

    def keep(self, contents: Mapping[str, bytes]) -> dict[str, ManifestEntry]:
        """Keep contents, given by the names of their files; return these files. Their bytes are on
        disk then; their names are, too, when a reference to them is set.

        Raises:
            OSError: the disk refused.
        """
        kept = {name: ManifestEntry.of(data) for name, data in contents.items()}
        new = {
            kept[name].digest: data
            for name, data in contents.items()
            if not self._keeps(kept[name].digest, data)
        }
        if new and not self.directory.exists():
            files.make_private_directory(self.directory)
            files.sync_names(self.directory.parent, self.directory.parent.parent)
        for digest, data in new.items():
            sync = len(new) < _MANY
            files.replace_unsynced(self.path(digest), data, files.READ_ONLY, sync_data=sync)
        if len(new) >= _MANY:
            files.sync_everything()
        return kept

    def read(self, digest: str) -> bytes:
        """Return the bytes of a content.

        Raises:
            ContentLost
        """
        try:
            data = self.path(digest).read_bytes()
        except OSError as error:
            raise ContentLost("Cannot read a committed file", str(error)) from error
        if digest_of(data) != digest:
            raise ContentLost(
                "Cannot read a committed file", f"{self.path(digest)} was changed; upload it again"
            )
        return data

    def keep_manifest(self, manifest: Manifest) -> str:
        """Keep a manifest; return its digest."""
        data = msgspec.json.encode(dict(sorted(manifest.items())))
        kept = self.keep({"": data})[""]
        _manifests.put(kept.digest, manifest)
        return kept.digest

    def manifest(self, digest: str) -> Manifest:
        """Return a manifest that was kept.

        Raises:
            ContentLost
        """
        if digest == NO_FILES:
            return {}
        known = _manifests.get(digest)
        if known is None:
            known = msgspec.json.decode(self.read(digest), type=dict[str, ManifestEntry])
            _manifests.put(digest, known)
        return known

    def _keeps(self, digest: str, data: bytes) -> bool:
        """Whether a content is there; one that was damaged is not, and is written anew."""
        try:
            return self.path(digest).read_bytes() == data
        except OSError:
            return False

    # References

    def reference(self, name: str) -> str | None:
        """Return the digest of the manifest that a reference names; None without such one."""
        try:
            return os.readlink(f"{self.directory}/{self._kind}{name}")
        except OSError:
            return None

    @property
    def committed(self) -> str | None:
        """The digest of the manifest that is committed, or whose files wait for a configuration."""
        return self.reference(COMMITTED) or self.reference(WAITING)

    def refer(self, name: str, digest: str, *, sync: bool = True) -> None:
        """Let a reference name a manifest. Without `sync` a power cut may undo it."""
        files.point(self.directory / f"{self._kind}{name}", digest, sync=sync)

    def drop(self, *names: str) -> None:
        """Remove references; do nothing for those that are not there."""
        for name in names:
            (self.directory / f"{self._kind}{name}").unlink(missing_ok=True)

    def drop_all(self) -> None:
        """Remove all references of this kind, that to what is committed first."""
        names = self._references()
        if COMMITTED in names:  # without it there is no load balancer, whatever a kill leaves
            files.remove(self.directory / f"{self._kind}{COMMITTED}")
        self.drop(*names)

    def is_used(self) -> bool:
        """Whether there is any reference, of whatever kind."""
        return bool(_links(self.directory))

    def has_loaded(self) -> bool:
        """Whether a process has come up with one of these revisions."""
        return any(name.startswith(LOADED) for name in self._references())

    def numbers(self) -> list[int]:
        """Return the numbers of the generations, the oldest first."""
        return sorted(int(name) for name in self._references() if _is_number(name))

    def _references(self) -> dict[str, str]:
        """Return the references of this kind with the digests that they name."""
        return {
            name.removeprefix(self._kind): digest
            for name, digest in _links(self.directory).items()
            if name.startswith(RENDERED_REFERENCES) == bool(self._kind)
        }

    # What is of no use any more

    def forget_generations(self, most: int, most_bytes: int, kept: Iterable[int] = ()) -> None:
        """Remove generations beyond the newest `most`, and those beyond the newest that together
        hold more than `most_bytes` besides the newest. Those `kept` stay."""
        numbers = self.numbers()
        references = self._references()
        held: set[str] = set()
        total = 0
        for age, number in enumerate(reversed(numbers)):
            with contextlib.suppress(ContentLost):
                entries = self.manifest(references[str(number)]).values()
                sizes = {entry.digest: entry.size for entry in entries if entry.digest not in held}
                held.update(sizes)
                total += sum(sizes.values()) if age else 0
            if age and (age >= most or total > most_bytes):
                unused = {*numbers[: len(numbers) - age]} - {*kept}
                self.drop(*map(str, unused))
                return

    def forget_contents(self) -> None:
        """Remove contents that no reference leads to, and what a killed agent left.

        Raises:
            OSError, ContentLost: not everything was removed; nothing that is of use was.
        """
        manifests = {*_links(self.directory).values()}
        used = set(manifests)
        for digest in manifests:
            used.update(entry.digest for entry in self.manifest(digest).values())
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                if _is_digest(path.name) and path.name not in used:
                    path.unlink(missing_ok=True)
            files.sweep(self.directory, deep=False)


def part(manifest: Manifest, prefix: str) -> Manifest:
    """Return the files of a manifest below a directory, by their names in it."""
    if not prefix:
        return manifest
    return {
        name.removeprefix(prefix): entry
        for name, entry in manifest.items()
        if name.startswith(prefix)
    }


class _Manifests:
    """The manifests that were used last. Their digests say all, whosever they are."""

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._known: dict[str, Manifest] = {}
        self._lock = threading.Lock()

    def get(self, digest: str) -> Manifest | None:
        with self._lock:
            known = self._known.pop(digest, None)
            if known is not None:
                self._known[digest] = known
            return known

    def put(self, digest: str, manifest: Manifest) -> None:
        with self._lock:
            self._known[digest] = manifest
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]


_manifests = _Manifests()


def _links(directory: Path) -> dict[str, str]:
    """The symbolic links of a directory, with what they name."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() and not entry.name.startswith("."):
                found[entry.name] = os.readlink(entry.path)
    return found


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < _DIGITS


def _is_digest(name: str) -> bool:
    return len(name) == _DIGITS and not set(name) - set("0123456789abcdef")
