"""Give up root for good: the worker that speaks with whoever reaches the API's port is a user's who
may do nothing."""

import ctypes
import os
import pwd
from typing import NamedTuple

#: Options of prctl(2), and the version of capset(2) with two words for each set.
_CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT, _CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION = 0x20080522
_MOST_CAPABILITIES = 64


class User(NamedTuple):
    """An unprivileged user."""

    name: str
    uid: int
    gid: int


def find_user(name: str) -> User | None:
    """Return a user; None if there is none of this name, or it is root."""
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    return User(name, found.pw_uid, found.pw_gid) if found.pw_uid else None


def become(user: User) -> None:
    """Make this process the user's, with no group besides, no capability in any set, and no way to
    get one.

    The kernel takes the process from the user's other processes, too: none may trace it, or dump
    its memory.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir("/")
    for capability in range(_MOST_CAPABILITIES):
        # It fails at the first one that this kernel does not know.
        if libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0):
            break
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _require_done(libc.prctl(_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    _require_done(libc.capset(header, nothing))
    _require_done(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _require_done(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot give up root: {os.strerror(number)}")
