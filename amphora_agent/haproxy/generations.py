"""Generations of an instance: numbered states that came up, kept to go back to.

`generations/<n>/` has links to the configuration, the addition and the peer's name, and
`certificates`, which refers to a directory of links to the certificate files. Generations with
the same certificates refer to the same: a change of a member costs three links, however many
listeners there are. Files are replaced by renaming and never rewritten, so a link keeps its
content; links of keys lie in directories for the agent alone.

Of a declared instance, what is committed is a generation already.

Everything here is called under the instance's lock, except for what only tells numbers.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import NotFound
from amphora_agent.haproxy import running
from amphora_agent.layout import InstanceLayout

logger = logging.getLogger(__name__)

#: Generations that are kept, and bytes that they may hold together; the newest is always kept.
_MOST, _MOST_BYTES = 10, 64 << 20

_CERTIFICATES = "certificates"


class Content(NamedTuple):
    """The files of an instance, as they are or as they were."""

    configuration: bytes
    addition: bytes
    peer: bytes
    certificates: Mapping[str, bytes]


class Generations:
    """The generations of all instances."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes

    def numbers(self, instance: InstanceLayout) -> list[int]:
        """Those that can be gone back to, oldest first."""
        try:
            found = [int(path.name) for path in instance.generations.iterdir() if _is_one(path)]
        except FileNotFoundError:
            return []
        return sorted(found)

    def newest(self, instance: InstanceLayout) -> int | None:
        if instance.declared:
            return _number(instance)
        return max(self.numbers(instance), default=None)

    def before(self, instance: InstanceLayout) -> int:
        """The one before the newest.

        Raises:
            NotFound: there is none.
        """
        numbers = self.numbers(instance)
        if len(numbers) < 2:
            raise NotFound("Generation Not Found", "there is none before the present one")
        return numbers[-2]

    def pending(self, instance: InstanceLayout) -> bool:
        """Whether what is committed is something else than the newest generation."""
        if instance.declared:
            return not running.is_remembered(instance)
        newest = self.numbers(instance)[-1:]
        return not newest or not _is_committed(instance, _directory(instance, newest[0]))

    def waits(self, instance: InstanceLayout) -> bool:
        """Whether the configuration that is committed is another than the newest generation's."""
        newest = self.newest(instance)
        return newest is None or not files.same(
            instance.configuration, self.texts(instance, newest)[0]
        )

    def remember(self, instance: InstanceLayout) -> int:
        """Keep what is committed, which has come up; return its number. What came up before,
        unchanged, has the number that it had.

        Raises:
            OSError: the disk refused; the generations are as they were.
        """
        if instance.declared:
            return _number(instance)
        files.make_private_directory(instance.generations)
        numbers = self.numbers(instance)
        before = _directory(instance, numbers[-1]) if numbers else None
        if before is not None and _is_committed(instance, before):
            return numbers[-1]
        number = numbers[-1] + 1 if numbers else 1
        _tidy(instance)
        certificates = _certificates_of(instance, before, number)
        with files.staged_directory(_directory(instance, number)) as made:
            for source in _texts(instance):
                files.link(source, made / source.name)
            files.refer(made / _CERTIFICATES, f"../{certificates.name}")
        self._forget_oldest(instance, [*numbers, number])
        return number

    def content(self, instance: InstanceLayout, number: int) -> Content:
        """A generation's files.

        Raises:
            NotFound: there is none of that number, or not any more.
        """
        kept = self.numbers(instance)
        if number not in kept:
            known = f"there are {kept[0]} to {kept[-1]}" if kept else "there is none yet"
            raise NotFound("Generation Not Found", f"no generation {number}: {known}")
        return _content(self.texts(instance, number), _directory(instance, number) / _CERTIFICATES)

    def texts(self, instance: InstanceLayout, number: int) -> tuple[Path, Path, Path]:
        """Where a generation's configuration, addition and peer's name are."""
        directory = _directory(instance, number)
        configuration, addition, peer = (directory / path.name for path in _texts(instance))
        return configuration, addition, peer

    def _forget_oldest(self, instance: InstanceLayout, numbers: list[int]) -> None:
        """Remove generations that are too many, or hold too much. What the newest has is committed
        as well: to keep that costs nothing."""
        certificates = {n: _certificates_name(_directory(instance, n)) for n in numbers}
        newest = numbers[-1]
        held = set(files.inodes(_directory(instance, newest)).values())
        if len(set(certificates.values())) > 1:  # else nobody need look at so many files
            held.update(files.inodes(instance.generations / certificates[newest]).values())
        looked_at = {str(newest), certificates[newest]}
        total = 0
        for age, number in enumerate(reversed(numbers)):
            for name in {str(number), certificates[number]} - looked_at:
                looked_at.add(name)
                found = files.sizes(instance.generations / name, held)
                held.update(found)
                total += sum(found.values())
            if age and (age >= self._most or total > self._most_bytes):
                for old in numbers[: len(numbers) - age]:
                    files.retire_tree(_directory(instance, old))
                _tidy(instance)
                return


