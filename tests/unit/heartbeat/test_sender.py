"""Where a beat goes and what is told in it, over real sockets.

What haproxy says is a value here, not a haproxy: the readings are what these tests vary, and how
they come about is tested in tests/integration/test_observer.py.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.sender import Beat, Facts, Sender
from amphora_agent.model.status import (
    ControllerFigures,
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    Silence,
    WorkerReading,
)
from amphora_agent.settings.reader import Settings
from amphora_agent.slots import SlotFile
from lab.heartbeats import HeartbeatReceiver
from lab.waiting import until

KEY = "key"
WORKER = WorkerReading("w", {"l": ListenerReading("OPEN", 0, Counters(0, 0, 0, 0))}, {})


@pytest.fixture
def controllers() -> Iterator[list[HeartbeatReceiver]]:
    made = [HeartbeatReceiver(KEY), HeartbeatReceiver(KEY), HeartbeatReceiver(KEY, address="::1")]
    yield made
    for one in made:
        one.close()


class Amphora:
    """One load balancer whose counters the test sets, and settings that a controller may change.

    What a reader does in a thread is done by `read`."""

    def __init__(self, directory: Path, entries: list[str]) -> None:
        self.settings = Settings(
            amphora_id="a1",
            heartbeat_key=KEY,
            heartbeat_interval=10,
            controller_ip_port_list=tuple(entries),
        )
        self.silent: str | None = None
        self.connections = 0
        self.readings: dict[str, InstanceReading] = {}
        self.now = 1000.0
        self.beats: list[Beat] = []
        self.controllers: tuple[ControllerFigures, ...] = ()
        memory = SlotFile(directory / "counters", sync=False)
        self.memory = CounterMemory([memory], "boot", Alarms(directory / "alarms"))
        self.memory.start()
        self.read()
        self.sender = Sender(
            lambda: Facts(self.settings, silent=self.silent),
            lambda: self.readings,
            self.memory,
            self._note,
            clock=lambda: self.now,
        )

    def read(self) -> None:
        counters = Counters(0, 0, self.connections, 0)
        current = WorkerReading("w", {"l": ListenerReading("OPEN", 0, counters)}, {})
        self.readings = {"lb": InstanceReading(("l",), current, (), at=self.now)}
        self.account()

    def account(self) -> None:
        numbers: list[int] = []

        def accounted() -> bool:
            if not numbers and (number := self.memory.account(self.readings)) is not None:
                numbers.append(number)
            return bool(numbers) and self.memory.written >= numbers[0]

        until(accounted, "the counters are written down")

    def beat(self, connections: int | None = None) -> None:
        if connections is not None:
            self.connections = connections
        self.read()
        self.sender.beat()

    def _note(self, beat: Beat | None, controllers: tuple[ControllerFigures, ...]) -> None:
        self.controllers = controllers
        if beat is not None:
            self.beats.append(beat)


@pytest.fixture
def amphora(
    tmp_path: Path, controllers: list[HeartbeatReceiver]
) -> Iterator[Callable[..., Amphora]]:
    with ExitStack() as ending:

        def make(*entries: str) -> Amphora:
            made = Amphora(tmp_path, list(entries) or [one.address for one in controllers])
            ending.callback(made.sender.close)
            return made

        yield make


def received(controllers: list[HeartbeatReceiver]) -> list[list[int]]:
    return [[beat.sequence for beat in one.drain()] for one in controllers]


def increases(controller: HeartbeatReceiver) -> list[int]:
    return [beat.listeners["l"]["stats"]["totconns"] for beat in controller.drain()]


def test_controllers_take_turns(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    made = amphora()
    for _ in range(7):
        made.beat()
    assert received(controllers) == [[0, 3, 6], [1, 4], [2, 5]]


def test_nothing_is_sent_while_there_is_a_reason(
    amphora: Callable[..., Amphora],
    controllers: list[HeartbeatReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = amphora(controllers[0].address)
    for connections, reason in enumerate((None, "the moon is full", "the moon is full", None), 1):
        made.silent = reason
        made.beat(connections)
    # What was counted meanwhile is not lost.
    assert increases(controllers[0]) == [1, 3]
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == ["no heartbeat while the moon is full"]


def test_each_bad_entry_is_skipped_on_its_own_and_reported_once(
    amphora: Callable[..., Amphora],
    controllers: list[HeartbeatReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second, third = (one.address for one in controllers)
    made = amphora("nonsense", first, "[2001:db8::dead]:0", "host:5555", second, third)
    for _ in range(6):
        made.beat()
    assert received(controllers) == [[0, 3], [1, 4], [2, 5]]
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == [
        "[health_manager] controller_ip_port_list: entry 1, 3, 4 is not ADDRESS:PORT, ignored"
    ]


def test_an_address_that_cannot_be_reached_does_not_stop_the_others(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    # Broadcasts are refused by the kernel: an error of sending, not of reading the entry.
    made = amphora("255.255.255.255:5555", controllers[0].address)
    for _ in range(3):
        made.beat()
    assert received(controllers)[0] == [0, 1, 2]


def test_operator_7_a_message_that_nobody_took_goes_to_the_next_controller_at_once(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    with HeartbeatReceiver(KEY) as gone:
        dead = gone.address
    made = amphora(dead, controllers[0].address)
    for connections in (1, 2, 3):
        made.beat(connections)
    beats = controllers[0].drain()
    assert [beat.sequence for beat in beats] == [0, 1, 2]
    assert [beat.listeners["l"]["stats"]["totconns"] for beat in beats] == [1, 1, 1]
    refused, alive = made.controllers
    assert (refused.address, refused.error) == (dead, "[Errno 111] Connection refused")
    assert refused.errors >= 1
    assert refused.last_error > 0
    assert (alive.sent, alive.errors) == (3, 0)


def test_operator_7_what_no_controller_took_is_told_later(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    with HeartbeatReceiver(KEY) as gone:
        made = amphora(gone.address)
    made.beat(5)
    assert [beat.sent for beat in made.beats] == [False]
    made.settings = replace(made.settings, controller_ip_port_list=(controllers[0].address,))
    made.beat(6)
    assert increases(controllers[0]) == [6]


def test_a_list_without_a_good_entry_is_no_error_of_the_beat(
    amphora: Callable[..., Amphora], caplog: pytest.LogCaptureFixture
) -> None:
    nobody = amphora("nonsense")
    nobody.beat()
    nobody.settings = replace(nobody.settings, controller_ip_port_list=())
    nobody.beat()
    nobody.beat()
    assert caplog.text.count("controller_ip_port_list names no controller") == 1


def test_a_new_key_list_and_interval_count_from_the_next_beat(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    changing = amphora(controllers[0].address)
    changing.beat()
    assert changing.sender.interval() == 10
    controllers[1].key = "new key"
    changing.settings = replace(
        changing.settings,
        heartbeat_key="new key",
        controller_ip_port_list=(controllers[1].address,),
        heartbeat_interval=3,
    )
    changing.beat()
    assert received(controllers) == [[0], [1], []]
    assert changing.sender.interval() == 3


def test_counters_are_increases_since_the_beat_before(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    made = amphora(controllers[0].address)
    for connections in (4, 4, 9):
        made.beat(connections)
    assert increases(controllers[0]) == [4, 0, 5]


def test_another_process_goes_on_where_the_one_before_was(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    amphora(controllers[0].address).beat(5)
    amphora(controllers[0].address).beat(8)
    assert increases(controllers[0]) == [5, 3]


def test_a_reading_is_told_for_two_intervals_and_is_down_then(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    """Whoever reads may hang: what it has read does not stay true."""
    made = amphora(controllers[0].address)
    silence = Silence(5.0, "the worker has not answered")
    made.readings = {
        "lb": InstanceReading(("l",), None, (), WORKER, at=made.now, silence=silence),
    }
    for _ in range(4):
        made.sender.beat()
        made.now += 9
    told = [beat.listeners["l"]["status"] for beat in controllers[0].drain()]
    assert told == ["OPEN", "OPEN", "OPEN", "DOWN"]
    assert [beat.silences for beat in made.beats] == [{}, {}, {}, {"lb": silence}]


def test_a_message_beyond_a_datagram_is_sent_with_less_and_reported(
    amphora: Callable[..., Amphora],
    controllers: list[HeartbeatReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = amphora(controllers[0].address)
    # Names that compression cannot shorten.
    members = {secrets.token_hex(16): "UP" for _ in range(5000)}
    current = WorkerReading("w", {}, {"p:l": PoolReading("UP", members)})
    made.readings = {"lb": InstanceReading(("l",), current, (), at=made.now)}
    made.sender.beat()
    (beat,) = controllers[0].drain()
    assert set(beat.listeners) == {"l"}
    assert beat.pools == {"p:l": {"status": "UP", "members": {}}}
    assert "does not fit a datagram" in caplog.text


def test_sends_waiting_increases_at_the_end(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    made = amphora(controllers[0].address)
    made.beat(2)
    made.sender.finish()
    made.connections = 5
    made.read()
    made.sender.finish()
    assert increases(controllers[0]) == [2, 3]
