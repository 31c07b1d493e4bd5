"""A file of two slots: the last write is there after every kind of end, also on a full disk."""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from amphora_agent.slots import Slot, SlotFile


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=256k", f"test-{uuid.uuid4()}", str(place))
    subprocess.run(mount, check=True)
    yield place
    subprocess.run(("umount", str(place)), check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"0" * 4096)


def test_the_last_of_many_writes_is_read_also_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    assert SlotFile(path, sync=True).read() is None
    for number in range(1, 8):
        file = SlotFile(path, sync=True)
        file.read()
        file.write(number, b"x" * number)
        assert SlotFile(path, sync=True).read() == Slot(number, b"x" * number)


def test_payload_larger_than_its_slot_gets_a_larger_one(tmp_path: Path) -> None:
    file = SlotFile(tmp_path / "slots", sync=False)
    for number, size in enumerate((10, 100_000, 10, 500_000, 1), 1):
        file.write(number, b"y" * size)
        assert SlotFile(file.path, sync=False).read() == Slot(number, b"y" * size)


def test_refuses_a_file_without_a_whole_slot(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    path.write_bytes(b"nonsense")
    with pytest.raises(OSError, match="damaged"):
        SlotFile(path, sync=False).read()


def test_e2_a_full_disk_takes_what_it_took_before(small_disk: Path) -> None:
    file = SlotFile(small_disk / "slots", sync=True)
    file.write(1, b"before")
    fill(small_disk)
    for number in range(2, 6):
        file.write(number, b"full" * 1000)
    assert SlotFile(file.path, sync=True).read() == Slot(5, b"full" * 1000)
    with pytest.raises(OSError, match="No space left"):
        file.write(6, b"z" * 100_000)
    assert SlotFile(file.path, sync=True).read() == Slot(5, b"full" * 1000)
