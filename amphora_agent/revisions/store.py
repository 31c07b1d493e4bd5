"""The revisions of all instances: what is committed, and what can be gone back to.

A generation is a numbered revision that may be gone back to. A load balancer with several processes
has one store of revisions, and its generations are those of all of them.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType

from amphora_agent import files
from amphora_agent.errors import NotFound
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import (
    CERTIFICATES,
    CONFIGURATION,
    ContentLost,
    Manifest,
    Revisions,
)
from amphora_agent.revisions.live import LiveFiles

logger = logging.getLogger(__name__)

#: Generations that are kept, and bytes that they may hold together; the newest is always kept.
_MOST, _MOST_BYTES = 10, 64 << 20
_UNKNOWN: Mapping[str, bytes] = MappingProxyType({})


class RevisionStore:
    """Reading needs no lock; who changes something holds the lock of the load balancer."""

    def __init__(self, live: LiveFiles, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self.live = live
        self._most = most
        self._most_bytes = most_bytes

    # Generations

    def numbers(self, instance: InstanceLayout) -> list[int]:
        """Return the generations that can be gone back to, oldest first."""
        return Revisions.of(instance).numbers()[-self._most :]

    def newest(self, instance: InstanceLayout) -> int | None:
        """Return the number of the newest generation."""
        return max(self.numbers(instance), default=None)

    def before(self, instance: InstanceLayout) -> int:
        """Return the number of the generation before the newest.

        Raises:
            NotFound: there is none.
        """
        numbers = self.numbers(instance)
        if len(numbers) < 2:
            raise NotFound("Generation Not Found", "there is none before the present one")
        return numbers[-2]

    def digest(self, instance: InstanceLayout, number: int) -> str:
        """Return the digest of a generation's manifest.

        Raises:
            NotFound: there is none of that number, or not any more.
        """
        kept = self.numbers(instance)
        digest = Revisions.of(instance).reference(str(number))
        if number not in kept or digest is None:
            known = f"there are {kept[0]} to {kept[-1]}" if kept else "there is none yet"
            raise NotFound("Generation Not Found", f"no generation {number}: {known}")
        return digest

    def manifest(self, instance: InstanceLayout, number: int) -> Manifest:
        """Return a generation's files.

        Raises:
            NotFound, ContentLost
        """
        return Revisions.of(instance).manifest(self.digest(instance, number))

    def number(self, instance: InstanceLayout, digest: str | None = None) -> int | None:
        """Make a manifest, by default the committed one, a generation; return its number. The
        newest one again keeps its number. Return None when there is nothing to number.

        Raises:
            OSError: the disk refused; the generations are as they were.
        """
        revisions, newest = Revisions.of(instance), self.newest(instance)
        digest = digest or revisions.committed
        if digest is None or (newest and revisions.reference(str(newest)) == digest):
            return newest
        number = (newest or 0) + 1
        revisions.refer(str(number), digest, sync=False)
        return number

    # Changes

    def commit(
        self, instance: InstanceLayout, manifest: Manifest, known: Mapping[str, bytes] = _UNKNOWN
    ) -> None:
        """Make a manifest, whose contents are kept, the committed one, and live files agree with
        it. `known` are contents by the names of files, to save reading them.

        Raises:
            OSError, OperationFailed: nothing has changed.
        """
        self.live.commit(instance, manifest, known)

    def restore(self, instance: InstanceLayout) -> bool:
        """Commit the files again with which an instance last came up; without any, it has no
        configuration again. Return whether there are some.

        What was committed is kept for a person to read.
        """
        self.keep_rejected(instance)
        good = reading.loaded(instance)
        if good is None:
            now = reading.committed_or_loaded(instance)
            waiting = {name: each for name, each in now.items() if name.startswith(CERTIFICATES)}
            self.commit(instance, waiting)
            return False
        self.commit(instance, good)
        return True

    def keep_rejected(self, instance: InstanceLayout) -> None:
        """Keep the configuration that is committed for a person to read, as one that was refused.
        It is not needed: when it cannot be written, nothing fails."""
        try:
            files.write(instance.rejected, reading.read(instance, CONFIGURATION))
        except (OSError, ContentLost) as error:
            logger.warning("instance=%s the refused text is not kept: %s", instance.id, error)

    def forget(self, instance: InstanceLayout) -> None:
        """Drop all references of an instance, and what is known of its live files. Contents go
        when the directory does, or is tidied."""
        Revisions.of(instance).drop_all()
        self.live.forget(instance.id)

    def tidy(self, instance: InstanceLayout) -> None:
        """Finish live files, and remove generations that are too many, or hold too much, and
        contents that nothing refers to.

        Raises:
            OSError, OperationFailed: not everything was removed; nothing that is of use was.
        """
        self.live.finish(instance)
        revisions = Revisions.of(instance)
        revisions.forget_generations(self._most, self._most_bytes)
        revisions.forget_contents()
