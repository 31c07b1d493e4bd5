"""Where a beat goes and what is remembered of it, over real sockets.

What haproxy says is a value here, not a haproxy: the readings are what these tests vary, and how
they come about is tested in tests/integration/test_observer.py.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amphora_agent.heartbeat.sender import Sender
from amphora_agent.model.status import (
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from amphora_agent.settings import Settings
from lab.heartbeats import HeartbeatReceiver

KEY = "key"


class Haproxy:
    """One load balancer whose counters the test sets."""

    def __init__(self) -> None:
        self.connections = 0
        self.timeouts: list[float] = []
        self.remembered_elsewhere = 0

    def read(self, *, timeout: float) -> dict[str, InstanceReading]:
        self.timeouts.append(timeout)
        counters = Counters(0, 0, self.connections, 0)
        current = WorkerReading("w", {"l": ListenerReading("OPEN", 0, counters)}, {})
        return {"lb": InstanceReading(("l",), current, ())}

    def forget(self, readings: dict[str, InstanceReading]) -> None:
        self.remembered_elsewhere += 1


@pytest.fixture
def haproxy() -> Haproxy:
    return Haproxy()


@pytest.fixture
def controllers() -> Iterator[list[HeartbeatReceiver]]:
    made = [HeartbeatReceiver(KEY), HeartbeatReceiver(KEY), HeartbeatReceiver(KEY, address="::1")]
    yield made
    for one in made:
        one.close()


class Amphora:
    """Settings that a controller may change, and the file of the counters."""

    def __init__(self, directory: Path, haproxy: Haproxy, entries: list[str]) -> None:
        self.settings = Settings(
            amphora_id="a1",
            heartbeat_key=KEY,
            heartbeat_interval=10,
            controller_ip_port_list=tuple(entries),
        )
        self.memory = directory / "counters.json"
        self._haproxy = haproxy

    def sender(self) -> Sender:
        return Sender(lambda: self.settings, self._haproxy, self.memory)


@pytest.fixture
def amphora(
    tmp_path: Path, haproxy: Haproxy, controllers: list[HeartbeatReceiver]
) -> Callable[..., Amphora]:
    def make(*entries: str) -> Amphora:
        return Amphora(tmp_path, haproxy, list(entries) or [one.address for one in controllers])

    return make


def received(controllers: list[HeartbeatReceiver]) -> list[list[int]]:
    return [[beat.sequence for beat in one.drain()] for one in controllers]


def test_controllers_take_turns(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    sender = amphora().sender()
    for _ in range(7):
        sender.beat()
    assert received(controllers) == [[0, 3, 6], [1, 4], [2, 5]]


def test_nothing_is_read_or_sent_while_there_is_a_reason(
    amphora: Callable[..., Amphora],
    haproxy: Haproxy,
    controllers: list[HeartbeatReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasons = iter((None, "the moon is full", "the moon is full", None))
    made = amphora(controllers[0].address)
    sender = Sender(lambda: made.settings, haproxy, made.memory, silent=lambda: next(reasons))
    for _ in range(4):
        haproxy.connections += 1
        sender.beat()
    beats = controllers[0].drain()
    # What was counted meanwhile is not lost.
    assert [beat.listeners["l"]["stats"]["totconns"] for beat in beats] == [1, 3]
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == ["no heartbeat while the moon is full"]


def test_each_bad_entry_is_skipped_on_its_own_and_reported_once(
    amphora: Callable[..., Amphora],
    controllers: list[HeartbeatReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second, third = (one.address for one in controllers)
    sender = amphora("nonsense", first, "[2001:db8::dead]:0", "host:5555", second, third).sender()
    for _ in range(6):
        sender.beat()
    assert received(controllers) == [[0, 3], [1, 4], [2, 5]]
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert [error.split(":")[0] for error in errors] == [
        "no heartbeat to 'nonsense'",
        "no heartbeat to '[2001",
        "no heartbeat to 'host",
    ]


def test_an_address_that_cannot_be_reached_does_not_stop_the_others(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    # Broadcasts are refused by the kernel: an error of sending, not of reading the entry.
    sender = amphora("255.255.255.255:5555", controllers[0].address).sender()
    for _ in range(3):
        sender.beat()
    assert received(controllers)[0] == [0, 1, 2]


def test_a_list_without_a_good_entry_is_no_error_of_the_beat(
    amphora: Callable[..., Amphora], caplog: pytest.LogCaptureFixture
) -> None:
    nobody = amphora("nonsense")
    sender = nobody.sender()
    sender.beat()
    nobody.settings = replace(nobody.settings, controller_ip_port_list=())
    sender.beat()
    sender.beat()
    assert caplog.text.count("controller_ip_port_list is empty") == 1


def test_a_new_key_list_and_interval_count_from_the_next_beat(
    amphora: Callable[..., Amphora], controllers: list[HeartbeatReceiver]
) -> None:
    changing = amphora(controllers[0].address)
    sender = changing.sender()
    sender.beat()
    assert sender.interval() == 10
    controllers[1].key = "new key"
    changing.settings = replace(
        changing.settings,
        heartbeat_key="new key",
        controller_ip_port_list=(controllers[1].address,),
        heartbeat_interval=3,
    )
    sender.beat()
    assert received(controllers) == [[0], [1], []]
    assert sender.interval() == 3


def test_counters_are_increases_since_the_beat_before(
    amphora: Callable[..., Amphora], haproxy: Haproxy, controllers: list[HeartbeatReceiver]
) -> None:
    sender = amphora(controllers[0].address).sender()
    for haproxy.connections in (4, 4, 9):
        sender.beat()
    assert increases(controllers[0]) == [4, 0, 5]


def test_another_process_goes_on_where_the_one_before_was(
    amphora: Callable[..., Amphora], haproxy: Haproxy, controllers: list[HeartbeatReceiver]
) -> None:
    amphora_ = amphora(controllers[0].address)
    first, second = amphora_.sender(), amphora_.sender()  # both made before either beats
    haproxy.connections = 5
    first.beat()
    haproxy.connections = 8
    second.beat()
    assert increases(controllers[0]) == [5, 3]


def test_counters_are_remembered_before_they_are_sent(
    amphora: Callable[..., Amphora], haproxy: Haproxy, controllers: list[HeartbeatReceiver]
) -> None:
    """A datagram may be lost: better its increase with it than the same increase twice."""
    nobody = amphora("nonsense")
    haproxy.connections = 5
    nobody.sender().beat()
    nobody.settings = replace(nobody.settings, controller_ip_port_list=(controllers[0].address,))
    haproxy.connections = 6
    nobody.sender().beat()
    assert increases(controllers[0]) == [1]


def test_last_words_are_forgotten_only_after_they_are_remembered(
    amphora: Callable[..., Amphora], haproxy: Haproxy, controllers: list[HeartbeatReceiver]
) -> None:
    amphora_ = amphora()
    amphora_.memory.mkdir()  # nothing can be written there
    haproxy.connections = 5
    with pytest.raises(OSError, match="directory"):
        amphora_.sender().beat()
    assert haproxy.remembered_elsewhere == 0
    amphora_.memory.rmdir()
    amphora_.sender().beat()
    assert haproxy.remembered_elsewhere == 1
    assert increases(controllers[0]) == [5]


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b'{"lb": {"w": {"l": [1, 2]}}}'])
def test_a_memory_that_cannot_be_read_is_reported_and_the_beat_goes_out(
    amphora: Callable[..., Amphora],
    controllers: list[HeartbeatReceiver],
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    amphora_ = amphora(controllers[0].address)
    amphora_.memory.write_bytes(content)
    amphora_.sender().beat()
    assert received(controllers)[0] == [0]
    assert "cannot be read, counters begin anew" in caplog.text


def test_an_instance_gets_no_longer_than_a_share_of_a_short_interval(
    amphora: Callable[..., Amphora], haproxy: Haproxy
) -> None:
    changing = amphora()
    sender = changing.sender()
    for interval in (1, 10, 1000):
        changing.settings = replace(changing.settings, heartbeat_interval=interval)
        sender.beat()
    assert haproxy.timeouts == [0.4, 3.0, 3.0]


def test_a_message_beyond_a_datagram_is_sent_with_less_and_reported(
    tmp_path: Path, controllers: list[HeartbeatReceiver], caplog: pytest.LogCaptureFixture
) -> None:
    class Large(Haproxy):
        def read(self, *, timeout: float) -> dict[str, InstanceReading]:
            # Names that compression cannot shorten.
            members = {secrets.token_hex(16): "UP" for _ in range(5000)}
            current = WorkerReading("w", {}, {"p:l": PoolReading("UP", members)})
            return {"lb": InstanceReading(("l",), current, ())}

    Amphora(tmp_path, Large(), [controllers[0].address]).sender().beat()
    (beat,) = controllers[0].drain()
    assert set(beat.listeners) == {"l"}
    assert beat.pools == {"p:l": {"status": "UP", "members": {}}}
    assert "does not fit a datagram" in caplog.text


def increases(controller: HeartbeatReceiver) -> list[int]:
    return [beat.listeners["l"]["stats"]["totconns"] for beat in controller.drain()]
