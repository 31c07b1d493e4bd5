"""Effects of an agent that fail, at the system call (faults.c, which is preloaded).

    faults = Faults(directory)
    agent = AgentProcess(..., environment=faults.environment(word_of_its_command_line))
    with faults.recorded() as effects:
        ...
    with faults.injected(Fault(effects[3], errno.ENOSPC)):
        ...

What is recorded is what the agent really does: an effect that is new is among them by itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("faults.c")
_NAME, _RECORD = 512, 4 << 20
_OFF, _RECORDING, _FAILING = range(3)

#: Instead of an error: half of the bytes are written.
SHORT = -1

_FULL = (errno.ENOSPC, errno.EIO, errno.EROFS)
#: With what each call may fail. An effect of another call has `_ANY`.
_ERRORS: dict[str, tuple[int, ...]] = {
    "open-to-write": (errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EIO),
    "open-to-read": (errno.EMFILE, errno.EIO),
    "list": (errno.EMFILE, errno.EIO),
    "read": (errno.EIO,),
    "write": (errno.ENOSPC, SHORT, errno.EIO),
    "sync": (errno.EIO, errno.ENOSPC),
    "truncate": (errno.EIO, errno.EROFS),
    "allocate": (errno.ENOSPC, errno.EIO),
    "rename": _FULL,
    "link": (*_FULL, errno.EMLINK),
    "symlink": _FULL,
    "mkdir": _FULL,
    "unlink": (errno.EIO, errno.EROFS),
    "rmdir": (errno.EIO, errno.EROFS),
    "chmod": (errno.EIO, errno.EROFS),
    "chown": (errno.EIO, errno.EROFS),
    "utimes": (errno.EIO, errno.EROFS),
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "thread": (errno.EAGAIN,),
    "execute": (errno.ENOMEM, errno.EACCES),
    "signal": (errno.EPERM,),
    "signal-group": (errno.EPERM,),
    "pidfd-open": (errno.EMFILE, errno.ENOMEM),
    "socket": (errno.EMFILE, errno.ENOMEM),
    "socketpair": (errno.EMFILE,),
    "accept": (errno.EMFILE, errno.ENOMEM),
    "connect": (errno.ECONNREFUSED, errno.EAGAIN),
    "bind": (errno.ENOMEM, errno.EADDRINUSE),
    "send": (errno.EPIPE, errno.ENOBUFS),
    "receive": (errno.ECONNRESET, errno.ENOBUFS),
    "setns": (errno.EPERM, errno.ENOMEM),
    "unshare": (errno.ENOSPC, errno.ENOMEM),
    "mount": (errno.ENOMEM,),
    "umount": (errno.EBUSY,),
    "pipe": (errno.EMFILE,),
    "dup": (errno.EMFILE,),
    "epoll": (errno.EMFILE,),
}
_ANY = (errno.EIO,)
#: What no file of the kernel's own has.
_OF_DISKS = frozenset((errno.ENOSPC, errno.EROFS, SHORT))
_TAKING_ROOM = frozenset(("write", "open-to-write", "mkdir", "link", "symlink"))


class _Control(ctypes.Structure):
    """`struct control` of faults.c."""

    _fields_ = (
        ("mode", ctypes.c_uint32),
        ("process", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("number", ctypes.c_uint32),
        ("lasting", ctypes.c_uint32),
        ("seen", ctypes.c_uint32),
        ("hit", ctypes.c_uint32),
        ("tail", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("name", ctypes.c_char * _NAME),
        ("directory", ctypes.c_char * _NAME),
        ("record", ctypes.c_char * _RECORD),
    )


@dataclass(frozen=True, order=True)
class Effect:
    """The `number`-th effect of its name, from 0: the call, and what it is about."""

    name: str
    number: int

    @property
    def call(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def target(self) -> str:
        return self.name.partition(" ")[2]

    def faults(self) -> Iterator[Fault]:
        """Every way in which it may fail."""
        of_a_disk = not self.target.startswith(("/proc/", "/sys/"))
        for error in _ERRORS.get(self.call, _ANY):
            if of_a_disk or error not in _OF_DISKS:
                yield Fault(self, error)
        if self.call in _TAKING_ROOM and self.target.startswith("~/"):
            yield Fault(self, errno.ENOSPC, lasting=True)

    def __str__(self) -> str:
        return f"{self.name} [{self.number}]"


@dataclass(frozen=True, order=True)
class Fault:
    """How an effect fails. `lasting`: from then on the disk is full."""

    effect: Effect
    error: int
    lasting: bool = False

    def __str__(self) -> str:
        error = "half of the bytes" if self.error == SHORT else errno.errorcode[self.error]
        return f"{self.effect}: {error}{' from then on' if self.lasting else ''}"


class Faults:
    """The faults of one agent, which is started with `environment`, and keeps its files below
    `directory`: the disk that is full in a lasting fault. `name` is for several in one place."""

    def __init__(self, directory: Path, name: str = "faults") -> None:
        self._library = directory / f"{name}.so"
        self._file = directory / name
        command = ("gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE), "-ldl")
        subprocess.run(command, check=True)
        with open(self._file, "wb") as file:
            file.truncate(ctypes.sizeof(_Control))
        with open(self._file, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._control = _Control.from_buffer(self._memory)
        self._control.size = _RECORD
        self._control.directory = os.fsencode(directory)

    def environment(self, word: str) -> dict[str, str]:
        """Of an agent whose command line has this word."""
        return {
            "LD_PRELOAD": str(self._library),
            "AMPHORA_FAULTS": str(self._file),
            "AMPHORA_FAULTS_WORD": word,
        }

    @contextmanager
    def recorded(self, process: int = 0) -> Iterator[list[Effect]]:
        """Find the effects of a process and of its children (0: of all); the list is filled when
        the block ends."""
        effects: list[Effect] = []
        self._control.tail = 0
        self._control.process = process
        self._control.mode = _RECORDING
        try:
            yield effects
        finally:
            self._control.mode = _OFF
        assert self._control.tail <= _RECORD, "the record has room for all of them"
        start = _Control.record.offset
        text = self._memory[start : start + self._control.tail].decode(errors="replace")
        counted: Counter[str] = Counter()
        for name in text.splitlines():
            effects.append(Effect(name, counted[name]))
            counted[name] += 1

    @contextmanager
    def injected(self, fault: Fault, process: int = 0) -> Iterator[None]:
        """Let one effect fail, once, while the block lasts."""
        control = self._control
        control.seen = control.hit = 0
        control.error, control.lasting = fault.error, fault.lasting
        control.number = fault.effect.number
        control.name = fault.effect.name.encode()
        control.process = process
        control.mode = _FAILING
        try:
            yield
        finally:
            control.mode = _OFF

    @property
    def hit(self) -> bool:
        """Whether the last fault has come to pass."""
        return bool(self._control.hit)
