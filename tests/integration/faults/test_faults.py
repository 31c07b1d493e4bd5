"""Effects fail one at a time, in a real agent, at the system call (docs/decisions/0032).

For each operation a run without a fault says which effects it has. Then each of them fails in turn,
and afterwards what must hold is looked at: the answer, what is told and what is there, who lives;
the operation once more succeeds, and all is as after a run without a fault.

FAULTS_SECONDS is the time for all operations together (0: all effects, in every way in which they
may fail), FAULTS_SEED chooses them; both are told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from lab.faults import Effect, Fault, Faults
from lab.network import Lab
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import Amphora
from tests.integration.faults.operations import OPERATIONS, Operation, gone, unplugged, warm_up
from tests.integration.faults.place import Place, State, complaint_about, differences

SECONDS = float(os.environ.get("FAULTS_SECONDS", "30"))
SEED = os.environ.get("FAULTS_SEED") or str(time.time_ns() // 1000 % 1_000_000)
#: The effects of this operation whose name has this word.
ONLY = os.environ.get("FAULTS_ONLY", "")

#: At least so many, whatever the time.
_LEAST = 2
#: Seconds after which what a fault has left is in order.
_SETTLED = 8.0
#: What the agent gives up for a change that runs, until the next one: by what its log says of it,
#: the field of the instance that tells it.
_GIVEN_UP = {"cannot be kept as a generation": "pending"}
#: Failures that are told in full.
_TOLD = 6


class Places:
    """One place after the other: after a failure everything is made anew."""

    def __init__(self, boot: Callable[..., Amphora], authority: Authority, lab: Lab) -> None:
        self._boot = boot
        self._lab = lab
        self._router = lab.namespace("faults-router")
        self._authority = authority
        self._place: Place | None = None

    def current(self) -> Place:
        if self._place is None:
            ending = ExitStack()
            made: list[Faults] = []
            environment: dict[str, str] = {}

            def prepare(directory: Path) -> None:
                made.extend(Faults(directory, name) for name in ("faults", "faults-of-commands"))
                environment.update(made[0].environment(str(directory)))

            amphora = self._boot(ending, prepare=prepare, environment=environment)
            name = amphora.agent.amphora_id
            certificates = [self._authority.issue(name, dns=[name], key="ec").pem for _ in range(3)]
            self._place = Place(
                amphora, made[0], made[1], certificates, self._lab, self._router, ending
            )
            warm_up(self._place)
        return self._place

    def renew(self) -> None:
        if self._place is not None:
            unplugged(self._place)
            if self._place.cable is not None:
                self._place.cable.unplug()
            self._place.ending.close()
            self._place = None


@pytest.fixture(scope="module")
def places(
    boot: Callable[..., Amphora], authorities: tuple[Authority, Authority], lab: Lab
) -> Iterator[Places]:
    made = Places(boot, authorities[0], lab)
    yield made
    made.renew()


class Trial:
    """All faults of one operation."""

    def __init__(self, places: Places, operation: Operation) -> None:
        self._places = places
        self._operation = operation
        self._remove = operation.remove or gone
        self.hits = 0
        self.missed: list[str] = []
        self.failures: list[str] = []

    def effects(self) -> list[Effect]:
        """What a run without a fault does. The states before and after it are kept."""
        place = self._known = self._places.current()
        self._operation.prepare(place)
        self._operation.act(place)  # what is made once is made now
        self._remove(place)
        self._nothing = _settled_state(place)
        self._descriptors = place.descriptors()
        self._operation.prepare(place)
        self._before = _settled_state(place)
        with self._faults.recorded(self._process) as effects:
            answer = self._operation.act(place)
        assert answer is not None, "it is answered"
        assert answer.status < 300, answer.body
        self._after = _settled_state(place)
        return effects

    @property
    def _faults(self) -> Faults:
        by_command = self._operation.by_command
        return self._known.command_faults if by_command else self._known.faults

    @property
    def _process(self) -> int:
        return 0 if self._operation.by_command else self._known.api.pid

    def run(self, faults: list[Fault]) -> None:
        deadline = time.monotonic() + SECONDS / len(OPERATIONS) if SECONDS else None
        for number, fault in enumerate(faults):
            if deadline is not None and number >= _LEAST and time.monotonic() > deadline:
                break
            if self._places.current() is not self._known:
                self.effects()
            place = self._known
            mark = len(place.amphora.agent.log)
            try:
                complaints = list(self._try(fault))
            except (AssertionError, TimeoutError, OSError) as error:
                complaints = [f"{type(error).__name__}: {error}"]
            if complaints:
                said = place.log_since(mark)[-3000:]
                self.failures.append("\n    ".join([str(fault), *complaints, said]))
                print(f"--- {self._operation.name}: {self.failures[-1]}", flush=True)
                self._places.renew()

    def _try(self, fault: Fault) -> Iterator[str]:
        place = self._known
        self._operation.prepare(place)
        yield from self._unlike(self._before, "prepared")
        mark = len(place.amphora.agent.log)
        with self._faults.injected(fault, self._process):
            answer = self._operation.act(place)
        if not self._faults.hit:
            self.missed.append(str(fault))
        self.hits += self._faults.hit
        lost = fault.effect.target.startswith("tcp")
        if complaint := complaint_about(answer, may_be_lost=lost):
            yield complaint
        if self._operation.serves and not place.accepts(*self._operation.serves):
            yield "{}:{} is not served any more".format(*self._operation.serves)
        yield from _await_none(lambda: list(place.complaints()))
        if answer is not None and answer.status < 300:
            said = place.log_since(mark)
            given_up = {field for words, field in _GIVEN_UP.items() if words in said}
            yield from self._unlike(self._after, "answered with success", given_up)
        again = self._operation.act(place)
        if again is None or not (again.status < 300 or again.status == self._operation.done):
            yield f"a repetition fails: {again}"
        yield from self._unlike(self._after, "repeated")

    def _unlike(self, wanted: State, when: str, given_up: Collection[str] = ()) -> Iterator[str]:
        """Await a state, but for fields of instances that are given up; yield what differs."""
        wanted = _without(wanted, given_up)
        found: State = {}

        def is_reached() -> bool:
            found.update(_without(self._known.state(), given_up))
            return found == wanted

        try:
            until(is_reached, when, timeout=_SETTLED)
        except TimeoutError:
            for line in differences(wanted, found):
                yield f"{when}: {line}"

    def finish(self) -> list[str]:
        """In the end nothing is left over; return what is."""
        if self._places.current() is not self._known:
            return []
        place = self._known
        self._operation.prepare(place)
        left = _await_none(place.unreferenced)
        self._remove(place)
        left += self._unlike(self._nothing, "removed")
        return left + _await_none(lambda: place.more_descriptors(self._descriptors))


def _without(state: State, fields: Collection[str]) -> State:
    """Return a state without these fields of its instances."""
    instances = [
        {name: value for name, value in instance.items() if name not in fields}
        for instance in state["instances"]
    ]
    return {**state, "instances": instances}


def _settled_state(place: Place) -> State:
    """Return the state once every master answers: a new one is silent for a moment."""
    silent = "run/alarms/master-silent"
    _await_none(lambda: [name for name in place.state()["files"] if name.startswith(silent)])
    return place.state()


def _await_none(find: Callable[[], list[str]]) -> list[str]:
    """Return what is found and does not go away by itself within a moment."""
    found: list[str] = []

    def is_empty() -> bool:
        found[:] = find()
        return not found

    try:
        until(is_empty, "nothing is found", timeout=_SETTLED)
    except TimeoutError:
        return found
    return []


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_effect_fails_in_turn(
    places: Places, operation: Operation, tell: Callable[[str], None]
) -> None:
    trial = Trial(places, operation)
    effects = [effect for effect in trial.effects() if ONLY in effect.name]
    faults = [fault for effect in effects for fault in effect.faults()]
    # The first of each name come first: in little time they have the most to tell.
    random = Random(f"{SEED} {operation.name}")
    faults.sort(key=lambda fault: (fault.effect.number, random.random()))
    began = time.monotonic()
    trial.run(faults)
    left = trial.finish()
    tell(
        f"seed {SEED}: {len(effects)} effects, {len(faults)} faults, {trial.hits} came to pass, "
        f"{len(trial.missed)} did not, {time.monotonic() - began:.0f} s"
    )
    assert not trial.failures, "\n".join([f"{len(trial.failures)}:", *trial.failures[:_TOLD]])
    assert left == []
    assert trial.hits or not faults, f"none came to pass: {trial.missed}"
