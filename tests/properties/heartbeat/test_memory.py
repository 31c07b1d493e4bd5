"""No increase is told twice, in any history of faults and restarts."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.heartbeat.test_memory import Agent, reading


class Lives(RuleBasedStateMachine):
    """Requests come, readings are taken, messages go out, disks fail and processes end by force, in
    any order: the sum of what is told is never more than what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.counted = self.told = 0
        self.agent = Agent(self.directory)
        self.agent.settle(self.agent.account(reading(0)))

    @rule(number=st.integers(1, 5))
    def serve(self, number: int) -> None:
        self.counted += number

    @rule()
    def read(self) -> None:
        self.agent.account(reading(self.counted))

    @rule()
    def tell(self) -> None:
        self.told += self.agent.tell()

    @rule(disk=st.booleans(), run=st.booleans())
    def change_the_disks(self, *, disk: bool, run: bool) -> None:
        self.agent.disk.fails, self.agent.run.fails = disk, run

    @rule()
    def end_by_force(self) -> None:
        # What this process would still write is not written any more.
        for file in (self.agent.disk, self.agent.run):
            with file.writing:
                file.fails = True
        self.agent = Agent(self.directory)

    @invariant()
    def nothing_is_told_twice(self) -> None:
        assert self.told <= self.counted

    def teardown(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)  # a thread may still write there


TestLives = Lives.TestCase
# Each life has threads that end with the process.
TestLives.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
