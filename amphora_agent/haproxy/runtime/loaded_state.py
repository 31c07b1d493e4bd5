"""The texts of an instance: those that are committed, and those that its worker has loaded.

A reference names the files with which haproxy last came up, including later runtime changes; a
record names the worker. A change is recorded before its first command, and ends when the reference
names the new files. So a kill at any instant leaves a record that is true or marked as doubtful.
Both are about a process: a power cut may tear them.

In a rendered instance each listener and pool has a file. haproxy puts the names of all files that
it loads into one environment variable, which holds 128 KiB: the names of some 1,200 files. So
haproxy loads at most 256 parts, and the shared file. A hash of its name decides in which part a
file is. So a change of a pool rewrites the file of the pool and one part.

There may be thousands of files, and a change leaves nearly all of them as they were: only files
that differ from those in memory are read. `ConfigIndex` keeps what texts have, so that they are
parsed again only when they change.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

import msgspec

from amphora_agent import files
from amphora_agent.haproxy.config import diff, parser, queries
from amphora_agent.haproxy.config.diff import CountedText
from amphora_agent.haproxy.config.parser import Config, Texts
from amphora_agent.haproxy.update.planner import FileChange, Plan
from amphora_agent.paths import PARTS, InstanceLayout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import CERTIFICATES, LOADED, ContentLost, Manifest, Revisions
from amphora_agent.supervisor.processes import start_time

logger = logging.getLogger(__name__)

T = TypeVar("T")


#: The file that all listeners share. haproxy reads it first; it is a part of its own.
SHARED = "haproxy.cfg"


def choose_part(name: str) -> str:
    """Return the part that a file is in."""
    if name == SHARED:
        return SHARED
    return f"part-{hashlib.sha256(name.encode()).digest()[0]:02x}.cfg"


def group_into_parts(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return all parts, each with the names of its files, in order."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(choose_part(name), []).append(name)
    return {part: tuple(files) for part, files in sorted(parts.items())}


def find_line(part: str, line: int, texts: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the file, among `texts`, and the line in it for a line of a part; None for no such."""
    for name in group_into_parts(texts).get(part, ()):
        lines = texts[name].count("\n")
        if line <= lines:
            return name, line
        line -= lines
    return None


class ConfigDirectory(NamedTuple):
    """Texts by the names of their files, in the order in which haproxy loads them, and their
    digests."""

    digests: Mapping[str, str]
    texts: Mapping[str, CountedText]

    @property
    def size(self) -> int:
        """Characters in all texts."""
        return sum(map(len, self.texts.values()))


def digest_directory(manifest: Manifest) -> dict[str, str]:
    """Return the digests of the texts of a manifest, in the order in which haproxy loads them."""
    names = (name for name in manifest if name.endswith(".cfg") and "/" not in name)
    return {name: manifest[name].digest for name in sorted(names)}


def read_directory(
    revisions: Revisions, manifest: Manifest, like: ConfigDirectory | None = None
) -> ConfigDirectory:
    """Read the texts of a manifest; those that are the same as in `like` are taken from it."""
    texts: dict[str, CountedText] = {}
    shared: dict[tuple[int, ...], Mapping[str, int]] = {}
    wanted = digest_directory(manifest)
    for name, digest in wanted.items():
        if like is not None and like.digests.get(name) == digest:
            texts[name] = like.texts[name]
        else:
            content = revisions.read(digest).decode(errors="surrogateescape")
            text = texts[name] = diff.count_words(content)
            # Most files have the same counts: they share one mapping.
            text.counts = shared.setdefault(tuple(text.counts.values()), text.counts)
    return ConfigDirectory(wanted, texts)


def add_parts(revisions: Revisions, manifest: Manifest) -> Manifest:
    """Add the parts that haproxy loads to a manifest without them, as an older agent made it."""
    if SHARED not in manifest or any(name.startswith(f"{PARTS}/") for name in manifest):
        return manifest
    texts = read_directory(revisions, manifest).texts
    contents = {
        f"{PARTS}/{part}": "".join(texts[name] for name in names).encode(errors="surrogateescape")
        for part, names in group_into_parts(texts).items()
    }
    return {**manifest, **revisions.keep(contents)}


