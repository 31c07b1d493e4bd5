"""What the worker of an instance has loaded, and whether that is known for sure.

`last-good` holds links to the files with which haproxy last came up, as runtime changes have
carried them on since, and a record of the worker that this is true of. A kill at any instant
leaves a record that is true or one that is doubtful: a change is written down before its first
command, and ends when the links name the new files. Nothing of it need outlive haproxy, so a power
cut that tears it does no harm.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent import files
from amphora_agent.haproxy import directory
from amphora_agent.haproxy.directory import Directory
from amphora_agent.haproxy.plan import FileChange, Plan
from amphora_agent.haproxy.text import Texts
from amphora_agent.layout import InstanceLayout
from amphora_agent.processes.identity import start_time

_RECORD = "activation.json"
#: What haproxy is told to load, and what it never sees.
_NOT_NAMED = frozenset({".cfg", ".json"})


class Record(msgspec.Struct, frozen=True):
    """`worker` is the process that `last-good` is true of, `program` the version of haproxy that it
    was started with.

    `pending` are the servers, as `<backend>/<server>`, that a change was about to touch; None when
    every change has ended. `left_over` are servers that are gone from the configuration and that
    haproxy could not delete yet.
    """

    worker: str
    program: str
    pending: tuple[str, ...] | None = None
    left_over: tuple[str, ...] = ()


class Loaded(NamedTuple):
    """What a worker has loaded: these texts. `doubt` says why that is not for sure; empty when it
    is. `record` is None when the worker is another one than that of the last good files."""

    texts: Texts
    doubt: str
    record: Record | None


class Foreseen(NamedTuple):
    """How to get from files with these signatures to those that are committed, by a haproxy whose
    program has this one."""

    before: tuple[object, ...]
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


class _UnreadDirectory(Mapping[str, str]):
    """The texts of a directory, all read when one of them is looked at first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _texts(self) -> Texts:
        return directory.read(self._path).texts

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def identity(pid: int) -> str:
    """What tells a worker from every other process there was or will be."""
    return f"{pid} {start_time(pid)}"


def committed(instance: InstanceLayout) -> Texts:
    """What is to run.

    Raises:
        FileNotFoundError
    """
    return {path.name: files.text(path) for path in instance.sources}


def unread(instance: InstanceLayout, read: Iterable[Directory] = ()) -> Texts:
    """The same, as long as it stays committed: each text is read when it is looked at, if it is.
    That of a declared instance may be among those `read`."""
    if instance.declared:
        return _of_directory(instance.current, read)
    return _Unread({path.name: partial(files.text, path) for path in instance.sources})


def signatures(paths: Iterable[Path]) -> tuple[object, ...]:
    """What tells these files from what they have been or will be under these names."""
    return tuple(files.signature(path) for path in paths)


def loaded(
    instance: InstanceLayout,
    pid: int,
    program: str,
    wanted: Texts,
    read: Iterable[Directory] = (),
) -> Loaded | None:
    """What the worker with this pid has loaded; None when nothing is known of it.

    `program` is the version of haproxy that is installed. Of `wanted`, the committed texts, that
    is taken which is the same file; or what is there of those `read`.
    """
    texts = _good_texts(instance, wanted, read)
    if texts is None:
        return None
    record = _read(instance)
    if record is None or record.worker != identity(pid):
        return Loaded(texts, "the worker is another one than was last made to run", None)
    if record.program != program:
        return Loaded(texts, f"haproxy {record.program} was replaced by {program}", record)
    if record.pending is not None:
        return Loaded(texts, "an earlier change did not come to its end", record)
    return Loaded(texts, "", record)


def good_signatures(instance: InstanceLayout) -> tuple[object, ...]:
    """The signatures of what was loaded when haproxy last came up."""
    return signatures((instance.good,) if instance.declared else instance.good_sources)


