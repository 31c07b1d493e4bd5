"""The files and texts of a rendered instance.

What is rendered is one file for each listener and pool. haproxy names every file that it loads in
one environment variable, which holds 128 KiB: the names of some 1,200 files. So it is given at most
256 parts, and the file of what all share. A file is in the part that a hash of its name decides:
always the same one, whatever else there is. A change of a pool rewrites the file of the pool and
one part.

There may be thousands of files, and of the next ones nearly all are the same. So those that have
been read before are taken from there, and only others are read.
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

#: What all listeners share is read first, and is a part of its own.
SHARED = "haproxy.cfg"


def choose_part(name: str) -> str:
    """The part that a file is in."""
    if name == SHARED:
        return SHARED
    return f"part-{hashlib.sha256(name.encode()).digest()[0]:02x}.cfg"


def group_into_parts(names: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """All parts, each with the files that it has, in their order in it."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(choose_part(name), []).append(name)
    return {part: tuple(inside) for part, inside in sorted(found.items())}


def find_line(part: str, line: int, texts: Mapping[str, str]) -> tuple[str, int] | None:
    """The file among `texts`, and the line in it, that a line of a part is; None for no such."""
    for name in group_into_parts(texts).get(part, ()):
        lines = texts[name].count("\n")
        if line <= lines:
            return name, line
        line -= lines
    return None


class ConfigDirectory(NamedTuple):
    """Texts by the names of their files, in the order in which haproxy loads them, and the digests
    of their contents."""

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
    """Read the texts of a manifest, those that are not in `like`."""
    texts: dict[str, CountedText] = {}
    shared: dict[tuple[int, ...], Mapping[str, int]] = {}
    wanted = digest_texts(manifest)
    for name, digest in wanted.items():
        if like is not None and like.digests.get(name) == digest:
            texts[name] = like.texts[name]
        else:
            content = revisions.read(digest).decode(errors="surrogateescape")
            text = texts[name] = word_counts.count_words(content)
            # Most files have the same words as often.
            text.counts = shared.setdefault(tuple(text.counts.values()), text.counts)
    return ConfigDirectory(wanted, texts)


def add_parts(revisions: Revisions, manifest: Manifest) -> Manifest:
    """Add the parts that haproxy is given of the texts of a manifest, where there are none yet: a
    state that an older agent has made has none."""
    if SHARED not in manifest or any(name.startswith(f"{PARTS}/") for name in manifest):
        return manifest
    texts = read_directory(revisions, manifest).texts
    contents = {
        f"{PARTS}/{part}": "".join(texts[name] for name in names).encode(errors="surrogateescape")
        for part, names in group_into_parts(texts).items()
    }
    return {**manifest, **revisions.keep(contents)}


def translate_messages(path: Path, texts: Texts, words: str) -> str:
    """haproxy's words about the parts of `texts`, which are in `path`, as words about the texts."""
    given = re.compile(rf"{re.escape(str(path / PARTS))}/([-.\w]+\.cfg):(\d+)")

    def name(found: re.Match[str]) -> str:
        at = find_line(found[1], int(found[2]), texts)
        return f"{path}/{at[0]}:{at[1]}" if at else found[0]

    return given.sub(name, words)


def find_directory(
    wanted: Mapping[str, str], some: Iterable[ConfigDirectory]
) -> ConfigDirectory | None:
    """Return which of these has texts with these digests."""
    return next((each for each in some if each.digests == wanted), None)
