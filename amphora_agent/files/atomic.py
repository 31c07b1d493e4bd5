"""The only writer of files.

A file is replaced whole or not at all: the new bytes go to a temporary file in the same
directory, are synced, and are renamed over the old name; then the directory is synced. A kill at
any instant leaves the old or the new content. What remains possible is a stray temporary file,
which `sweep` removes when the agent starts. Temporary names begin with `.stage-`, so that no
reader that looks for real names ever takes one for a file of its own, and the id of the process
that makes them.
"""

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_STAGE_PREFIX = ".stage-"
_numbers = itertools.count()
#: Temporary files and directories of this process that a disk has refused to remove.
_not_discarded: set[Path] = set()
#: Bytes at the end of a file to which lines are added.
_END = 1 << 16

#: Secrets and configuration: for the agent alone.
PRIVATE = 0o600
#: What nobody changes any more.
READ_ONLY = 0o400
#: Scripts and text that others in the amphora read.
PUBLIC = 0o644
#: Programs: for the agent's user alone, and for others.
PRIVATE_PROGRAM, PROGRAM = 0o700, 0o755


class Staged:
    """Bytes that are safe on disk beside their destination, and not yet in its place.

    Use as a context manager: leaving it without `commit` discards the temporary file.
    """

    def __init__(self, destination: Path, data: bytes, mode: int) -> None:
        make_directory(destination.parent)
        self.destination = destination
        self.path = destination.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
        self.path.unlink(missing_ok=True)  # of an earlier process with this id
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
        except BaseException:  # also KeyboardInterrupt: a half-written stage must not stay
            self.discard()
            raise

    def commit(self) -> None:
        """Put the bytes in place, and return only when a power cut cannot undo it."""
        os.replace(self.path, self.destination)
        _sync_directory(self.destination.parent)

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `commit`."""
        discard(self.path)

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.discard()


def write(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace `destination` with `data` at one instant.

    Raises:
        OSError: the disk refused; the file is as it was, or has `data`, which a power cut may undo.
    """
    with Staged(destination, data, mode) as staged:
        staged.commit()


def note(destination: Path, data: bytes) -> None:
    """Replace `destination` with `data` at one instant, for whoever reads it before the machine
    ends: it is not synced. Raises as `write`."""
    replace_unsynced(destination, data, PRIVATE)


def open_fifo(path: Path) -> int:
    """Open a FIFO for reading and writing without waiting; make it first where there is none.

    Raises:
        OSError: it cannot be made or opened.
    """
    make_private_directory(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(path.lstat().st_mode):
            path.unlink()
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, PRIVATE)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def write_beside(destination: Path, data: bytes, mode: int, *, sync: bool = False) -> Path:
    """Write a temporary file in the directory of `destination`; return its path. Whoever calls this
    renames it, or discards it. Raises as `write`."""
    path = destination.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    path.unlink(missing_ok=True)  # of an earlier process with this id
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
    except BaseException:  # also KeyboardInterrupt: a half-written file must not stay
        discard(path)
        raise
    return path


def discard(path: Path) -> None:
    """Remove a temporary file or directory. One that cannot be removed is removed with the next
    one, by `discard_left`, or swept when the agent starts."""
    _not_discarded.add(path)
    discard_left()


def discard_left() -> None:
    """Remove what the disk has refused to remove."""
    for path in _not_discarded.copy():
        with contextlib.suppress(OSError):
            try:
                path.unlink(missing_ok=True)
            except IsADirectoryError:
                remove_tree(path)
            _not_discarded.discard(path)


def write_read_only(destination: Path, data: bytes, *, sync: bool) -> None:
    """Write a file that nobody changes any more. With `sync` its bytes, though not its name, are on
    disk afterwards. Raises as `write`."""
    path = write_beside(destination, data, READ_ONLY, sync=sync)
    try:
        os.replace(path, destination)
    except BaseException:  # also KeyboardInterrupt
        discard(path)
        raise


