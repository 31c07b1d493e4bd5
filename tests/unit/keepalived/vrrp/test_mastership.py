"""Who has the VIPs: each change of VRRP's state is recorded once, whatever was missed meanwhile."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import Journal
from amphora_agent.keepalived.vrrp.mastership import Mastership
from amphora_agent.model.addressing import Address
from amphora_agent.paths import VrrpLayout
from lab.waiting import until

VIP: Address = ip_address("10.1.0.5")
TEXT = """\
vrrp_instance vips {
    virtual_router_id 1
    interface eth1
    virtual_ipaddress {
        10.1.0.5
    }
}
"""


class Bench:
    """keepalived and the addresses are what the test says; FIFO and record are real."""

    def __init__(self, directory: Path) -> None:
        self.vrrp = VrrpLayout(
            directory=directory / "vrrp",
            verdict=directory / "verdict",
            child_pid_file=directory / "pid",
            bfd_pid_file=directory / "bfd",
            fifo=directory / "run" / "fifo",
            states=directory / "run" / "states",
        )
        self.vrrp.directory.mkdir()
        self.vrrp.configuration.write_text(TEXT)
        self.journal = Journal(directory / "journal", Alarms(directory / "alarms"))
        self.addresses: set[Address] = set()
        self.runs = True
        self.agent: Mastership | None = None
        self.restart()

    def restart(self) -> None:
        """Another agent begins to watch."""
        self.end()
        self.agent = Mastership(
            self.vrrp,
            lambda: self.addresses,
            self.journal,
            running=lambda vrrp: self.runs,
            look=0.001,
        )

    def end(self) -> None:
        if self.agent is not None:
            self.agent.close()

    def steps(self, count: int = 4) -> None:
        assert self.agent is not None
        for _ in range(count):
            self.agent.step()

    def tell(self, *states: str) -> None:
        """As keepalived does: it makes the FIFO where there is none, and holds it open."""
        if not self.vrrp.fifo.exists():
            self.vrrp.fifo.parent.mkdir(exist_ok=True)
            os.mkfifo(self.vrrp.fifo)
        self.keepalived = os.open(self.vrrp.fifo, os.O_RDWR | os.O_NONBLOCK)
        for state in states:
            os.write(self.keepalived, f'INSTANCE "vips" {state} 100\n'.encode())

    def fill(self, state: str) -> None:
        """Tell it until the FIFO takes no more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.keepalived, f'INSTANCE "vips" {state} 100\n'.encode())

    def recorded(self, count: int) -> list[str]:
        """The differences in the record, the oldest first, once there are so many."""
        until(lambda: len(self.journal.entries()) >= count, "all is recorded")
        entries = self.journal.entries()[::-1]
        assert all(len(entry.differences) == 1 for entry in entries)
        assert {entry.subject for entry in entries} <= {"vips"}
        return [str(entry.differences[0]) for entry in entries]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.end()


def test_op11_each_change_is_recorded_once_with_the_old_state(bench: Bench) -> None:
    bench.tell("BACKUP", "MASTER", "MASTER", "FAULT", "MASTER_RX_LOWER_PRI", "BACKUP")
    bench.steps()
    assert bench.recorded(4) == [
        "state: none -> BACKUP",
        "state: BACKUP -> MASTER",
        "state: MASTER -> FAULT",
        "state: FAULT -> BACKUP",
    ]


def test_op11_what_was_told_while_no_agent_ran_is_recorded_later(bench: Bench) -> None:
    bench.tell("BACKUP")
    bench.steps()
    bench.end()
    bench.tell("MASTER")
    bench.addresses = {VIP}
    bench.restart()
    bench.steps()
    assert bench.recorded(2)[-1] == "state: BACKUP -> MASTER"
    bench.restart()
    bench.steps()
    assert len(bench.recorded(2)) == 2


def test_op11_an_agent_that_was_told_nothing_sees_who_has_the_vips(bench: Bench) -> None:
    bench.addresses = {VIP}
    bench.steps()
    assert bench.recorded(1) == ["state: none -> MASTER"]
    bench.addresses = set()
    bench.steps()
    assert bench.recorded(2)[-1] == "state: MASTER -> BACKUP"
    bench.tell("FAULT")
    bench.steps()
    assert bench.recorded(3)[-1] == "state: BACKUP -> FAULT"
    bench.runs = False
    bench.steps()
    assert bench.recorded(4)[-1] == "state: FAULT -> STOPPED"


def test_op11_a_fifo_that_is_full_hides_no_change_for_long(bench: Bench) -> None:
    bench.tell("MASTER")
    fcntl.fcntl(bench.keepalived, fcntl.F_SETPIPE_SZ, 4096)
    bench.fill("FAULT")
    bench.addresses = {VIP}
    bench.steps()
    told = bench.recorded(3)
    assert told == ["state: none -> MASTER", "state: MASTER -> FAULT", "state: FAULT -> MASTER"]


def test_op11_a_fifo_that_was_made_anew_is_read(bench: Bench) -> None:
    bench.tell("BACKUP")
    bench.steps()
    bench.tell("MASTER")
    bench.vrrp.fifo.unlink()
    bench.tell("FAULT")
    bench.steps()
    assert bench.recorded(3)[1:] == ["state: BACKUP -> MASTER", "state: MASTER -> FAULT"]


@pytest.mark.parametrize("there", ["nothing", "a file", "nonsense in the states"])
def test_op11_what_lies_in_the_way_is_replaced(bench: Bench, there: str) -> None:
    bench.vrrp.fifo.parent.mkdir()
    if there == "a file":
        bench.vrrp.fifo.write_text("x")
    elif there != "nothing":
        bench.vrrp.states.write_text("[1")
    bench.restart()
    bench.steps(1)
    bench.tell('MASTER 100\nnonsense\nGROUP "g" MASTER 1\nINSTANCE "vips" BACKUP')
    bench.steps()
    assert bench.recorded(2) == ["state: none -> MASTER", "state: MASTER -> BACKUP"]


def test_op11_a_fifo_that_cannot_be_is_said_once_and_does_without(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.vrrp.fifo.parent.parent.joinpath("run").write_text("a file where a directory should be")
    bench.addresses = {VIP}
    bench.steps()
    assert bench.recorded(1) == ["state: none -> MASTER"]
    assert len([each for each in caplog.records if "are seen late" in each.getMessage()]) == 1


def test_op11_nothing_is_recorded_of_an_amphora_without_vrrp(bench: Bench) -> None:
    bench.vrrp.configuration.unlink()
    bench.steps()
    assert not bench.vrrp.fifo.exists()
    assert bench.journal.entries() == []


def test_op11_before_keepalived_ever_ran_nothing_is_recorded(bench: Bench) -> None:
    bench.runs = False
    bench.steps()
    assert bench.journal.entries() == []
