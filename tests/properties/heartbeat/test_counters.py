"""Increases add up to what haproxy counted, in any history of workers."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amphora_agent.heartbeat.message import GONE, Reported, find_increases
from amphora_agent.heartbeat.message import sum_reported as since_the_beginning
from amphora_agent.model.status import (
    NO_COUNTERS,
    WorkerReading,
)
from tests.unit.heartbeat.test_counters import reading, worker


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
    is killed between any two of its steps; read as `haproxy/runtime/poller.py` reads it."""

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
        increase, self.memory = find_increases(reading(now, *leaving), self.memory)
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
