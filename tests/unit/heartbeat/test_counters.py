"""From what workers have counted to increases: what was read is not lost and counts once."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amphora_agent.heartbeat.counters import GONE, Reported, increases
from amphora_agent.heartbeat.counters import totals as since_the_beginning
from amphora_agent.model.status import (
    NO_COUNTERS,
    Counters,
    InstanceReading,
    ListenerReading,
    WorkerReading,
)


def counted(number: int) -> Counters:
    return Counters(tx=number * 1000, rx=number * 100, totconns=number, ereq=number // 2)


def worker(name: str, **listeners: int) -> WorkerReading:
    return WorkerReading(
        name,
        {name: ListenerReading("OPEN", 0, counted(number)) for name, number in listeners.items()},
        {},
    )


def reading(current: WorkerReading | None, *leaving: WorkerReading) -> dict[str, InstanceReading]:
    return {"lb": InstanceReading(("l", "k"), current, leaving)}


def totals(history: list[dict[str, InstanceReading]], listener: str = "l") -> list[int]:
    """The increase of `totconns` that each reading of a history yields."""
    memory: Reported = {}
    result = []
    for one in history:
        increase, memory = increases(one, memory)
        result.append(increase.get(listener, NO_COUNTERS).totconns)
    return result


SILENT = WorkerReading("w1", {}, {})

HISTORIES = {
    "nothing happens": ([reading(worker("w1", l=0)), reading(worker("w1", l=0))], [0, 0]),
    "requests": ([reading(worker("w1", l=5)), reading(worker("w1", l=7))], [5, 2]),
    "a reload with a last word": (
        [reading(worker("w1", l=5)), reading(worker("w2", l=1), worker("w1", l=9))],
        [5, 5],
    ),
    "the replaced worker goes on counting": (
        [
            reading(worker("w1", l=5)),
            reading(worker("w2", l=1), worker("w1", l=9)),
            reading(worker("w2", l=1), worker("w1", l=12)),
            reading(worker("w2", l=4)),
        ],
        [5, 5, 3, 3],
    ),
    "a replaced worker is silent once": (
        [
            reading(worker("w1", l=5)),
            reading(worker("w2", l=1), SILENT),
            reading(worker("w2", l=1), worker("w1", l=6)),
        ],
        [5, 1, 1],
    ),
    "an old last word after a newer reading": (
        [reading(worker("w1", l=9)), reading(worker("w2", l=0), worker("w1", l=5))],
        [9, 0],
    ),
    "no answer": (
        [reading(worker("w1", l=5)), reading(None), reading(worker("w1", l=8))],
        [5, 0, 3],
    ),
    "a reload while nothing could be read": (
        [
            reading(worker("w1", l=5)),
            reading(None, worker("w1", l=6)),
            reading(worker("w2", l=2), worker("w1", l=6)),
        ],
        [5, 1, 2],
    ),
    "a crash": (
        [reading(worker("w1", l=5)), reading(None), reading(worker("w2", l=2))],
        [5, 0, 2],
    ),
    "two reloads between two readings": (
        [
            reading(worker("w1", l=5)),
            reading(worker("w3", l=1), worker("w1", l=6), worker("w2", l=10)),
        ],
        [5, 12],
    ),
    "a listener that comes": (
        [reading(worker("w1", k=5)), reading(worker("w2", k=1, l=3), worker("w1", k=5))],
        [0, 3],
    ),
    "a listener that goes": (
        [reading(worker("w1", l=5)), reading(worker("w2", k=1), worker("w1", l=6))],
        [5, 1],
    ),
    "a load balancer that goes and comes": (
        [reading(worker("w1", l=5)), {}, reading(worker("w2", l=2))],
        [5, 0, 2],
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_increases_follow_the_history(name: str) -> None:
    history, expected = HISTORIES[name]
    assert totals(history) == expected


def test_all_four_counters_are_increases() -> None:
    _, memory = increases(reading(worker("w1", l=4)), {})
    increase, _ = increases(reading(worker("w1", l=10)), memory)
    assert increase["l"] == Counters(tx=6000, rx=600, totconns=6, ereq=3)


def test_a_counter_that_ran_backwards_is_no_negative_increase() -> None:
    assert totals([reading(worker("w1", l=5)), reading(worker("w1", l=3))]) == [5, 0]


def test_the_memory_of_a_worker_goes_when_its_instance_answers_without_it() -> None:
    _, memory = increases(reading(worker("w2", l=1), worker("w1", l=5)), {})
    assert set(memory["lb"]) == {"w1", "w2"}
    _, memory = increases(reading(None), memory)
    assert set(memory["lb"]) == {"w1", "w2"}
    _, memory = increases(reading(worker("w2", l=1)), memory)
    assert memory["lb"] == {"w2": {"l": counted(1)}, GONE: {"l": counted(5)}}
    _, memory = increases({}, memory)
    assert memory == {}


def test_the_memory_of_a_deleted_listener_goes_with_its_worker() -> None:
    _, memory = increases(reading(worker("w2"), worker("w1", l=5, deleted=7)), {})
    _, memory = increases(reading(worker("w2")), memory)
    assert memory["lb"] == {"w2": {}, GONE: {"l": counted(5)}}


@pytest.mark.parametrize("name", HISTORIES.keys() - {"a load balancer that goes and comes"})
def test_what_was_counted_since_the_beginning_is_the_sum_of_the_increases(name: str) -> None:
    history, expected = HISTORIES[name]
    memory: Reported = {}
    for so_far, one in enumerate(history, 1):
        _, memory = increases(one, memory)
        counted_so_far = since_the_beginning(memory).get("l", NO_COUNTERS).totconns
        assert counted_so_far == sum(expected[:so_far])


def test_instances_count_apart() -> None:
    increase, _ = increases(
        {
            "lb1": InstanceReading(("a",), worker("w1", a=3), ()),
            "lb2": InstanceReading(("b",), worker("w1", b=4), ()),
        },
        {"lb1": {"w1": {"a": counted(1)}}, "lb2": {"w1": {"b": counted(1)}}},
    )
    assert increase == {"a": Counters(2000, 200, 2, 1), "b": Counters(3000, 300, 3, 2)}


@dataclass
class Worker:
    """What a worker really counted, what it said when asked to leave, what was ever read of it."""

    name: str
    count: Counter[str] = field(default_factory=Counter)
    last_word: Counter[str] | None = None
    read: Counter[str] = field(default_factory=Counter)
    alive: bool = True

    def say(self, count: Counter[str]) -> WorkerReading:
        for listener, number in count.items():
            self.read[listener] = max(self.read[listener], number)
        return worker(self.name, **count)


LISTENERS = ("l", "k")


class Haproxy(RuleBasedStateMachine):
    """An instance under reloads good and bad, crashes, hangs and lost replies, and an agent that
    is killed between any two of its steps; read as `haproxy/observe.py` reads it."""

    @initialize()
    def begin(self) -> None:
        self.workers = [Worker("w0")]
        self.running = True
        self.memory: Reported = {}
        self.reported: Counter[str] = Counter()

    @property
    def current(self) -> Worker:
        return self.workers[-1]

    @rule(listener=st.sampled_from(LISTENERS), number=st.integers(1, 50), data=st.data())
    def requests(self, listener: str, number: int, data: st.DataObject) -> None:
        alive = [one for one in self.workers if one.alive]
        if alive:
            data.draw(st.sampled_from(alive)).count[listener] += number

    @precondition(lambda self: self.running)
    @rule(saved=st.booleans(), succeeds=st.booleans())
    def reload(self, saved: bool, succeeds: bool) -> None:
        if saved:
            self.current.last_word = self.current.count.copy()
        if succeeds:
            self.workers.append(Worker(f"w{len(self.workers)}"))

    @rule(data=st.data())
    def a_replaced_worker_leaves(self, data: st.DataObject) -> None:
        leaving = [one for one in self.workers[:-1] if one.alive]
        if leaving:
            data.draw(st.sampled_from(leaving)).alive = False

    @precondition(lambda self: self.running)
    @rule()
    def crash(self) -> None:
        for one in self.workers:
            one.alive = False
        self.running = False

    @precondition(lambda self: not self.running)
    @rule()
    def start(self) -> None:
        self.workers.append(Worker(f"w{len(self.workers)}"))
        self.running = True

    @rule(hangs=st.booleans(), silent=st.sets(st.integers(0, 20)), forgets=st.booleans())
    def beat(self, hangs: bool, silent: set[int], forgets: bool) -> None:
        """`silent` are the replaced workers that do not answer; without `forgets` the agent is
        killed after it has written its memory."""
        answers = self.running and not hangs
        leaving = []
        for number, one in enumerate(self.workers):
            if one is self.current and answers:
                continue
            asked = answers and one.alive and number not in silent
            if asked:
                leaving.append(one.say(one.count))
            elif one.last_word is not None:
                leaving.append(one.say(one.last_word))
            elif answers and one.alive:
                leaving.append(WorkerReading(one.name, {}, {}))
        now = self.current.say(self.current.count) if answers else None
        increase, self.memory = increases(reading(now, *leaving), self.memory)
        for listener, grown in increase.items():
            assert min(grown) >= 0
            self.reported[listener] += grown.totconns
        if now is not None:
            assert self.memory["lb"].keys() - {GONE} == {told.worker for told in (now, *leaving)}
        if forgets:
            for one in self.workers:
                if not one.alive and one.name in {told.worker for told in leaving}:
                    one.last_word = None

    @invariant()
    def everything_that_was_read_is_reported_once(self) -> None:
        for listener in LISTENERS:
            read = sum(one.read[listener] for one in getattr(self, "workers", ()))
            assert getattr(self, "reported", Counter())[listener] == read
            of_all = since_the_beginning(getattr(self, "memory", {}))
            assert of_all.get(listener, NO_COUNTERS).totconns == read


TestHaproxy = Haproxy.TestCase


def _ipvs(number: int) -> dict[str, InstanceReading]:
    return {"lb": InstanceReading(("l",), worker("ipvs", l=number)._replace(restarts=True), ())}


def test_counters_that_may_begin_anew_under_the_same_name_lose_nothing() -> None:
    memory: Reported = {}
    told = []
    for number in (10, 15, 4, 6, 1):
        increase, memory = increases(_ipvs(number), memory)
        told.append(increase["l"].totconns)
    assert told == [10, 5, 4, 2, 1]
    assert since_the_beginning(memory)["l"].totconns == 15 + 6 + 1