def translate_messages(path: Path, texts: Texts, words: str) -> str:
    """Replace places in parts, which are below `path`, by places in `texts` in haproxy's words."""
    place = re.compile(rf"{re.escape(str(path / PARTS))}/([-.\w]+\.cfg):(\d+)")

    def translate(found: re.Match[str]) -> str:
        line = find_line(found[1], int(found[2]), texts)
        return f"{path}/{line[0]}:{line[1]}" if line else found[0]

    return place.sub(translate, words)


def find_directory(
    digests: Mapping[str, str], directories: Iterable[ConfigDirectory]
) -> ConfigDirectory | None:
    """Return the directory that has texts with these digests."""
    return next((directory for directory in directories if directory.digests == digests), None)


_RECORD = "activation.json"
#: Digests of texts by the names of their files.
Digests = Mapping[str, str]


class WorkerRecord(msgspec.Struct, frozen=True):
    """`worker` is the process that loaded the last good files, `program` its version of haproxy.

    `pending` are the servers, as `<backend>/<server>`, that an unfinished change touches; None when
    there is none. `left_over` are servers that the configuration no longer has, and that haproxy
    could not delete yet. `certificates_changed`: the worker has been given certificates since it
    started; None in the record of an older agent.
    """

    worker: str
    program: str
    pending: tuple[str, ...] | None = None
    left_over: tuple[str, ...] = ()
    certificates_changed: bool | None = None


class LoadedState(NamedTuple):
    """The texts that a worker has loaded. `doubt` says why that is not certain; empty when it is.
    `record` is None when another worker loaded the last good files."""

    texts: Texts
    doubt: str
    record: WorkerRecord | None


class PreparedPlan(NamedTuple):
    """A plan from texts with the digests `before` to the committed ones, for a haproxy whose
    program has this signature."""

    before: Digests
    program: object
    plan: Plan


class _LazyTexts(Mapping[str, str]):
    """Texts by the names of their files, each read on first use: a prepared plan needs none."""

    def __init__(self, names: Collection[str], read: Callable[[str], str]) -> None:
        self._names = names
        self._read = cache(read)

    def __getitem__(self, name: str) -> str:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def identify_worker(pid: int) -> str:
    """Return what identifies a process, also after its pid is used again."""
    return f"{pid} {start_time(pid)}"


def read_committed(instance: InstanceLayout) -> Texts:
    """Return the committed texts.

    Raises:
        FileNotFoundError
    """
    return _read_texts(instance, reading.committed(instance), instance.directory)


def read_loaded(instance: InstanceLayout) -> Texts:
    """Return the texts with which haproxy last came up.

    Raises:
        FileNotFoundError: it never did.
    """
    return _read_texts(instance, reading.loaded(instance), instance.last_good)


def find_loaded_texts(instance: InstanceLayout | None) -> Texts:
    """Return the texts that an instance has loaded; none without an instance, or if lost."""
    with contextlib.suppress(FileNotFoundError, ContentLost):
        return read_loaded(instance) if instance is not None else {}
    return {}


def _read_texts(instance: InstanceLayout, manifest: Manifest | None, old: Path) -> Texts:
    """Return the texts of a manifest, or those of an older agent's files in the directory `old`,
    until this agent has adopted them.

    Raises:
        FileNotFoundError
    """
    texts: Texts = {}
    if manifest is not None:
        read = Revisions.of(instance).read
        texts = {name: _decode(read(manifest[name].digest)) for name in instance.texts_in(manifest)}
    elif not instance.revisions.exists():
        texts = {path.name: files.text(path) for path in instance.texts_below(old)}
    if not texts:
        raise FileNotFoundError(str(instance.configuration))
    return texts