def provide(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """See that `destination` has `data`; one that has is not touched. Raises as `write`."""
    if not has(destination, data):
        write(destination, data, mode)


def append(
    path: Path, line: Callable[[bytes], bytes], *, limit: int, before: Path, patience: float = 1.0
) -> None:
    """Add a line to a file for the agent alone, in one write that is not synced. A file that would
    exceed `limit` bytes becomes `before`, and the line the first of a new one.

    `line` makes it from the end of what was written before (64 KiB at most). One process appends at
    a time. A torn line, of a kill or a full disk, stays alone: the next begins on a line of its
    own.

    Raises:
        OSError: the disk refuses, or (TimeoutError) somebody else has held the file for `patience`
            seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        try:
            _lock_in_time(descriptor, path, deadline)
            if not _is_named(descriptor, path):  # it has become `before` meanwhile
                continue
            end, size = _end_of(path), os.fstat(descriptor).st_size
            added = line(end or _end_of(before))
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


def _end_of(path: Path) -> bytes:
    """The last bytes of a file; none when it is not there."""
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
        return file.read(_END)
    return b""


def lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file that only grows, the last one first; none when it is not there."""
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


def has(path: Path, data: bytes) -> bool:
    """Whether there is such a file, with these bytes."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def text(path: Path) -> str:
    """A file as text from which its bytes can be told. Raises FileNotFoundError."""
    return path.read_bytes().decode(errors="surrogateescape")


def keep_or_copy(source: Path, copy: Path) -> None:
    """Give `source`, whatever kind of file it is, a second name for the agent alone; on another
    file system, copy it."""
    temporary = copy.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            temporary = write_beside(copy, source.read_bytes(), PRIVATE)
        if not temporary.is_symlink():
            temporary.chmod(PRIVATE)
        os.replace(temporary, copy)
    finally:
        discard(temporary)


def replace_unsynced(destination: Path, data: bytes, mode: int) -> None:
    """Replace `destination` with `data` at one instant; a power cut may undo it. Raises as
    `write`."""
    path = write_beside(destination, data, mode)
    try:
        os.replace(path, destination)
    except BaseException:  # also KeyboardInterrupt
        discard(path)
        raise


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory for the agent alone, gone after the block."""
    path = parent / f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}"
    remove_tree(path)  # of an earlier process with this id
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        discard(path)


def fill(path: Path, data: bytes, *, sync: bool) -> None:
    """Make a new file, for the agent alone, in a directory that nobody knows yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with open(descriptor, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(descriptor)


def sync_names(*directories: Path) -> None:
    """Have the names in directories on disk."""
    for directory in directories:
        _sync_directory(directory)


def sync_everything() -> None:
    """Have all that was written by now on disk: for many files this costs less than each."""
    os.sync()


def point(name: Path, target: str, *, sync: bool = True) -> None:
    """Make a symbolic link, or let one that is there lead elsewhere, at one instant. Without `sync`
    a power cut may undo it.

    Raises:
        OSError: the disk refused; the link is as it was, unless the disk refuses that, too.
    """
    before = None
    with contextlib.suppress(OSError):
        before = os.readlink(name)
        if before == target:
            return
    _replace_link(name, target)
    try:
        if sync:
            _sync_directory(name.parent)
    except BaseException:  # also KeyboardInterrupt: who is told that it failed finds it so
        if before is None:
            name.unlink()
        else:
            _replace_link(name, before)
        raise


def _replace_link(name: Path, target: str) -> None:
    temporary = name.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    temporary.unlink(missing_ok=True)  # of an earlier process with this id
    os.symlink(target, temporary)
    try:
        os.replace(temporary, name)
    except BaseException:  # also KeyboardInterrupt
        discard(temporary)
        raise


def refer(name: Path, target: str) -> None:
    """Make a symbolic link, whose name is not taken yet."""
    os.symlink(target, name)


def inodes_below(directory: Path) -> dict[str, int]:
    """The regular files below a directory, by their paths in there."""
    found: dict[str, int] = {}
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(directory / inside) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{inside}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    found[f"{inside}{entry.name}"] = entry.inode()
    return found


def inodes(directory: Path) -> dict[str, int]:
    """The regular files of a directory by name; none when it is not there."""
    return {entry.name: entry.inode() for entry in _regular_files(directory)}


def make_directory(path: Path) -> None:
    """Make `path` and its parents, for the agent and the groups that it serves to traverse. One
    that is there is only looked at: a disk that stalls holds whoever would make it."""
    if not path.is_dir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)


def make_private_directory(path: Path) -> None:
    """Make `path` for the agent alone (keys live in it)."""
    make_directory(path.parent)
    if not path.is_dir():
        path.mkdir(mode=0o700, exist_ok=True)


def tighten(path: Path, mode: int) -> bool:
    """Take from a file or directory of the agent's user what `mode` does not allow. Return whether
    it is as it should be: also when it is not there.

    What belongs to somebody else, or cannot be changed, stays as it is.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        present = stat.S_IMODE(status.st_mode)
        if not present & ~mode:
            return True
        if status.st_uid != os.geteuid():
            return False
        os.fchmod(descriptor, present & mode)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def make_private_directories(path: Path, top: Path) -> None:
    """Make `path` and what leads there from `top`, which is made too, for the agent alone."""
    if path.is_dir():
        return
    make_directory(top.parent)
    for each in (*reversed(path.parents), path):
        if each.is_relative_to(top):
            each.mkdir(mode=0o700, exist_ok=True)


