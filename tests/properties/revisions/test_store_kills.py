"""A kill at any step leaves whole generations."""

import signal
import subprocess
import sys
from pathlib import Path

from amphora_agent import files
from amphora_agent.revisions.store import RevisionStore
from tests.builders.instances import commit, layout, live_files
from tests.unit.revisions.test_store import certificates

#: Remembers text after text for a directory, and is killed before a system call of a given number.
_MORTAL = """
import os, sys
from pathlib import Path
from tests.builders.instances import commit, layout, live_files
from amphora_agent.revisions.store import RevisionStore

instance, fatal = layout(Path(sys.argv[1])), int(sys.argv[2])
made = RevisionStore(live_files(instance), most=2)
for number in range(3):
    commit(instance, f"text {number}", **{f"of{number}": b"key"})
    made.number(instance)
    made.tidy(instance)
calls = 0
def mortal(real):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    return call
for name in ("mkdir", "link", "symlink", "rename", "replace", "rmdir", "unlink", "open"):
    setattr(os, name, mortal(getattr(os, name)))
commit(instance, "the last", last=b"key")
made.number(instance)
made.tidy(instance)
"""


def test_a_kill_at_any_step_leaves_whole_generations_and_the_next_number(tmp_path: Path) -> None:
    outcomes = []
    for fatal in range(1, 200):
        top = tmp_path / str(fatal)
        ended = subprocess.run([sys.executable, "-c", _MORTAL, str(top), str(fatal)], check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        instance = layout(top)
        made = RevisionStore(live_files(instance), most=2)
        numbers = made.numbers(instance)
        for number in numbers:
            name = "last" if number == 4 else f"of{number - 1}"
            assert certificates(made.manifest(instance, number)) == {name}, (fatal, number)
        outcomes.append(numbers)
        # Whoever comes next brings it to an end, and leaves nothing lying about.
        commit(instance, "the last", last=b"key")
        assert made.number(instance) == 4
        commit(instance, "after", after=b"key")
        assert made.number(instance) == 5
        made.tidy(instance)
        assert {path.name for path in instance.revisions.iterdir() if path.is_symlink()} == {
            *("4", "5", "committed")
        }
        files.sweep(top)  # as an agent that begins does
        assert not list(top.rglob(".stage-*"))
    assert ended.returncode == 0
    assert [2, 3] in outcomes
    assert [3, 4] in outcomes
