"""Heartbeats of an agent whose disk is full, read-only or silent."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer
from tests.integration.disks import Disk, FullDisk, ReadOnlyDisk, StalledDisk
from tests.integration.test_heartbeats import Tally, Traffic

#: What is on the disk: the load balancers; with the sockets, the locks and the alarms.
PLACES = {"base": ("octavia",), "base and run": ("octavia", "run")}


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def places(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture(params=[FullDisk, ReadOnlyDisk, StalledDisk], ids=lambda kind: kind.__name__)
def served(
    request: pytest.FixtureRequest, boot: Callable[..., Amphora], places: tuple[str, ...]
) -> Iterator[tuple[LoadBalancer, Disk]]:
    """A load balancer that serves, and the disk that it is on."""
    if request.param is ReadOnlyDisk and "run" in places:
        pytest.skip("the kernel makes no disk read-only while logs are open on it")
    with ExitStack() as ending:
        disks: list[Disk] = []
        made = boot(
            ending,
            prepare=lambda directory: disks.append(request.param(ending, directory, *places)),
        ).new_balancer()
        made.push()
        yield made, disks[0]
        disks[0].heal()


def restart(amphora: Amphora) -> None:
    amphora.agent.restart()


def kill(amphora: Amphora) -> None:
    amphora.agent.kill()
    amphora.agent.start()


@pytest.mark.parametrize("end", [restart, kill])
def test_e2_e4_every_beat_comes_and_nothing_is_told_twice_or_lost(
    served: tuple[LoadBalancer, Disk], end: Callable[[Amphora], None]
) -> None:
    balancer, disk = served
    amphora, traffic, tally = balancer.amphora, Traffic(balancer), Tally(balancer)

    def listen(beats: int) -> None:
        for beat in amphora.heartbeats.drain():
            tally.add(beat)
        for _ in range(beats):
            beat = amphora.heartbeats.next(3)
            assert beat.listeners[balancer.listener.id]["status"] == "OPEN"
            tally.add(beat)

    traffic.send(3)
    tally.await_connections(3)
    disk.break_()
    traffic.send(2)
    listen(4)
    end(amphora)
    traffic.send(2)
    listen(4)
    disk.heal()
    traffic.send(1)
    tally.await_connections(traffic.connections)


def test_e2_e4_it_is_reported_once_and_until_it_is_over(
    served: tuple[LoadBalancer, Disk],
) -> None:
    balancer, disk = served
    agent = balancer.amphora.agent
    words = "octavia/heartbeat/counters: cannot write down what heartbeats have told"
    traffic, tally = Traffic(balancer), Tally(balancer)
    traffic.send(1)
    tally.await_connections(1)
    disk.break_()
    if isinstance(disk, FullDisk):
        (agent.base_path / "heartbeat/counters").unlink()  # it has its room otherwise
        disk.break_()

    def reported() -> bool:
        traffic.send(1)
        return words in agent.log

    until(reported, "it is reported", timeout=30)
    for _ in range(3):
        traffic.send(1)
        balancer.amphora.heartbeats.next(3)
    assert agent.log.count(words) == 1
    disk.heal()

    def over() -> bool:
        traffic.send(1)
        return f"no longer: {words.partition(': ')[2]}" in agent.log

    until(over, "it is over", timeout=30)
