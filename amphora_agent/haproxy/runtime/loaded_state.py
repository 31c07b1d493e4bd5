"""What the worker of an instance has loaded, and whether that is known for sure.

A reference names the files with which haproxy last came up, as runtime changes have carried them on
since; a record says of which worker that is true. A kill at any instant leaves a record that is
true or one that is doubtful: a change is written down before its first command, and ends when the
reference names the new files. Nothing of it need outlive haproxy, so a power cut that tears it does
no harm.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from amphora_agent import files
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.runtime import config_dir
from amphora_agent.haproxy.runtime.config_dir import ConfigDirectory
from amphora_agent.haproxy.update.planner import FileChange, Plan
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import CERTIFICATES, LOADED, ContentLost, Manifest, Revisions
from amphora_agent.supervisor.identity import start_time

_RECORD = "activation.json"
#: Digests of texts by the names of their files.
Digests = Mapping[str, str]


class WorkerRecord(msgspec.Struct, frozen=True):
    """`worker` is the process that loaded the last good files, `program` the version of haproxy
    that it was started with.

    `pending` are the servers, as `<backend>/<server>`, that a change was about to touch; None when
    every change has ended. `left_over` are servers that are gone from the configuration and that
    haproxy could not delete yet. `certificates_changed`: the worker has been given certificates
    while it ran; None when an older agent has not written that down.
    """

    worker: str
    program: str
    pending: tuple[str, ...] | None = None
    left_over: tuple[str, ...] = ()
    certificates_changed: bool | None = None


class LoadedState(NamedTuple):
    """What a worker has loaded: these texts. `doubt` says why that is not for sure; empty when it
    is. `record` is None when the worker is another one than that of the last good files."""

    texts: Texts
    doubt: str
    record: WorkerRecord | None


class PreparedPlan(NamedTuple):
    """How to get from texts with these digests to those that are committed, by a haproxy whose
    program has this signature."""

    before: Digests
    program: object
    plan: Plan


class _Unread(Mapping[str, str]):
    """Texts by the names of their files, each read when it is looked at first."""

    def __init__(self, readers: Mapping[str, Callable[[], str]]) -> None:
        self._readers = {name: cache(read) for name, read in readers.items()}

    def __getitem__(self, name: str) -> str:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def identify_worker(pid: int) -> str:
    """What tells a worker from every other process there was or will be."""
    return f"{pid} {start_time(pid)}"


def read_committed(instance: InstanceLayout) -> Texts:
    """What is to run.

    Raises:
        FileNotFoundError
    """
    return _texts(instance, reading.committed(instance), instance.directory)


def read_loaded(instance: InstanceLayout) -> Texts:
    """What ran when haproxy last came up.

    Raises:
        FileNotFoundError: it never did.
    """
    return _texts(instance, reading.loaded(instance), instance.last_good)


def find_loaded_texts(instance: InstanceLayout | None) -> Texts:
    """What an instance has loaded, if there is one and that can be read."""
    with contextlib.suppress(FileNotFoundError, ContentLost):
        return read_loaded(instance) if instance is not None else {}
    return {}


def _texts(instance: InstanceLayout, manifest: Manifest | None, old: Path) -> Texts:
    """The texts of a manifest; those of an older agent's files in the directory `old`, until this
    one has adopted them.

    Raises:
        FileNotFoundError
    """
    found: Texts = {}
    if manifest is not None:
        read = Revisions.of(instance).read
        found = {
            name: _decoded(read(manifest[name].digest)) for name in instance.texts_in(manifest)
        }
    elif not instance.revisions.exists():
        found = {path.name: files.text(path) for path in instance.texts_below(old)}
    if not found:
        raise FileNotFoundError(str(instance.configuration))
    return found


def open_committed(instance: InstanceLayout, read: Iterable[ConfigDirectory] = ()) -> Texts:
    """The same, as long as it stays committed: each text is read when it is looked at, if it is.
    They may be among those `read`."""
    return _unread(instance, reading.committed(instance) or {}, read)


def digest_committed(instance: InstanceLayout) -> Digests:
    """The digests of the texts that are to run."""
    return digest_texts(instance, reading.committed(instance) or {})


def digest_texts(instance: InstanceLayout, manifest: Manifest) -> Digests:
    """The digests of the texts in a manifest."""
    return {name: manifest[name].digest for name in instance.texts_in(manifest)}


def find_loaded_state(
    instance: InstanceLayout,
    pid: int,
    program: str,
    wanted: Texts,
    read: Iterable[ConfigDirectory] = (),
) -> LoadedState | None:
    """What the worker with this pid has loaded; None when nothing is known of it.

    `program` is the version of haproxy that is installed. Of `wanted`, the committed texts, that
    is taken which has the same content; or what is there of those `read`.
    """
    texts = _good_texts(instance, wanted, read)
    if texts is None:
        return None
    record = _read(instance)
    if record is None or record.worker != identify_worker(pid):
        return LoadedState(texts, "the worker is another one than was last made to run", None)
    if record.program != program:
        return LoadedState(texts, f"haproxy {record.program} was replaced by {program}", record)
    if record.pending is not None:
        return LoadedState(texts, "an earlier change did not come to its end", record)
    return LoadedState(texts, "", record)


def digest_loaded(instance: InstanceLayout) -> Digests:
    """The digests of what was loaded when haproxy last came up."""
    return digest_texts(instance, reading.loaded(instance) or {})


def find_file_changes(instance: InstanceLayout, wanted: Manifest | None = None) -> list[FileChange]:
    """Return the files that texts may name, and whose content differs from what the worker loaded.
    `wanted` is what is to be
    committed, if that is not committed yet."""
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
    """Whether a change began and did not come to its end."""
    record = _read(instance)
    return record is not None and record.pending is not None


def record_begin(instance: InstanceLayout, record: WorkerRecord, touched: tuple[str, ...]) -> None:
    """Note that a change of these servers begins."""
    _write(instance, msgspec.structs.replace(record, pending=touched))


def record_loaded(instance: InstanceLayout, record: WorkerRecord) -> None:
    """Note that the worker has loaded what is committed."""
    revisions = Revisions.of(instance)
    if (digest := revisions.committed) is not None:
        revisions.refer(f"{LOADED}{instance.id}", digest, sync=False)
    _write(instance, record)


def is_remembered(instance: InstanceLayout) -> bool:
    """Whether what is committed is what came up last."""
    return reading.committed_digest(instance) == reading.loaded_digest(instance)


def _good_texts(
    instance: InstanceLayout, wanted: Texts, read: Iterable[ConfigDirectory]
) -> Texts | None:
    """What was loaded when haproxy last came up; None when that is not known."""
    manifest = reading.loaded(instance)
    if manifest is None:
        return None
    good = digest_texts(instance, manifest)
    same = {name for name, digest in digest_committed(instance).items() if good.get(name) == digest}
    if len(same) == len(good) == len(wanted):
        return wanted
    return _unread(instance, manifest, read, {name: wanted for name in same if name in wanted})


def _unread(
    instance: InstanceLayout,
    manifest: Manifest,
    read: Iterable[ConfigDirectory],
    known: Mapping[str, Texts] = MappingProxyType({}),
) -> Texts:
    """The texts of a manifest, if they are not all among those `read`; those `known` are taken from
    there."""
    revisions, wanted = Revisions.of(instance), digest_texts(instance, manifest)
    found = config_dir.find_directory(wanted, read)
    if found is not None:
        return found.texts

    def read_text(name: str) -> str:
        return _decoded(revisions.read(wanted[name]))

    return _Unread(
        {
            name: partial(known[name].__getitem__ if name in known else read_text, name)
            for name in wanted
        }
    )


def _decoded(data: bytes) -> str:
    """Text from which its bytes can be told."""
    return data.decode(errors="surrogateescape")


def _read(instance: InstanceLayout) -> WorkerRecord | None:
    try:
        return msgspec.json.decode((instance.last_good / _RECORD).read_bytes(), type=WorkerRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write(instance: InstanceLayout, record: WorkerRecord) -> None:
    files.make_directory(instance.last_good)
    # It speaks of a process, which does not survive a power cut either.
    files.replace_unsynced(instance.last_good / _RECORD, msgspec.json.encode(record))
