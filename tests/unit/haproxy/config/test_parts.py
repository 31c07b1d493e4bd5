"""What haproxy is given of many files: few, whose places lead back to the many."""

import uuid

from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.paths import PARTS

NAMES = ["haproxy.cfg", *(f"pool-{uuid.UUID(int=number)}.cfg" for number in range(5000))]


def test_d2_there_are_few_whatever_there_is() -> None:
    found = loaded_state.group_into_parts(NAMES)
    assert len(found) <= 257
    assert sorted(name for inside in found.values() for name in inside) == sorted(NAMES)
    assert (
        sum(len(f"/var/lib/octavia/{uuid.uuid4()}/current/{PARTS}/{p};") for p in found) < 1 << 15
    )


def test_d2_what_all_share_is_read_first() -> None:
    assert next(iter(loaded_state.group_into_parts(NAMES))) == loaded_state.SHARED
    assert loaded_state.group_into_parts(NAMES)[loaded_state.SHARED] == (loaded_state.SHARED,)
    assert sorted(loaded_state.group_into_parts(NAMES)) == list(
        loaded_state.group_into_parts(NAMES)
    )


def test_d2_a_file_stays_in_its_part() -> None:
    few, many = loaded_state.group_into_parts(NAMES[:10]), loaded_state.group_into_parts(NAMES)
    assert all(set(inside) <= set(many[part]) for part, inside in few.items())
