"""What the worker of an instance has loaded, and whether that is known for sure.

`last-good` holds links to the files with which haproxy last came up, as runtime changes have
carried them on since, and a record of the worker that this is true of. A kill at any instant
leaves a record that is true or one that is doubtful: a change is written down before its first
command, and ends when the links name the new files. Nothing of it need outlive haproxy, so a power
cut that tears it does no harm.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent import files
from amphora_agent.haproxy.plan import FileChange
from amphora_agent.haproxy.text import Texts
from amphora_agent.layout import InstanceLayout
from amphora_agent.processes.identity import start_time

_RECORD = "activation.json"


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


def identity(pid: int) -> str:
    """What tells a worker from every other process there was or will be."""
    return f"{pid} {start_time(pid)}"


def committed(instance: InstanceLayout) -> Texts:
    """What is to run."""
    return {path.name: _text(path) for path in (instance.configuration, instance.addition)}


def loaded(instance: InstanceLayout, pid: int, program: str, wanted: Texts) -> Loaded | None:
    """What the worker with this pid has loaded; None when nothing is known of it.

    `program` is the version of haproxy that is installed. Of `wanted`, the committed texts, that
    is taken which is the same file.
    """
    try:
        texts = {
            path.name: wanted[path.name]
            if _is_same(path, _good(instance, path))
            else _text(_good(instance, path))
            for path in (instance.configuration, instance.addition)
        }
    except FileNotFoundError:
        return None
    record = _read(instance)
    if record is None or record.worker != identity(pid):
        return Loaded(texts, "the worker is another one than was last made to run", None)
    if record.program != program:
        return Loaded(texts, f"haproxy {record.program} was replaced by {program}", record)
    if record.pending is not None:
        return Loaded(texts, "an earlier change did not come to its end", record)
    return Loaded(texts, "", record)


def file_changes(instance: InstanceLayout) -> list[FileChange]:
    """Which certificate files the worker has loaded otherwise than they are now. Links to the same
    file agree; only the others are read."""
    before, after = instance.last_good / "certificates", instance.certificates
    inodes_before, inodes_after = files.inodes(before), files.inodes(after)
    changes = []
    for name in sorted(inodes_before.keys() | inodes_after.keys()):
        if inodes_before.get(name) != inodes_after.get(name):
            was = (before / name).read_bytes() if name in inodes_before else None
            now = (after / name).read_bytes() if name in inodes_after else None
            if was != now:
                changes.append(FileChange(str(after / name), was, now))
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
    good = instance.last_good
    files.mirror(instance.certificates, good / "certificates")
    files.keep_as(instance.addition, _good(instance, instance.addition))
    files.keep_as(instance.configuration, _good(instance, instance.configuration))
    _write(instance, record)


def restore(instance: InstanceLayout) -> bool:
    """Commit the last good files again; without any, the instance has no configuration again.

    What was committed is kept for a person to read.
    """
    files.keep_as(instance.configuration, instance.rejected)
    if not _good(instance, instance.configuration).exists():
        files.remove(instance.configuration)
        return False
    files.mirror(instance.last_good / "certificates", instance.certificates)
    files.keep_as(_good(instance, instance.addition), instance.addition)
    files.keep_as(_good(instance, instance.configuration), instance.configuration)
    return True


def _good(instance: InstanceLayout, path: Path) -> Path:
    return instance.last_good / path.name


def _is_same(one: Path, other: Path) -> bool:
    return one.samefile(other)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="surrogateescape")


def _read(instance: InstanceLayout) -> Record | None:
    try:
        return msgspec.json.decode((instance.last_good / _RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _write(instance: InstanceLayout, record: Record) -> None:
    # It speaks of a process, which does not survive a power cut either.
    files.note(instance.last_good / _RECORD, msgspec.json.encode(record))