def committed(instance: InstanceLayout) -> Content:
    """What is committed now."""
    return _content(_texts(instance), instance.certificates)


def bring_certificates(instance: InstanceLayout, wanted: Content) -> None:
    """Put the certificate files of `wanted` in place, and leave those that it has not: so what is
    committed can be loaded with each of the two texts, before and after the change of text."""
    if wanted.certificates:
        files.make_private_directory(instance.certificates)
    for name, data in sorted(wanted.certificates.items()):
        files.provide(instance.certificates / name, data)


def commit(instance: InstanceLayout, wanted: Content) -> None:
    """Make `wanted`, whose certificate files are there, the instance's."""
    configuration, addition, peer = _texts(instance)
    files.provide(addition, wanted.addition)
    files.provide(peer, wanted.peer)
    files.provide(configuration, wanted.configuration)
    for name in files.inodes(instance.certificates).keys() - wanted.certificates.keys():
        files.remove(instance.certificates / name)


def _texts(instance: InstanceLayout) -> tuple[Path, Path, Path]:
    return instance.configuration, instance.addition, instance.peer


def _content(texts: tuple[Path, Path, Path], certificates: Path) -> Content:
    configuration, addition, peer = (path.read_bytes() for path in texts)
    held = {name: (certificates / name).read_bytes() for name in files.inodes(certificates)}
    return Content(configuration, addition, peer, held)


def _number(instance: InstanceLayout) -> int:
    """Of what is committed for a declared instance: its files are a generation, or in one."""
    path = instance.current.resolve()
    return int(path.name if path.parent.name == "generations" else path.parent.name)


def _directory(instance: InstanceLayout, number: int) -> Path:
    return instance.generations / str(number)


def _certificates_name(generation: Path) -> str:
    """The name of the directory that has a generation's certificates."""
    return (generation / _CERTIFICATES).readlink().name


def _is_one(path: Path) -> bool:
    return path.name.isascii() and path.name.isdigit()


def _is_committed(instance: InstanceLayout, kept: Path) -> bool:
    """Whether a generation holds what is committed; bytes are read where the files differ."""
    if not all(files.same(path, kept / path.name) for path in _texts(instance)):
        return False
    now, then = files.inodes(instance.certificates), files.inodes(kept / _CERTIFICATES)
    return now.keys() == then.keys() and all(
        inode == then[name] or files.same(instance.certificates / name, kept / _CERTIFICATES / name)
        for name, inode in now.items()
    )


def _certificates_of(instance: InstanceLayout, before: Path | None, number: int) -> Path:
    """A directory of links to the certificate files: that of the generation before, if it has the
    same, or a new one."""
    now = files.inodes(instance.certificates)
    if before is not None:
        held = (before / _CERTIFICATES).resolve()
        if files.inodes(held) == now:
            return held
    made = instance.generations / f"{_CERTIFICATES}-{number}"
    with files.staged_directory(made) as directory:
        for name in now:
            files.link(instance.certificates / name, directory / name)
    return made


def _tidy(instance: InstanceLayout) -> None:
    """Remove what no generation refers to: of forgotten ones, and of an agent that was killed."""
    entries = list(instance.generations.iterdir())
    kept = {path for path in entries if _is_one(path)}
    used = {path.name for path in kept} | {_certificates_name(path) for path in kept}
    for path in entries:
        if path.name not in used:
            files.remove_tree(path)