def open_committed(instance: InstanceLayout, read: Iterable[ConfigDirectory] = ()) -> Texts:
    """Return the committed texts, each read on first use, unless they are among those `read`. They
    must stay committed meanwhile."""
    return _open(instance, reading.committed(instance) or {}, read)


def digest_committed(instance: InstanceLayout) -> Digests:
    """Return the digests of the committed texts."""
    return digest_texts(instance, reading.committed(instance) or {})


def digest_texts(instance: InstanceLayout, manifest: Manifest) -> Digests:
    """Return the digests of the texts in a manifest."""
    return {name: manifest[name].digest for name in instance.texts_in(manifest)}


def find_loaded_state(
    instance: InstanceLayout,
    pid: int,
    program: str,
    wanted: Texts,
    read: Iterable[ConfigDirectory] = (),
) -> LoadedState | None:
    """Return what the worker with this pid has loaded; None when nothing is known of it.

    `program` is the version of haproxy that is installed. Texts are not read again if they are
    among `wanted`, the committed texts, or among those `read`.
    """
    texts = _open_loaded(instance, wanted, read)
    if texts is None:
        return None
    record = _read_record(instance)
    if record is None or record.worker != identify_worker(pid):
        return LoadedState(texts, "the worker is another one than was last made to run", None)
    if record.program != program:
        return LoadedState(texts, f"haproxy {record.program} was replaced by {program}", record)
    if record.pending is not None:
        return LoadedState(texts, "an earlier change did not come to its end", record)
    return LoadedState(texts, "", record)


def digest_loaded(instance: InstanceLayout) -> Digests:
    """Return the digests of the texts with which haproxy last came up."""
    return digest_texts(instance, reading.loaded(instance) or {})


def find_file_changes(instance: InstanceLayout, wanted: Manifest | None = None) -> list[FileChange]:
    """Return the files that texts may name and whose content differs from what the worker loaded.
    `wanted` is compared if it is given, else what is committed."""
    before = reading.loaded(instance) or {}
    after = wanted if wanted is not None else reading.committed(instance) or {}
    revisions = Revisions.of(instance)

    def content(manifest: Manifest, name: str) -> bytes | None:
        return revisions.read(manifest[name].digest) if name in manifest else None

    return [
        FileChange(
            str(reading.live_path(instance, name)), content(before, name), content(after, name)
        )
        for name in sorted(before.keys() | after.keys())
        if (name.startswith(CERTIFICATES) or instance.may_be_named(name))
        and before.get(name) != after.get(name)
    ]


def is_interrupted(instance: InstanceLayout) -> bool:
    """Whether a change began and did not end."""
    record = _read_record(instance)
    return record is not None and record.pending is not None


def record_begin(instance: InstanceLayout, record: WorkerRecord, touched: tuple[str, ...]) -> None:
    """Record that a change of these servers begins."""
    _write_record(instance, msgspec.structs.replace(record, pending=touched))


def record_loaded(instance: InstanceLayout, record: WorkerRecord) -> None:
    """Record that the worker has loaded what is committed."""
    revisions = Revisions.of(instance)
    if (digest := revisions.committed) is not None:
        revisions.refer(f"{LOADED}{instance.id}", digest, sync=False)
    _write_record(instance, record)


def is_remembered(instance: InstanceLayout) -> bool:
    """Whether haproxy last came up with what is committed."""
    return reading.committed_digest(instance) == reading.loaded_digest(instance)


def _open_loaded(
    instance: InstanceLayout, wanted: Texts, read: Iterable[ConfigDirectory]
) -> Texts | None:
    """Return the texts with which haproxy last came up; None when they are unknown."""
    manifest = reading.loaded(instance)
    if manifest is None:
        return None
    committed, loaded = digest_committed(instance), digest_texts(instance, manifest)
    same = {name for name, digest in committed.items() if loaded.get(name) == digest}
    if len(same) == len(loaded) == len(wanted):
        return wanted
    return _open(instance, manifest, read, {name for name in same if name in wanted}, wanted)


