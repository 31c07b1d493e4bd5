"""The number of listeners of which every message can tell."""

import random
import uuid

import pytest

from amphora_agent.heartbeat import message
from amphora_agent.heartbeat.message import LARGEST_DATAGRAM, MOST_LISTENERS
from amphora_agent.model.status import Counters, InstanceReading, ListenerReading, WorkerReading


def heartbeat(count: int, version: int, seed: int) -> message.Heartbeat:
    """Of listeners with random ids and counters, a quarter of them each OPEN, FULL, STOP, DOWN."""
    source = random.Random(seed)
    ids = [str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(count)]
    counted = {name: Counters(*(source.getrandbits(40) for _ in range(4))) for name in ids}
    listeners = {
        name: ListenerReading(source.choice(("OPEN", "FULL", "STOP")), source.getrandbits(20), each)
        for name, each in counted.items()
        if source.random() < 0.75
    }
    reading = InstanceReading(tuple(ids), WorkerReading("w", listeners, {}), ())
    content = message.build_content(ids[0], 10**9, {"lb": reading}, counted, version)
    return message.fit(content, "key")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", [message.LATEST, message.FLAT, message.NUMBERED])
def test_every_message_has_every_listener_up_to_the_limit(version: int, seed: int) -> None:
    made = heartbeat(MOST_LISTENERS, version, seed)
    assert len(made.datagram) <= LARGEST_DATAGRAM


def test_listeners_beyond_the_limit_do_not_fit() -> None:
    assert len(heartbeat(int(MOST_LISTENERS * 1.05), message.LATEST, 1).datagram) > (
        LARGEST_DATAGRAM
    )
