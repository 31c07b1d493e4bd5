"""From what workers have counted to increases: what was read is not lost and counts once."""

import pytest

from amphora_agent.heartbeat.message import GONE, Reported, find_increases
from amphora_agent.heartbeat.message import sum_reported as since_the_beginning
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
        increase, memory = find_increases(one, memory)
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
    _, memory = find_increases(reading(worker("w1", l=4)), {})
    increase, _ = find_increases(reading(worker("w1", l=10)), memory)
    assert increase["l"] == Counters(tx=6000, rx=600, totconns=6, ereq=3)


def test_a_counter_that_ran_backwards_is_no_negative_increase() -> None:
    assert totals([reading(worker("w1", l=5)), reading(worker("w1", l=3))]) == [5, 0]


def test_the_memory_of_a_worker_goes_when_its_instance_answers_without_it() -> None:
    _, memory = find_increases(reading(worker("w2", l=1), worker("w1", l=5)), {})
    assert set(memory["lb"]) == {"w1", "w2"}
    _, memory = find_increases(reading(None), memory)
    assert set(memory["lb"]) == {"w1", "w2"}
    _, memory = find_increases(reading(worker("w2", l=1)), memory)
    assert memory["lb"] == {"w2": {"l": counted(1)}, GONE: {"l": counted(5)}}
    _, memory = find_increases({}, memory)
    assert memory == {}


def test_the_memory_of_a_deleted_listener_goes_with_its_worker() -> None:
    _, memory = find_increases(reading(worker("w2"), worker("w1", l=5, deleted=7)), {})
    _, memory = find_increases(reading(worker("w2")), memory)
    assert memory["lb"] == {"w2": {}, GONE: {"l": counted(5)}}


@pytest.mark.parametrize("name", sorted(HISTORIES.keys() - {"a load balancer that goes and comes"}))
def test_sum_of_increases_is_the_count_since_the_beginning(name: str) -> None:
    history, expected = HISTORIES[name]
    memory: Reported = {}
    for so_far, one in enumerate(history, 1):
        _, memory = find_increases(one, memory)
        counted_so_far = since_the_beginning(memory).get("l", NO_COUNTERS).totconns
        assert counted_so_far == sum(expected[:so_far])


def test_instances_count_apart() -> None:
    increase, _ = find_increases(
        {
            "lb1": InstanceReading(("a",), worker("w1", a=3), ()),
            "lb2": InstanceReading(("b",), worker("w1", b=4), ()),
        },
        {"lb1": {"w1": {"a": counted(1)}}, "lb2": {"w1": {"b": counted(1)}}},
    )
    assert increase == {"a": Counters(2000, 200, 2, 1), "b": Counters(3000, 300, 3, 2)}


def _ipvs(number: int) -> dict[str, InstanceReading]:
    return {"lb": InstanceReading(("l",), worker("ipvs", l=number)._replace(restarts=True), ())}


def test_counters_that_may_begin_anew_under_the_same_name_lose_nothing() -> None:
    memory: Reported = {}
    told = []
    for number in (10, 15, 4, 6, 1):
        increase, memory = find_increases(_ipvs(number), memory)
        told.append(increase["l"].totconns)
    assert told == [10, 5, 4, 2, 1]
    assert since_the_beginning(memory)["l"].totconns == 15 + 6 + 1