def file_changes(instance: InstanceLayout, staged: Path | None = None) -> list[FileChange]:
    """Which files that texts name the worker has loaded otherwise than they are now: certificates,
    and of a declared instance whatever else is there. Links to the same file agree; only the others
    are read. `staged` is where a declared instance's files are that are not committed yet.
    """
    changes = _changes(
        instance.good / "certificates",
        staged / "certificates" if staged else instance.certificates,
        instance.certificates,
    )
    if instance.declared:
        changes += _changes(instance.good, staged or instance.current, instance.current)
    return changes


def _changes(before: Path, after: Path, called: Path) -> list[FileChange]:
    """Of two directories; in the texts the second is `called` so."""
    inodes_before, inodes_after = files.inodes(before), files.inodes(after)
    differing = {name for name, _ in inodes_before.items() ^ inodes_after.items()}
    changes = []
    for name in sorted(differing):
        if Path(name).suffix in _NOT_NAMED:
            continue
        was = (before / name).read_bytes() if name in inodes_before else None
        now = (after / name).read_bytes() if name in inodes_after else None
        if was != now:
            changes.append(FileChange(str(called / name), was, now))
    return changes


def interrupted(instance: InstanceLayout) -> bool:
    """Whether a change began and did not come to its end."""
    record = _read(instance)
    return record is not None and record.pending is not None


def begin(instance: InstanceLayout, record: Record, touched: tuple[str, ...]) -> None:
    """Note that a change of these servers begins."""
    _write(instance, msgspec.structs.replace(record, pending=touched))


def remember(instance: InstanceLayout, record: Record) -> None:
    """Note that the worker has loaded what is committed."""
    if instance.declared:
        files.make_private_directory(instance.last_good)
        files.point(instance.good, str(instance.current.resolve()), sync=False)
    else:
        files.mirror(instance.certificates, instance.good / "certificates")
        files.keep_as(instance.addition, _good(instance, instance.addition))
        files.keep_as(instance.configuration, _good(instance, instance.configuration))
    _write(instance, record)


def is_remembered(instance: InstanceLayout) -> bool:
    """Whether the files that are committed, beside the texts, are kept as those that came up last:
    certificates that no text names, and whatever a declared instance has."""
    if not instance.declared:
        kept = instance.good / "certificates"
        return files.inodes(instance.certificates) == files.inodes(kept)
    try:
        return instance.good.readlink() == instance.current.resolve()
    except OSError:
        return False


def restore(instance: InstanceLayout) -> bool:
    """Commit the last good files again; without any, the instance has no configuration again. Those
    of a declared instance whoever committed them puts back: there may be others with it.

    What was committed is kept for a person to read.
    """
    if instance.declared:
        return False
    files.keep_as(instance.configuration, instance.rejected)
    if not _good(instance, instance.configuration).exists():
        files.remove(instance.configuration)
        return False
    files.mirror(instance.good / "certificates", instance.certificates)
    files.keep_as(_good(instance, instance.addition), instance.addition)
    files.keep_as(_good(instance, instance.configuration), instance.configuration)
    return True


def _good_texts(instance: InstanceLayout, wanted: Texts, read: Iterable[Directory]) -> Texts | None:
    """What was loaded when haproxy last came up; None when that is not there."""
    try:
        if instance.declared:
            if instance.good.samefile(instance.current):
                return wanted
            return _of_directory(instance.good, read)
        committed = {path.name: path for path in instance.sources}
        readers = {
            path.name: partial(wanted.__getitem__, path.name)
            if path.samefile(committed[path.name])
            else partial(files.text, path)
            for path in instance.good_sources
        }
    except FileNotFoundError:
        return None
    return _Unread(readers)


def _of_directory(path: Path, read: Iterable[Directory]) -> Texts:
    known = directory.one_at(path, read)
    return _UnreadDirectory(path) if known is None else known.texts


def _good(instance: InstanceLayout, path: Path) -> Path:
    return instance.good / path.name


def _read(instance: InstanceLayout) -> Record | None:
    try:
        return msgspec.json.decode((instance.last_good / _RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write(instance: InstanceLayout, record: Record) -> None:
    # It speaks of a process, which does not survive a power cut either.
    files.note(instance.last_good / _RECORD, msgspec.json.encode(record))
