"""Symbolic links, second names, FIFOs and permissions; lists and signatures of files."""

import contextlib
import errno
import os
import stat
from pathlib import Path

from amphora_agent.files import atomic

# Links and FIFOs


def point(name: Path, target: str, *, sync: bool = True) -> None:
    """Make a symbolic link, or let an existing one lead elsewhere, at one instant. Without `sync` a
    power cut may undo it.

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
            atomic.sync_names(name.parent)
    except BaseException:  # also KeyboardInterrupt: a caller that is told of a failure finds it so
        if before is None:
            name.unlink()
        else:
            _replace_link(name, before)
        raise


def touch_link(name: Path) -> None:
    """Make the time of a symbolic link the present one. Raises OSError."""
    os.utime(name, follow_symlinks=False)


def _replace_link(name: Path, target: str) -> None:
    temporary = atomic.name_temporary(name.parent)
    os.symlink(target, temporary)
    atomic.rename(temporary, name)


def refer(name: Path, target: str) -> None:
    """Make a symbolic link, whose name is not taken yet."""
    os.symlink(target, name)


def keep_or_copy(source: Path, copy: Path) -> None:
    """Give `source`, whatever kind of file it is, a second name for the agent alone; on another
    file system, copy it."""
    temporary = atomic.name_temporary(copy.parent)
    try:
        try:
            os.link(source, temporary, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            temporary = atomic.write_beside(copy, source.read_bytes(), atomic.PRIVATE)
        if not temporary.is_symlink():
            temporary.chmod(atomic.PRIVATE)
        os.replace(temporary, copy)
    finally:
        atomic.discard(temporary)


def open_fifo(path: Path) -> int:
    """Open a FIFO for reading and writing without waiting; make it first if there is none.

    Raises:
        OSError: it cannot be made or opened.
    """
    atomic.make_private_directory(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISFIFO(path.lstat().st_mode):
            path.unlink()
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, atomic.PRIVATE)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def tighten(path: Path, mode: int) -> bool:
    """Take from a file or directory of the agent's user the permissions beyond `mode`. Return
    whether it has none of them now; a missing file has none.

    What belongs to another user, or cannot be changed, stays as it is.
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


# What files there are


def text(path: Path) -> str:
    """Return a file as text from which its bytes can be restored. Raises FileNotFoundError."""
    return path.read_bytes().decode(errors="surrogateescape")


def inodes_below(directory: Path) -> dict[str, int]:
    """Return the inodes of the regular files below a directory, by their paths in there."""
    inodes: dict[str, int] = {}
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(directory / inside) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{inside}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    inodes[f"{inside}{entry.name}"] = entry.inode()
    return inodes


def inodes(directory: Path) -> dict[str, int]:
    """Return the inodes of the regular files in a directory by name; none if it does not exist."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        return {
            entry.name: entry.inode()
            for entry in entries
            if entry.is_file(follow_symlinks=False)
            and not entry.name.startswith(atomic.STAGE_PREFIX)
        }
    return {}


def signature(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes whenever `path` is replaced or rewritten; None when absent."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
