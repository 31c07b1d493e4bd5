"""Directories of texts that nobody changes: what a declared instance loads.

There may be thousands of files in one, and of the next one nearly all are the same. So those that
have been read before are taken from there, and only others are read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.haproxy import signs
from amphora_agent.haproxy.signs import Counted


class Directory(NamedTuple):
    """Texts by the names of their files, in the order in which haproxy loads them. `signature`
    tells the directory from what was or will be under its name, `inodes` its files."""

    signature: object
    inodes: Mapping[str, int]
    texts: Mapping[str, Counted]

    @property
    def size(self) -> int:
        """Characters in all texts."""
        return sum(map(len, self.texts.values()))


def read(path: Path, like: Directory | None = None) -> Directory:
    """Read one; `like` is another one that is still there."""
    inodes = {
        name: inode for name, inode in sorted(files.inodes(path).items()) if name.endswith(".cfg")
    }
    texts: dict[str, Counted] = {}
    shared: dict[tuple[int, ...], Mapping[str, int]] = {}
    for name, inode in inodes.items():
        if like is not None and like.inodes.get(name) == inode:
            texts[name] = like.texts[name]
        else:
            text = texts[name] = signs.counted(files.text(path / name))
            # Most files have the same words as often.
            text.counts = shared.setdefault(tuple(text.counts.values()), text.counts)
    return Directory(files.signature(path), inodes, texts)


def one_at(path: Path, some: Iterable[Directory]) -> Directory | None:
    """Which of these is what a path leads to."""
    signature = files.signature(path)
    return next((each for each in some if each.signature == signature), None)
