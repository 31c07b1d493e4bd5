"""The configuration directory of a rendered instance: its files, and the parts that haproxy loads.

Each listener and pool has a file. haproxy puts the names of all files that it loads into one
environment variable, which holds 128 KiB: the names of some 1,200 files. So haproxy loads at most
256 parts, and the shared file. A hash of its name decides in which part a file is. So a change of a
pool rewrites the file of the pool and one part.

There may be thousands of files, and a change leaves nearly all of them as they were: only files
that differ from those in memory are read.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.config.word_counts import CountedText
from amphora_agent.paths import PARTS
from amphora_agent.revisions.contents import Manifest, Revisions

#: The file that all listeners share. haproxy reads it first; it is a part of its own.
SHARED = "haproxy.cfg"


def choose_part(name: str) -> str:
    """Return the part that a file is in."""
    if name == SHARED:
        return SHARED
    return f"part-{hashlib.sha256(name.encode()).digest()[0]:02x}.cfg"


def group_into_parts(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return all parts, each with the names of its files, in order."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(choose_part(name), []).append(name)
    return {part: tuple(files) for part, files in sorted(parts.items())}


def find_line(part: str, line: int, texts: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the file, among `texts`, and the line in it for a line of a part; None for no such."""
    for name in group_into_parts(texts).get(part, ()):
        lines = texts[name].count("\n")
        if line <= lines:
            return name, line
        line -= lines
    return None


class ConfigDirectory(NamedTuple):
    """Texts by the names of their files, in the order in which haproxy loads them, and their
    digests."""

    digests: Mapping[str, str]
    texts: Mapping[str, CountedText]

    @property
    def size(self) -> int:
        """Characters in all texts."""
        return sum(map(len, self.texts.values()))


def digest_texts(manifest: Manifest) -> dict[str, str]:
    """Return the digests of the texts of a manifest, in the order in which haproxy loads them."""
    names = (name for name in manifest if name.endswith(".cfg") and "/" not in name)
    return {name: manifest[name].digest for name in sorted(names)}


def read_directory(
    revisions: Revisions, manifest: Manifest, like: ConfigDirectory | None = None
) -> ConfigDirectory:
    """Read the texts of a manifest; those that are the same as in `like` are taken from it."""
    texts: dict[str, CountedText] = {}
    shared: dict[tuple[int, ...], Mapping[str, int]] = {}
    wanted = digest_texts(manifest)
    for name, digest in wanted.items():
        if like is not None and like.digests.get(name) == digest:
            texts[name] = like.texts[name]
        else:
            content = revisions.read(digest).decode(errors="surrogateescape")
            text = texts[name] = word_counts.count_words(content)
            # Most files have the same counts: they share one mapping.
            text.counts = shared.setdefault(tuple(text.counts.values()), text.counts)
    return ConfigDirectory(wanted, texts)


def add_parts(revisions: Revisions, manifest: Manifest) -> Manifest:
    """Add the parts that haproxy loads to a manifest without them, as an older agent made it."""
    if SHARED not in manifest or any(name.startswith(f"{PARTS}/") for name in manifest):
        return manifest
    texts = read_directory(revisions, manifest).texts
    contents = {
        f"{PARTS}/{part}": "".join(texts[name] for name in names).encode(errors="surrogateescape")
        for part, names in group_into_parts(texts).items()
    }
    return {**manifest, **revisions.keep(contents)}


def translate_messages(path: Path, texts: Texts, words: str) -> str:
    """Replace places in parts, which are below `path`, by places in `texts` in haproxy's words."""
    place = re.compile(rf"{re.escape(str(path / PARTS))}/([-.\w]+\.cfg):(\d+)")

    def translate(found: re.Match[str]) -> str:
        line = find_line(found[1], int(found[2]), texts)
        return f"{path}/{line[0]}:{line[1]}" if line else found[0]

    return place.sub(translate, words)


def find_directory(
    digests: Mapping[str, str], directories: Iterable[ConfigDirectory]
) -> ConfigDirectory | None:
    """Return the directory that has texts with these digests."""
    return next((directory for directory in directories if directory.digests == digests), None)
