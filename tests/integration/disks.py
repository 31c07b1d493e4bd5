"""Disks that become full, read-only or silent while an agent uses them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

#: Seconds for which a disk stalls at most.
_LONGEST = 60.0


class Disk:
    """A file system of its own, of which `places` are parts."""

    def __init__(self, ending: ExitStack, directory: Path, *places: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        self._top = directory / "disk"
        self._mount(directory)
        ending.callback(self._unmount, self._top)
        for name in places:
            (self._top / name).mkdir()
            (directory / name).mkdir()
            run("mount", "--bind", self._top / name, directory / name)
            ending.callback(self._unmount, directory / name)

    def break_(self) -> None:
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError

    def _mount(self, directory: Path) -> None:
        self._top.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=4m", "none", self._top)

    def _unmount(self, place: Path) -> None:
        run("umount", "--lazy", place)


class FullDisk(Disk):
    """Has no room, after which it has."""

    def break_(self) -> None:
        with contextlib.suppress(OSError), open(self._top / "filler", "ab", buffering=0) as filler:
            while True:
                filler.write(b"0" * 4096)

    def heal(self) -> None:
        (self._top / "filler").unlink(missing_ok=True)


class ReadOnlyDisk(Disk):
    def break_(self) -> None:
        run("mount", "-o", "remount,ro", self._top)

    def heal(self) -> None:
        run("mount", "-o", "remount,rw", self._top)


class StalledDisk(Disk):
    """Whoever writes to it waits, and cannot be killed."""

    _frozen = False

    def _mount(self, directory: Path) -> None:
        self._top.mkdir()
        image = directory / "disk.ext4"
        with open(image, "wb") as file:
            file.truncate(16 << 20)
        run("mkfs.ext4", "-q", image)
        try:
            run("mount", "-o", "loop", image, self._top)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no loop devices here: {error.stderr.decode()}")

    def break_(self) -> None:
        # Should the test itself be held, which no deadline ends, it is let go.
        self._rescue = threading.Timer(_LONGEST, self.heal)
        self._rescue.start()
        run("fsfreeze", "--freeze", self._top)
        self._frozen = True

    def heal(self) -> None:
        if self._frozen:
            self._frozen = False
            self._rescue.cancel()
            run("fsfreeze", "--unfreeze", self._top)

    def _unmount(self, place: Path) -> None:
        self.heal()
        super()._unmount(place)


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
