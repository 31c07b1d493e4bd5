"""A file of two slots returns the last content that was written, whatever came before."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amphora_agent.slots import Slot, SlotFile


@example(0, b"1")  # the number
@given(st.integers(0, 1 << 15), st.binary(min_size=1, max_size=50))
def test_a_write_that_is_torn_leaves_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, place: int, torn: bytes
) -> None:
    file = SlotFile(tmp_path_factory.mktemp("slots") / "slots", sync=False)
    file.write(1, b"one")
    file.write(2, b"two")
    file.write(3, b"three")  # over the first
    with open(file.path, "r+b") as raw:
        raw.seek(min(place, (1 << 15) - len(torn)))
        raw.write(torn)
    assert SlotFile(file.path, sync=False).read() in (Slot(3, b"three"), Slot(2, b"two"))
