"""A process that is killed at any call leaves the old or the new content of a file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amphora_agent import files
from tests.unit.test_files import names

KILLED_AT_EVERY_CALL = """
import os, signal, sys
from pathlib import Path
from amphora_agent import files

file, copy = Path(sys.argv[1]), Path(sys.argv[2])

def change(number):
    def count(frame, event, argument):
        nonlocal number
        number -= event in ("c_call", "c_return")
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    files.keep_or_copy(file, copy)
    files.write(file, b"new" * 120_000)
    sys.setprofile(None)
    os._exit(0)

number, status = 0, -1
while status != 0:
    for path in (file, copy):  # they may be one file by now
        path.unlink(missing_ok=True)
    file.write_bytes(b"old" * 100_000)
    copy.write_bytes(b"older")
    pid = os.fork()
    if pid == 0:
        change(number)
    status = os.waitpid(pid, 0)[1]
    print(file.read_bytes()[:3].decode(), file.stat().st_size, copy.read_bytes()[:5].decode())
    number += 1
"""


def test_a_kill_before_or_after_any_call_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    """Not by chance: a child counts its calls, and kills itself at one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_CALL, tmp_path / "file", tmp_path / "copy"],
        capture_output=True,
        text=True,
        check=True,
    )
    instants = done.stdout.splitlines()
    assert len(instants) > 40
    # One after the other, and nothing in between.
    states = ["old 300000 older", "old 300000 oldol", "new 360000 oldol"]
    assert list(dict.fromkeys(instants)) == states
    assert instants == sorted(instants, key=states.index)
    files.sweep(tmp_path)
    assert names(tmp_path) == ["copy", "file"]


WRITER = """
import sys
from pathlib import Path
from amphora_agent import files
file, contents = Path(sys.argv[1]), [letter * 400_000 for letter in (b"a", b"b")]
print("ready", flush=True)
number = 0
while True:
    files.write(file, contents[number % 2])
    if number % 3 == 0:
        files.keep_or_copy(file, file.with_name("copy"))
    number += 1
    print(number, flush=True)
"""


def test_a_kill_at_any_instant_leaves_one_whole_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    wholes = {bytes([letter]) * 400_000 for letter in b"ab"}
    strays = 0
    for attempt in range(200):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for _ in range(2 + attempt % 5):
                child.stdout.readline()
            for _ in range(attempt % 40 * 400):  # another instant each time, without a clock
                os.getpid()
            child.send_signal(signal.SIGKILL)
        assert file.read_bytes() in wholes
        copy = tmp_path / "copy"
        assert not copy.exists() or copy.read_bytes() in wholes
        left = [name for name in names(tmp_path) if name not in ("file", "copy")]
        assert all(name.startswith(".stage-") for name in left)
        strays += len(left)
        files.sweep(tmp_path)
        assert set(names(tmp_path)) <= {"file", "copy"}
        if attempt >= 20 and strays >= 3:
            return
    pytest.fail("hardly a kill came in the middle of a write: this test proved nothing")
