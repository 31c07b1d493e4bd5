"""Replace, extend, lock and remove files and directories.

A file is replaced as a whole or not at all: the new bytes go to a temporary file in the same
directory, are synced, and are renamed over the old name; then the directory is synced. A kill at
any instant leaves the old or the new content, and at most a stray temporary file, which `sweep`
removes when the agent starts. Temporary names begin with `.stage-` and the id of the process that
makes them, so that no reader takes one for a file of its own.
"""

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

STAGE_PREFIX = ".stage-"
_numbers = itertools.count()
#: Temporary files and directories of this process that the disk has refused to remove.
_not_discarded: set[Path] = set()
#: Bytes that `append` reads at the end of a file.
_END = 1 << 16

#: Modes: secrets and configuration, for the agent alone.
PRIVATE = 0o600
#: Files that nobody changes any more.
READ_ONLY = 0o400
#: Scripts and text that others in the amphora read.
PUBLIC = 0o644
#: Programs: for the agent's user alone, and for others.
PRIVATE_PROGRAM, PROGRAM = 0o700, 0o755


# Temporary files


def name_temporary(directory: Path) -> Path:
    """Return a new temporary name in a directory. Nothing has this name."""
    path = directory / f"{STAGE_PREFIX}{os.getpid()}-{next(_numbers)}"
    _remove_any(path)  # of an earlier process with this id
    return path


def write_beside(destination: Path, data: bytes, mode: int, *, sync: bool = False) -> Path:
    """Write a temporary file in the directory of `destination`; return its path. The caller renames
    or discards it. Raises as `write`."""
    path = name_temporary(destination.parent)
    try:
        fill(path, data, mode, sync=sync)
    except BaseException:  # also KeyboardInterrupt: a half-written file must not stay
        discard(path)
        raise
    return path


def fill(path: Path, data: bytes, mode: int = PRIVATE, *, sync: bool) -> None:
    """Make a new file. It is incomplete for a moment: nobody else may know its directory or name.
    Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(descriptor, mode)
        if sync:
            os.fsync(descriptor)


def rename(temporary: Path, name: Path) -> None:
    """Give a temporary file its name; discard it if that fails. Raises OSError."""
    try:
        os.replace(temporary, name)
    except BaseException:  # also KeyboardInterrupt
        discard(temporary)
        raise


def discard(path: Path) -> None:
    """Remove a temporary file or directory. What the disk refuses to remove goes with the next call
    of `discard` or `discard_left`, or with `sweep` when the agent starts."""
    _not_discarded.add(path)
    discard_left()


def discard_left() -> None:
    """Remove what the disk has refused to remove before."""
    for path in _not_discarded.copy():
        with contextlib.suppress(OSError):
            _remove_any(path)
            _not_discarded.discard(path)


def _remove_any(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        remove_tree(path)


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Make a new directory for the agent alone, and remove it after the block."""
    path = name_temporary(parent)
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        discard(path)


def open_nameless(directory: Path) -> BinaryIO:
    """Open a new file without a name, to write and to read: a process that ends leaves nothing.
    Raises OSError."""
    import tempfile  # only here: short commands start faster without it

    return tempfile.TemporaryFile(dir=directory, buffering=0, prefix=STAGE_PREFIX)


def sweep(directory: Path, *, deep: bool = True) -> None:
    """Remove temporary files and directories that a killed agent left in `directory`, and if `deep`
    also below it.

    Those of living processes stay: another part of the agent is at work. (A process id that is
    used again protects a stray file until the next sweep.)
    """
    for root, directories, names in os.walk(directory):
        for name in filter(_is_stray, names):
            Path(root, name).unlink(missing_ok=True)
        for name in filter(_is_stray, directories):
            remove_tree(Path(root, name))
        kept = [name for name in directories if not name.startswith(STAGE_PREFIX)]
        directories[:] = kept if deep else []


def _is_stray(name: str) -> bool:
    maker = name.removeprefix(STAGE_PREFIX).partition("-")[0]
    return name.startswith(STAGE_PREFIX) and not Path("/proc", maker).exists()


# Replacing


class Staged(contextlib.AbstractContextManager["Staged"]):
    """Bytes that are safe on disk beside their destination, and not yet in its place.

    Use as a context manager: leaving it without `commit` discards the temporary file.
    """

    def __init__(self, destination: Path, data: bytes, mode: int) -> None:
        make_directory(destination.parent)
        self.destination = destination
        self.path = write_beside(destination, data, mode, sync=True)

    def commit(self) -> None:
        """Put the bytes in place, and return only when a power cut cannot undo it."""
        os.replace(self.path, self.destination)
        sync_names(self.destination.parent)

    def __exit__(self, *exc_info: object) -> None:
        discard(self.path)


