"""Generations of an instance: numbered revisions that came up, kept to go back to.

What is told of them needs no lock; what changes them is called under the instance's lock. Of a
declared instance, the generations are those of its load balancer, and what is committed is one.
"""

import contextlib

from amphora_agent.errors import NotFound
from amphora_agent.haproxy.config.diff import compare_configs
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.update import value_diff
from amphora_agent.model.events import changes
from amphora_agent.paths import InstanceLayout, RenderedLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import CONFIGURATION, ContentLost, Manifest, Revisions

#: Generations that are kept, and bytes that they may hold together; the newest is always kept.
_MOST, _MOST_BYTES = 10, 64 << 20


class Generations:
    """The generations of all instances."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes

    def numbers(self, instance: InstanceLayout) -> list[int]:
        """Those that can be gone back to, oldest first."""
        return Revisions.of(instance).numbers()[-self._most :]

    def newest(self, instance: InstanceLayout) -> int | None:
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

    def is_pending(self, instance: InstanceLayout) -> bool:
        """Whether any committed file differs from the newest generation's."""
        if isinstance(instance, RenderedLayout):
            return not loaded_state.is_remembered(instance)
        newest = self.newest(instance)
        return newest is None or self._digest(instance, newest) != reading.committed_digest(
            instance
        )

    def is_configuration_pending(self, instance: InstanceLayout) -> bool:
        """Whether the committed configuration, certificates apart, differs from the newest
        generation's."""
        newest, committed = self.newest(instance), reading.committed(instance) or {}
        if newest is None:
            return True
        return committed.get(CONFIGURATION) != self.content(instance, newest).get(CONFIGURATION)

    def remember(self, instance: InstanceLayout) -> int | None:
        """Keep what is committed, which has come up; return its number. What came up before,
        unchanged, has the number that it had.

        Raises:
            OSError: the disk refused; the generations are as they were.
        """
        newest, committed = self.newest(instance), reading.committed_digest(instance)
        if isinstance(instance, RenderedLayout) or committed is None:
            return newest
        if newest is not None and self._digest(instance, newest) == committed:
            return newest
        number = (newest or 0) + 1
        Revisions.of(instance).refer(str(number), committed, sync=False)
        return number

    def content(self, instance: InstanceLayout, number: int) -> Manifest:
        """A generation's files.

        Raises:
            NotFound: there is none of that number, or not any more.
        """
        kept = self.numbers(instance)
        digest = self._digest(instance, number)
        if number not in kept or digest is None:
            known = f"there are {kept[0]} to {kept[-1]}" if kept else "there is none yet"
            raise NotFound("Generation Not Found", f"no generation {number}: {known}")
        return Revisions.of(instance).manifest(digest)

    def tidy(self, instance: InstanceLayout) -> None:
        """Remove generations that are too many, or hold too much, and contents that nothing refers
        to.

        Raises:
            OSError, ContentLost: not everything was removed; nothing that is of use was.
        """
        revisions = Revisions.of(instance)
        revisions.forget_generations(self._most, self._most_bytes)
        revisions.forget_contents()

    def _digest(self, instance: InstanceLayout, number: int) -> str | None:
        return Revisions.of(instance).reference(str(number))


def differences(
    instance: InstanceLayout, before: Manifest, after: Manifest
) -> tuple[changes.Difference, ...]:
    """What differs between the configurations of two states; nothing where one cannot be read."""
    revisions, name = Revisions.of(instance), instance.configuration.name
    with contextlib.suppress(ContentLost, KeyError, OSError):
        old, new = (
            {name: revisions.read(each[CONFIGURATION].digest).decode(errors="surrogateescape")}
            for each in (before, after)
        )
        return value_diff.compare_values(compare_configs(old, new), (name,))
    return ()
