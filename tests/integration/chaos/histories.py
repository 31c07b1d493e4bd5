"""Histories of load balancers: operations, a death in the middle of one, and what follows."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

from lab.crash_injection import NEVER
from tests.integration.chaos.operations import Operation, Operator
from tests.integration.chaos.trial import AMPHORAE, Site, Trial

FIRST = "first push"

_NAMES = uuid.UUID("7d3f0d5c-5b5e-4c39-9d7b-0b6f3e1f9a11")

#: What must have happened for an operation to have an effect.
_AFTER = {"start": "stop", "rollback": "certificate added"}

#: The steps of an agent that begins; a few more than there are.
_BEGINNING = 16

#: Lines of the agents' log that a failure is told with.
_LOG_LINES = 40


class Histories:
    """Several at once, as many as there are amphorae."""

    def __init__(self, site: Site, programs: Sequence[Path], seed: str) -> None:
        assert programs, "there is a haproxy"
        self.seed = seed
        self.programs = programs
        #: Before which steps somebody has died.
        self.steps: Counter[str] = Counter()
        #: Who has died, in generated histories.
        self.victims: Counter[str] = Counter()
        self._site = site
        self._lengths: dict[str, int] = {}

    def told(self) -> str:
        victims = ", ".join(f"{victim} {number}" for victim, number in self.victims.items())
        lines = [f"killed in generated histories: {victims or 'nobody'}"]
        kinds: Counter[str] = Counter()
        for step, number in self.steps.items():
            kinds[re.sub(r"(command|answer to) (\w+ \w+|\w+).*", r"\1 \2", step)] += number
        lines += [f"{number:5} before {kind[:90]}" for kind, number in sorted(kinds.items())]
        return "\n".join(lines)

    def run(self, histories: Iterable[Callable[[], object]]) -> list[str]:
        """Returns what failed."""

        def one(history: Callable[[], object]) -> str:
            try:
                history()
            except Exception as error:  # of one history; the others are told, too
                return f"{type(error).__name__}: {error}\n"
            return ""

        with ThreadPoolExecutor(AMPHORAE) as pool:
            return [failure for failure in pool.map(one, histories) if failure]

    def length(self, kind: str, program: Path) -> int:
        """How many steps an operation has when nobody is killed; measured once."""
        if kind not in self._lengths:
            self._lengths[kind] = self.interrupted(kind, NEVER, program)
        return self._lengths[kind]

    def interrupted(self, kind: str, number: int, program: Path) -> int:
        """Whoever has a load balancer does this to it, and is killed before a step; returns how
        many steps there were, when nobody is."""
        with self._site.trial(str(uuid.uuid5(_NAMES, kind)), program) as trial:
            operator = Operator(trial.place, self._site.contents, Random(kind))
            earlier = [] if kind == FIRST else [operator.first()]
            if kind in _AFTER:
                earlier.append(operator.one(_AFTER[kind]))
            operation = operator.first() if kind == FIRST else operator.one(kind)
            with _explained(trial, f"{kind}, killed before step {number}, {program}"):
                length = self._interrupt(trial, earlier, operation, number)
                _go_on(trial, operation)
        return length

    def generated(self, number: int) -> None:
        random = Random(f"{self.seed}/{number}")
        name = str(uuid.uuid5(_NAMES, f"{self.seed}/{number}"))
        program = random.choice(self.programs)
        with self._site.trial(name, program) as trial:
            operator = Operator(trial.place, self._site.contents, random)
            earlier = [operator.first()] if random.random() < 0.9 else []
            operations = [operator.any() for _ in range(random.randint(1, 5))]
            hit = random.randrange(len(operations))
            victim = random.choices(["agent", "worker", "master"], [8, 1, 1])[0]
            before = random.randrange(self._lengths[operations[hit].kind])
            what = f"history {number}: {[each.kind for each in operations]}, {victim} killed in "
            what += f"{hit} before step {before}, {program}"
            with _explained(trial, what):
                earlier += operations[:hit]
                self._interrupt(trial, earlier, operations[hit], before, victim)
                if random.random() < 0.2:
                    step, _ = trial.live(before=random.randrange(_BEGINNING))
                    if step:
                        self.steps[f"{step} (the next agent)"] += 1
                _go_on(trial, *operations[hit:])
        self.victims[victim] += 1

    def _interrupt(
        self,
        trial: Trial,
        earlier: Sequence[Operation],
        operation: Operation,
        number: int,
        victim: str = "agent",
    ) -> int:
        step, length = trial.live(
            *(each.calls for each in earlier),
            operation.calls,
            counted_from=len(earlier),
            before=number,
            victim=victim,
        )
        if step:
            self.steps[step] += 1
        return length


def _go_on(trial: Trial, again: Operation, *others: Operation) -> None:
    """The next agent begins; it is asked for the same again, and then for others."""
    trial.live()
    trial.look()
    trial.live(again.calls)
    trial.look()
    if others:
        trial.live(*(each.calls for each in others))
        trial.look()
    left_over = trial.left_over()
    assert not left_over, f"left over: {left_over}"


@contextmanager
def _explained(trial: Trial, history: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log = "\n".join(trial.log.splitlines()[-_LOG_LINES:])
        raise AssertionError(f"{history}\n{type(error).__name__}: {error}\n{log}") from None
