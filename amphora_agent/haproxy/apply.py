"""The one path of a change: files that were validated are committed, processes are made to agree
with them, and that is recorded; or everything goes back.

A text that was uploaded, a rendered load balancer and a generation that is gone back to take this
path. Each says by a `Change` what its steps are; their order, and what happens when one fails, is
said here. Who changes something holds the lock of the load balancer.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain

from amphora_agent.events.journal import ChangeRecord
from amphora_agent.haproxy.process.activator import Outcome
from amphora_agent.model.events import Difference
from amphora_agent.model.responses import ProcessPlan
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions.store import RevisionStore

logger = logging.getLogger(__name__)

#: From the step that is noticed least to the one that is noticed most.
_STEPS = ("nothing", "runtime", "stop", "reload", "replace", "start")


@dataclass
class Change(ABC):
    """A change of an instance, or of a load balancer with all its processes. The steps without
    which a change can be are left out by default."""

    instance: InstanceLayout

    @property
    def differences(self) -> Sequence[Difference]:
        """From what was committed, for the record."""
        return ()

    def commit(self, stages: ExitStack) -> None:  # noqa: B027
        """Commit what is to run, if that is not committed yet. What must surround the next steps is
        entered in `stages`."""

    @abstractmethod
    def activate(self) -> list[ProcessPlan] | None:
        """Make processes agree with what is committed, and see that they do; return what was done.
        Return None if nothing runs, and is not to be started.

        Raises:
            OperationFailed: they do not come up.
        """

    def go_back(self) -> None:  # noqa: B027
        """Bring back what was there before a step failed."""

    def take_place(self, plans: list[ProcessPlan]) -> list[ProcessPlan]:
        """End what this takes the place of, now that it serves; return what was done."""
        return plans

    def finish(self, plans: list[ProcessPlan]) -> list[ProcessPlan]:
        """Remove what is no more; return what was done."""
        return plans


@dataclass
class Activate(Change):
    """An instance is to run what is committed. If it does not come up, `run` puts back the files
    that did."""

    run: Callable[[], Outcome]

    def activate(self) -> list[ProcessPlan] | None:
        return [describe_outcome(self.instance, self.run())]


class Application:
    """Carries out changes."""

    def __init__(self, store: RevisionStore) -> None:
        self._store = store

    def carry_out(self, change: Change, record: ChangeRecord) -> list[ProcessPlan] | None:
        """Carry out a change and record it; return what was done with processes. Return None if it
        is committed and nothing runs.

        Raises:
            OperationFailed: it did not come up; what was there before is there again.
        """
        with ExitStack() as stages:
            try:
                change.commit(stages)
                plans = change.activate()
            except BaseException:  # also an end by force: nothing may stay half-way
                change.go_back()
                raise
            if plans is None:
                return None
            plans = change.take_place(plans)
        plans = change.finish(plans)
        record.plan = find_greatest(["runtime" if each.fell_back else each.step for each in plans])
        record.reasons = [*chain.from_iterable(each.reasons for each in plans)]
        record.words += chain.from_iterable(each.words for each in plans)
        record.fell_back = next((each.fell_back for each in plans if each.fell_back), None)
        record.differences += change.differences
        record.generation = self._number(change.instance)
        return plans

    def roll_back(
        self,
        instance: InstanceLayout,
        generation: int | None,
        record: ChangeRecord,
        change_to: Callable[[int], AbstractContextManager[Change]],
    ) -> str:
        """Go back to a generation, by default to the one before the present one; return what was
        done. `change_to` makes the change to a generation.

        Raises:
            NotFound: there is no such generation.
            OperationFailed: it did not come up any more; everything is as it was.
        """
        if generation is None:
            generation = self._store.before(instance)
        record.words = [f"back to generation {generation}"]
        with change_to(generation) as change:
            if self.carry_out(change, record) is None:
                record.words.append("it does not run, and was not started")
                return f"Generation {generation} is committed; it does not run"
        return f"Back to generation {generation}, which is now generation {record.generation}"

    def _number(self, instance: InstanceLayout) -> int | None:
        """Return the number of the generation that came up; None if the disk takes no more: it
        serves all the same."""
        try:
            return self._store.number(instance)
        except OSError as error:
            logger.warning("instance=%s cannot be kept as a generation: %s", instance.id, error)
            return None


def describe_outcome(instance: InstanceLayout, outcome: Outcome) -> ProcessPlan:
    """Return what was done with the process of an instance."""
    return ProcessPlan(
        id=instance.id,
        step=outcome.done.value,
        reasons=outcome.plan.reasons,
        words=outcome.plan.words,
        fell_back=outcome.fell_back,
    )


def find_greatest(steps: Sequence[str]) -> str:
    """Return the step that is noticed most."""
    return max(steps, key=_STEPS.index, default="nothing")