def _open(
    instance: InstanceLayout,
    manifest: Manifest,
    read: Iterable[ConfigDirectory],
    same: Collection[str] = (),
    wanted: Texts = MappingProxyType({}),
) -> Texts:
    """Return the texts of a manifest: the `same` as in `wanted`, among those `read`, or lazy."""
    revisions, digests = Revisions.of(instance), digest_texts(instance, manifest)
    directory = find_directory(digests, read)
    if directory is not None:
        return directory.texts

    def read_text(name: str) -> str:
        return wanted[name] if name in same else _decode(revisions.read(digests[name]))

    return _LazyTexts(digests, read_text)


def _decode(data: bytes) -> str:
    """Decode a text so that it can be encoded to the same bytes."""
    return data.decode(errors="surrogateescape")


def _read_record(instance: InstanceLayout) -> WorkerRecord | None:
    try:
        return msgspec.json.decode((instance.last_good / _RECORD).read_bytes(), type=WorkerRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write_record(instance: InstanceLayout, record: WorkerRecord) -> None:
    files.make_directory(instance.last_good)
    # The record is about a process, which does not survive a power cut either.
    files.replace_unsynced(instance.last_good / _RECORD, msgspec.json.encode(record))


class ConfigIndex(Generic[T]):
    """Keep what `find` finds in the configuration of each instance; look again only when its files
    change. `keywords` are the directives that `find` needs.
    """

    def __init__(self, find: Callable[[Config], T], keywords: Collection[str]) -> None:
        self._find = find
        self._keywords = keywords
        self._known: dict[ObjectId, tuple[object, T]] = {}

    def find_committed(self, instance: InstanceLayout) -> T:
        """Return what the committed files have. If there are none, parse an empty configuration."""
        indexed = self._look(instance, digest_committed, read_committed)
        return self._find(parser.parse_config("")) if indexed is None else indexed

    def find_loaded(self, instance: InstanceLayout) -> T | None:
        """Return what the files have with which haproxy last came up; None when it never did."""
        return self._look(instance, digest_loaded, read_loaded)

    def _look(
        self,
        instance: InstanceLayout,
        sign: Callable[[InstanceLayout], object],
        read: Callable[[InstanceLayout], Texts],
    ) -> T | None:
        known = self._known.get(instance.id)
        try:
            signature = sign(instance)
        except ContentLost as error:
            logger.error("instance=%s its configuration cannot be read: %s", instance.id, error)
            return known[1] if known else None
        if known is None or not signature or known[0] != signature:
            try:
                content = parser.join_texts(read(instance))
            except FileNotFoundError:
                self._known.pop(instance.id, None)
                return None
            except ContentLost:
                # A listener that nobody can read must still be told of.
                return known[1] if known else self._find(parser.parse_config(_live_text(instance)))
            # Names go into messages, which must be UTF-8.
            content = content.encode(errors="surrogateescape").decode(errors="replace")
            known = signature, self._find(parser.parse_config(content, self._keywords))
            self._known[instance.id] = known
        return known[1]


def _live_text(instance: InstanceLayout) -> str:
    """Return what the live files of an instance say, whoever wrote it."""
    texts = []
    for path in instance.texts_below(instance.directory):
        with contextlib.suppress(FileNotFoundError):
            texts.append(files.text(path))
    return "\n".join(texts).encode(errors="surrogateescape").decode(errors="replace")


def index_listeners() -> ConfigIndex[tuple[queries.ListenerType, ...]]:
    """Keep the listeners of each configuration."""
    return ConfigIndex(queries.list_listeners, queries.LISTENER_KEYWORDS)


def index_pools() -> ConfigIndex[Mapping[str, tuple[str, ...]]]:
    """Keep the pools of each configuration, with the names of their members."""
    return ConfigIndex(queries.list_pools, queries.POOL_KEYWORDS)