def write(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace `destination` with `data` at one instant.

    Raises:
        OSError: the disk refused; the file is as it was, or has `data`, which a power cut may undo.
    """
    with Staged(destination, data, mode) as staged:
        staged.commit()


def replace_unsynced(
    destination: Path, data: bytes, mode: int = PRIVATE, *, sync_data: bool = False
) -> None:
    """Replace `destination` with `data` at one instant; a power cut may undo it. With `sync_data`
    its bytes, though not its name, are on disk afterwards. Raises as `write`."""
    rename(write_beside(destination, data, mode, sync=sync_data), destination)


def provide(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write `destination` unless it has `data` already. Raises as `write`."""
    if not has(destination, data):
        write(destination, data, mode)


def has(path: Path, data: bytes) -> bool:
    """Return whether there is such a file, with these bytes."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def sync_names(*directories: Path) -> None:
    """Have the names in directories on disk."""
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_everything() -> None:
    """Have all that was written by now on disk: for many files one call costs less."""
    os.sync()


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file, which takes a part of it when the disk fills up.
    Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


# Files that grow


def append(path: Path, line: Callable[[bytes], bytes], *, limit: int, before: Path) -> None:
    """Add a line to a file for the agent alone, in one write that is not synced. A file that would
    exceed `limit` bytes becomes `before`, and the line the first of a new one.

    `line` makes the line from the end of the file (64 KiB at most). One process appends at a time.
    A torn line, of a kill or a full disk, stays alone: the next begins on a line of its own.

    Raises:
        OSError: the disk refuses, or (TimeoutError) another process has held the file for a
            second.
    """
    deadline = time.monotonic() + 1.0
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        try:
            _lock_in_time(descriptor, path, deadline)
            if not _is_named(descriptor, path):  # it has become `before` meanwhile
                continue
            end, size = _read_end(path), os.fstat(descriptor).st_size
            added = line(end or _read_end(before))
            if size and size + len(added) > limit:
                os.replace(path, before)
                continue
            if end and not end.endswith(b"\n"):
                added = b"\n" + added
            if os.write(descriptor, added) < len(added):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return
        finally:
            os.close(descriptor)


def _lock_in_time(descriptor: int, path: Path, deadline: float) -> None:
    """Raises TimeoutError."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(path)) from None
            time.sleep(0.005)


def _read_end(path: Path) -> bytes:
    """Return the last bytes of a file; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
        return file.read(_END)
    return b""


def lines_backwards(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that only grows, the last one first; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            end = size
            while end > 0:
                begin = content.rfind(b"\n", 0, end - 1) + 1
                yield content[begin:end].rstrip(b"\n")
                end = begin


def cap(path: Path, limit: int) -> None:
    """Empty the file when it is larger than `limit` bytes; for output opened to append."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            os.truncate(path, 0)


# Locks


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`: one thread of one process at a time, of all on this machine.

    The file is made when missing, and stays, unless the holder of the lock removes it. A killed
    process holds nothing.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Removed while this process waited, it is no more the lock that others take.
            if _is_named(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked_for(owner: Path, path: Path) -> Iterator[None]:
    """Hold the lock `path` of what is at `owner`. The lock file goes when that is no more."""
    make_directory(path.parent)
    with locked(path):
        try:
            yield
        finally:
            if not owner.exists():
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock `path` if nobody else does; yield whether it is held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _is_named(descriptor, path)
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


# Directories, and removing


def make_directory(path: Path) -> None:
    """Make `path` and its parents, for the agent and the groups that it serves to traverse. An
    existing one is only looked at: a stalled disk would hold the caller."""
    if not path.is_dir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)


def make_private_directory(path: Path) -> None:
    """Make `path` for the agent alone (keys live in it)."""
    make_private_directories(path, path)


def make_private_directories(path: Path, top: Path) -> None:
    """Make `top`, `path` and the directories between, for the agent alone."""
    if path.is_dir():
        return
    make_directory(top.parent)
    for directory in (*reversed(path.parents), path):
        if directory.is_relative_to(top):
            directory.mkdir(mode=0o700, exist_ok=True)


def remove(path: Path) -> bool:
    """Remove a file for good; return False when there was none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_names(path.parent)
    return True


def remove_at_once(path: Path) -> None:
    """Remove a directory and all in it at one instant: it loses its name first, and is discarded as
    temporary files are. Do nothing if there is none.

    Raises:
        OSError: the disk refused; all is there, or nothing, which a power cut may undo.
    """
    temporary = name_temporary(path.parent)
    try:
        path.rename(temporary)
    except FileNotFoundError:
        return
    discard(temporary)
    sync_names(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; do nothing if there is none."""
    import shutil  # only here: short commands start faster without it

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
