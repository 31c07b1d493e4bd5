"""Any readings become messages that a controller can read, with every listener."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.heartbeat import message
from amphora_agent.model.status import (
    Counters,
    InstanceReading,
    ListenerReading,
    PoolReading,
    WorkerReading,
)
from tests.unit.heartbeat.test_message import opened

_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


_statuses = st.sampled_from(["UP", "DOWN", "DRAIN", "MAINT", "no check", "UP 1/3"])


_readings = st.dictionaries(
    _names,
    st.builds(
        InstanceReading,
        st.lists(_names, unique=True, max_size=5).map(tuple),
        st.none()
        | st.builds(
            WorkerReading,
            st.just("w"),
            st.dictionaries(
                _names,
                st.builds(
                    ListenerReading,
                    st.sampled_from(["OPEN", "FULL", "STOP"]),
                    st.integers(0, 2**40),
                    st.just(Counters(0, 0, 0, 0)),
                ),
            ),
            st.dictionaries(
                _names, st.builds(PoolReading, _statuses, st.dictionaries(_names, _statuses))
            ),
        ),
        st.just(()),
    ),
    max_size=5,
)


@given(_readings, st.text(st.characters(exclude_categories=["Cs"])), st.integers(200, 3000))
def test_whatever_is_read_every_listener_is_sent_and_the_signature_holds(
    readings: dict[str, InstanceReading], key: str, most: int
) -> None:
    expected = {name for reading in readings.values() for name in reading.listeners}
    content = message.build_content("a1", 1, readings, {})
    heartbeat = message.fit(content, key, most)
    sent = opened(heartbeat.datagram, key)
    assert set(sent["listeners"]) == expected
    if not heartbeat.left_out:
        assert sent == content
        assert len(heartbeat.datagram) <= most
    else:
        assert not any(pool["members"] for pool in sent["pools"].values())