def remove(path: Path) -> bool:
    """Remove a file for good; False when there was none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync_directory(path.parent)
    return True


def remove_at_once(path: Path) -> None:
    """Remove a directory and all in it at one instant: what cannot be removed then has no name any
    more by which anybody would find it, and goes as temporary files do. Nothing happens when it is
    not there.

    Raises:
        OSError: the disk refused; all is there, or nothing, which a power cut may undo.
    """
    temporary = path.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    remove_tree(temporary)  # of an earlier process with this id
    try:
        path.rename(temporary)
    except FileNotFoundError:
        return
    discard(temporary)
    _sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; nothing happens when it is not there."""
    import shutil  # only here, and commands that end need it not at all

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that `path` is: one thread of one process at a time, of all on this machine.

    The file is made when missing, and stays, unless who holds the lock removes it. Who is killed
    holds nothing any more.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Removed while it was waited for, it is no more the lock that others take.
            if _is_named(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def open_nameless(directory: Path) -> BinaryIO:
    """Open a new file without a name, to write and to read: whoever ends leaves nothing. Raises
    OSError."""
    import tempfile  # only here, and commands that end need it not at all

    return tempfile.TemporaryFile(dir=directory, buffering=0, prefix=_STAGE_PREFIX)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file, which takes a part of it when the disk fills up.
    Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock that `path` is, if nobody else does; the value says whether."""
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


def cap(path: Path, limit: int) -> None:
    """Empty the file when it is larger than `limit` bytes; for output opened to append."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            os.truncate(path, 0)


def sweep(directory: Path, *, deep: bool = True) -> None:
    """Remove temporary files and directories that a killed agent left below `directory`, or only
    in it.

    Those of processes that live are being written: another part of the agent is at work. (An id
    that is used again protects a stray file until the next sweep.)
    """
    for root, directories, names in os.walk(directory):
        for name in filter(_is_stray, names):
            Path(root, name).unlink(missing_ok=True)
        for name in filter(_is_stray, directories):
            remove_tree(Path(root, name))
        kept = [name for name in directories if not name.startswith(_STAGE_PREFIX)]
        directories[:] = kept if deep else []


def _is_stray(name: str) -> bool:
    maker = name.removeprefix(_STAGE_PREFIX).partition("-")[0]
    return name.startswith(_STAGE_PREFIX) and not Path("/proc", maker).exists()


def signature(path: Path) -> tuple[int, int, int] | None:
    """A value that changes whenever `path` is replaced or rewritten; None when absent."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _is_named(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _regular_files(directory: Path) -> list["os.DirEntry[str]"]:
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return []
    with entries:
        return [
            entry
            for entry in entries
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(_STAGE_PREFIX)
        ]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
