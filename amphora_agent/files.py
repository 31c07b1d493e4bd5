"""The only writer of files.

A file is replaced whole or not at all: the new bytes go to a temporary file in the same
directory, are synced, and are renamed over the old name; then the directory is synced. A kill at
any instant leaves the old or the new content. What remains possible is a stray temporary file,
which `sweep` removes when the agent starts. Temporary names begin with `.stage-`, so that no
reader that looks for real names ever takes one for a file of its own, and the id of the process
that makes them.
"""

import contextlib
import fcntl
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

_STAGE_PREFIX = ".stage-"
_numbers = itertools.count()
#: Bytes that are compared at once.
_BLOCK = 1 << 18

#: Secrets and configuration: for the agent alone.
PRIVATE = 0o600
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
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.discard()


def write(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace `destination` with `data` at one instant.

    Raises:
        OSError: the disk refused; the file is as it was.
    """
    with Staged(destination, data, mode) as staged:
        staged.commit()


def note(destination: Path, data: bytes) -> None:
    """Replace `destination` with `data` at one instant, for whoever reads it before the machine
    ends: it is not synced. Raises as `write`."""
    path = destination.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    try:
        path.write_bytes(data)
        path.chmod(PRIVATE)
        os.replace(path, destination)
    finally:
        path.unlink(missing_ok=True)


def provide(destination: Path, data: bytes, mode: int = PRIVATE) -> None:
    """See that `destination` has `data`; one that has is not touched. Raises as `write`."""
    if not has(destination, data):
        write(destination, data, mode)


def append(path: Path, line: bytes, *, limit: int, before: Path) -> None:
    """Add a line to a file for the agent alone, in one write that is not synced. A file that would
    exceed `limit` bytes becomes `before`, and the line the first of a new one.

    A torn line, of a kill or a full disk, stays alone: the next begins on a line of its own.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size + len(line) > limit:
            os.replace(path, before)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def has(path: Path, data: bytes) -> bool:
    """Whether there is such a file, with these bytes."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def text(path: Path) -> str:
    """A file as text from which its bytes can be told. Raises FileNotFoundError."""
    return path.read_bytes().decode(errors="surrogateescape")


def keep_as(source: Path, copy: Path) -> bool:
    """Give the present content of `source` a second name, replacing what `copy` named.

    A hard link: it costs nothing, and stays as it is when `source` is replaced later.
    Returns False when there is no `source`.
    """
    make_directory(copy.parent)
    temporary = copy.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{copy.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except FileNotFoundError:
        return False
    os.replace(temporary, copy)
    # Renaming a link over another link to the same file does nothing and leaves the first name.
    temporary.unlink(missing_ok=True)
    return True


def mirror(source: Path, copy: Path) -> None:
    """Make the directory `copy` name exactly the regular files of `source`, by hard links."""
    wanted = inodes(source)
    if wanted:
        make_directory(copy)
    present = inodes(copy)
    for name, inode in wanted.items():
        if present.get(name) != inode:
            keep_as(source / name, copy / name)
    for name in present.keys() - wanted.keys():
        (copy / name).unlink(missing_ok=True)
    if wanted != present:
        _sync_directory(copy)


@contextlib.contextmanager
def staged_directory(destination: Path) -> Iterator[Path]:
    """A new directory for the agent alone, to be filled in the block: it gets its name when that
    ends, and is gone when that raises. Not synced."""
    path = destination.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    remove_tree(path)  # of an earlier process with this id
    path.mkdir(mode=0o700)
    try:
        yield path
        os.rename(path, destination)
    except BaseException:  # also KeyboardInterrupt: a half-made directory must not stay
        remove_tree(path)
        raise


@contextlib.contextmanager
def scratch_directory(parent: Path, spare: Path | None = None) -> Iterator[Path]:
    """A new directory for the agent alone, gone after the block unless it was renamed. It becomes
    of `spare`, with what is in it, if there is that."""
    path = parent / f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}"
    remove_tree(path)  # of an earlier process with this id
    try:
        if spare is not None:
            with contextlib.suppress(FileNotFoundError):
                os.rename(spare, path)
        path.mkdir(mode=0o700, exist_ok=True)
        yield path
    finally:
        remove_tree(path)


def fill(path: Path, data: bytes, *, sync: bool) -> None:
    """Make a new file, for the agent alone, in a directory that nobody knows yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    with open(descriptor, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(descriptor)


def sync_everything() -> None:
    """Have all that was written by now on disk: for many files this costs less than each."""
    os.sync()


def publish(directory: Path, name: Path) -> None:
    """Give a new directory its name, which is not taken; what is in it is on disk already."""
    _sync_directory(directory)
    os.rename(directory, name)
    _sync_directory(name.parent)


def point(name: Path, target: str, *, sync: bool = True) -> None:
    """Make a symbolic link, or let one that is there lead elsewhere, at one instant. Without `sync`
    a power cut may undo it."""
    with contextlib.suppress(OSError):
        if os.readlink(name) == target:
            return
    temporary = name.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, name)
    if sync:
        _sync_directory(name.parent)


def link(source: Path, copy: Path) -> None:
    """Give the present content of `source` a second name, which is not taken yet."""
    os.link(source, copy)


def link_all(source: Path, copy: Path, wanted: Mapping[str, int]) -> None:
    """Make the directory `copy` have the `wanted` files below `source`, and no others, by hard
    links. Files are given by their paths in there, with their inodes; those that `copy` has already
    stay."""
    present = inodes_below(copy)
    for name, inode in present.items():
        if wanted.get(name) != inode:
            os.unlink(f"{copy}/{name}")
    before, after = _directories(present), _directories(wanted)
    for inside in sorted(before - after, reverse=True):
        os.rmdir(copy / inside)
    for inside in sorted(after - before):
        os.mkdir(copy / inside, mode=0o700)
    for name, inode in wanted.items():
        if present.get(name) != inode:
            os.link(f"{source}/{name}", f"{copy}/{name}")


def _directories(names: Iterable[str]) -> set[str]:
    """The directories that paths are in, without the topmost."""
    found = {name.rpartition("/")[0] for name in names}
    for inside in [*found]:
        while inside := inside.rpartition("/")[0]:
            found.add(inside)
    return found - {""}


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


def sizes(directory: Path, besides: Container[int] = ()) -> dict[int, int]:
    """The sizes of the regular files of a directory by inode, without those known already."""
    return {
        entry.inode(): entry.stat(follow_symlinks=False).st_size
        for entry in _regular_files(directory)
        if entry.inode() not in besides
    }


def same(one: Path, other: Path) -> bool:
    """Whether two files are the same, or have the same bytes; False when one is missing."""
    try:
        now, then = one.stat(), other.stat()
        if os.path.samestat(now, then):
            return True
        if now.st_size != then.st_size:
            return False
        with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
            while (block := first.read(_BLOCK)) == second.read(_BLOCK):
                if not block:
                    return True
        return False
    except FileNotFoundError:
        return False


def make_directory(path: Path) -> None:
    """Make `path` and its parents, for the agent and the groups that it serves to traverse."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


def make_private_directory(path: Path) -> None:
    """Make `path` for the agent alone (keys live in it)."""
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def remove(path: Path) -> bool:
    """Remove a file for good; False when there was none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync_directory(path.parent)
    return True


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it; nothing happens when it is not there."""
    import shutil  # only here, and commands that end need it not at all

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def spare_tree(path: Path, spare: Path) -> None:
    """Keep a directory that is of no use any more for one that will be much like it; or remove it,
    if there is a spare one already. Nobody ever sees it by its name with a part of what is in it.
    """
    try:
        os.rename(path, spare)
    except OSError:
        retire_tree(path)


def retire_tree(path: Path) -> None:
    """Remove a directory and all in it; nobody ever sees it by its name with a part of that."""
    retired = path.with_name(f"{_STAGE_PREFIX}{os.getpid()}-{next(_numbers)}")
    remove_tree(retired)  # of an earlier process with this id
    os.rename(path, retired)
    remove_tree(retired)


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
