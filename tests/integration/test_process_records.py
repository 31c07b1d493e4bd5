"""The embedded supervisor on disks that refuse its records: processes do as they are told."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.files import atomic
from amphora_agent.supervisor.contract import ProcessSpec, ProcessState
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from lab import processes
from lab.network import Namespace
from lab.processes import Process
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer
from tests.integration.disks import Disk, FullDisk, ReadOnlyDisk
from tests.integration.test_embedded_supervisor import NAME, WAITS, earlier, found

ENDINGS = ["stop", "forget", "retire"]
PLACES = {"records": ("records",), "records and run": ("records", "run")}


class Agents:
    """Supervisors of one agent after the other, in one directory."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        self.directory = directory
        os.mkfifo(directory / f"{NAME}.fifo")
        self.spec = ProcessSpec(
            name=NAME,
            description="a process of a test",
            template="haproxy.service.j2",
            argv=("/bin/sh", "-c", WAITS, f"{directory}/{NAME}"),
            namespace=namespace.path,
        )
        self._ahead = 0.0
        self._made: list[EmbeddedSupervisor] = []

    def new(self) -> EmbeddedSupervisor:
        self._made.append(
            EmbeddedSupervisor(
                self.directory / "records",
                self.directory / "run",
                clock=lambda: time.monotonic() + self._ahead,
            )
        )
        return self._made[-1]

    def started(self) -> EmbeddedSupervisor:
        """A new agent's, that watches."""
        made = self.new()
        made.adopt()
        made.resume()
        return made

    def retry(self, one: EmbeddedSupervisor) -> None:
        """Let the time pass after which the supervisor changes what the disk refused to change."""
        self._ahead += 60
        one.resume()

    def process(self) -> Process | None:
        return found(self.directory)

    def alive(self) -> Process:
        """The process, whose command line the kernel shows an instant after its start."""
        until(lambda: self.process() is not None, "it runs")
        process = self.process()
        assert process is not None
        return process

    def alarms(self) -> list[str]:
        return [alarm.subject for alarm in Alarms(self.directory / "run/alarms").current()]

    def record(self) -> bytes:
        path = self.directory / "records" / f"{NAME}.json"
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        return b""

    def leave_copy(self) -> None:
        """As when the disk has refused the record for a while."""
        (self.directory / "run" / f"{NAME}.record").write_bytes(self.record())

    def leftovers(self) -> list[str]:
        """Files besides records and output. The sweep at the next start removes stages."""
        return [str(path) for path in self.directory.rglob("*.record")]

    def kill(self) -> Process:
        victim = self.alive()
        victim.send(signal.SIGKILL)
        return victim

    def await_restart(self, victim: Process) -> None:
        until(lambda: self.process() not in (None, victim), "it runs again")


@pytest.fixture
def agents(tmp_path: Path, namespace: Namespace) -> Iterator[Agents]:
    yield Agents(tmp_path, namespace)
    processes.end(processes.mentioning(tmp_path))


@pytest.fixture(params=list(PLACES.values()), ids=list(PLACES))
def places(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found_places: tuple[str, ...] = request.param
    return found_places


@pytest.fixture(params=[FullDisk, ReadOnlyDisk], ids=lambda kind: kind.__name__)
def disk(request: pytest.FixtureRequest, tmp_path: Path, places: tuple[str, ...]) -> Iterator[Disk]:
    if request.param is ReadOnlyDisk and "run" in places:
        pytest.skip("the kernel makes no disk read-only while output is open on it")
    with ExitStack() as ending:
        made = request.param(ending, tmp_path, *places)
        yield made
        made.heal()
        processes.end(processes.mentioning(tmp_path / NAME))


@pytest.mark.parametrize("ending", ENDINGS)
def test_e1_a_process_is_ended_whatever_the_disk_says(
    agents: Agents, disk: Disk, ending: str
) -> None:
    one = agents.started()
    one.start(agents.spec)
    disk.break_()
    getattr(one, ending)(NAME)
    until(lambda: agents.process() is None, "it has ended")
    assert one.state(NAME) is ProcessState.STOPPED
    another = agents.started()
    assert another.state(NAME) is ProcessState.STOPPED, "an agent that starts now starts it not"
    assert agents.process() is None
    disk.heal()
    for each in (one, another):
        agents.retry(each)
    until(lambda: b'"wanted":true' not in agents.record(), "the record says so")
    until(lambda: not agents.alarms(), "the alarm is over")
    getattr(one, ending)(NAME)
    assert agents.leftovers() == []


def test_e3_a_process_that_dies_is_started_whatever_the_disk_says(
    agents: Agents, disk: Disk
) -> None:
    one = agents.started()
    one.start(agents.spec)
    disk.break_()
    agents.await_restart(agents.kill())
    until(lambda: one.state(NAME) is ProcessState.RUNNING, "it is told")
    until(lambda: any(NAME in subject for subject in agents.alarms() or _unwritten(one)), "alarm")
    alive = agents.alive()
    later = agents.new()
    later.adopt()
    assert later.state(NAME) is ProcessState.RUNNING, "an agent that starts now adopts it"
    assert agents.process() == alive
    disk.heal()
    agents.retry(one)
    until(lambda: b'"pid":%d,' % alive.pid in agents.record(), "the record is written")
    later.resume()
    agents.retry(later)
    until(lambda: not agents.alarms(), "the alarm is over")
    one.stop(NAME)
    later.stop(NAME)
    assert agents.process() is None


def _unwritten(one: EmbeddedSupervisor) -> list[str]:
    """The alarms of a supervisor that no disk takes."""
    return [alarm.subject for alarm in one._records._alarms.current()]


def test_e3_a_process_that_was_stopped_is_started_whatever_the_disk_says(
    agents: Agents, disk: Disk
) -> None:
    one = agents.started()
    one.start(agents.spec)
    one.stop(NAME)
    disk.break_()
    one.start(agents.spec)
    alive = agents.alive()
    assert one.state(NAME) is ProcessState.RUNNING
    disk.heal()
    agents.retry(one)
    until(lambda: b'"pid":%d,' % alive.pid in agents.record(), "the record is written")
    assert agents.leftovers() == []
    later = agents.started()
    assert agents.process() == alive
    later.stop(NAME)
    one.stop(NAME)


class Faults:
    """Fails one effect on files below a directory, or all from that on, with an error of the disk.

    It stands at the functions that `files` calls, the single owner of these effects: an error at
    one step, such as EIO of the second write, cannot be had from a real disk at will.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = str(directory)
        self._left: int | None = None
        self._error, self._lasting = 0, False
        self.hit = False
        for name in ("open", "fsync", "fchmod", "chmod", "replace", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))
        monkeypatch.setattr(atomic, "open", self._open, raising=False)
        monkeypatch.setattr(Path, "open", self._open_path(Path.open))

    def arm(self, number: int, error: int, *, lasting: bool) -> None:
        self._left, self._error, self._lasting, self.hit = number, error, lasting, False

    def disarm(self) -> None:
        self._left = None

    def _step(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            self.hit = True
            if not self._lasting:
                self._left = None
            raise OSError(self._error, os.strerror(self._error))

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(target, int) or str(target).startswith(self._directory):
                self._step()
            return function(target, *arguments, **options)

        return call

    def _open_path(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not mode.startswith("r") and str(path).startswith(self._directory):
                self._step()
            return function(path, mode, *arguments, **options)

        return call

    def _open(self, *arguments: Any, **options: Any) -> IO[bytes]:
        file: IO[bytes] = open(*arguments, **options)  # noqa: SIM115 - it stands for open
        try:
            self._step()
        except OSError:
            with file:
                file.write(b"half")  # a short write, after which the disk refuses
            raise
        return file


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(tmp_path, monkeypatch)


def _start(agents: Agents, one: EmbeddedSupervisor) -> EmbeddedSupervisor:
    one.stop(NAME)
    one.start(agents.spec)
    return one


def _restart(agents: Agents, one: EmbeddedSupervisor) -> EmbeddedSupervisor:
    one.resume()
    agents.await_restart(agents.kill())
    until(lambda: one.state(NAME) is ProcessState.RUNNING, "it is told")
    return one


def _adopt(agents: Agents, one: EmbeddedSupervisor) -> EmbeddedSupervisor:
    return earlier(agents.new())


def _end(ending: str) -> Callable[[Agents, EmbeddedSupervisor], EmbeddedSupervisor]:
    def end(agents: Agents, one: EmbeddedSupervisor) -> EmbeddedSupervisor:
        getattr(one, ending)(NAME)
        until(lambda: agents.process() is None, "it has ended")
        return one

    return end


#: What is done with a process that runs, and whether it runs afterwards.
OPERATIONS = {
    "start": (_start, True),
    "restart": (_restart, True),
    "adopt": (_adopt, True),
    **{ending: (_end(ending), False) for ending in ENDINGS},
}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_e1_e3_an_operation_has_its_effect_whichever_step_the_disk_refuses(
    agents: Agents, faults: Faults, operation: str, error: int
) -> None:
    _refuse_each_step(agents, faults, operation, error, lasting=False)


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_e1_e3_an_operation_has_its_effect_from_whichever_step_on_the_disk_refuses(
    agents: Agents, faults: Faults, operation: str
) -> None:
    _refuse_each_step(agents, faults, operation, errno.EIO, lasting=True)


def _refuse_each_step(
    agents: Agents, faults: Faults, operation: str, error: int, *, lasting: bool
) -> None:
    operate, lives = OPERATIONS[operation]
    for number in range(100):
        one = earlier(agents.new())
        one.start(agents.spec)
        agents.alive()
        agents.leave_copy()
        faults.arm(number, error, lasting=lasting)
        one = operate(agents, one)
        faults.disarm()
        _check(agents, one, lives)
        one.forget(NAME)
        assert agents.process() is None
        if not faults.hit:
            assert number > 2, "effects were counted"
            return
    pytest.fail("the operation has no end of effects")


def _check(agents: Agents, one: EmbeddedSupervisor, lives: bool) -> None:
    """What is told is what is, now and later, and for an agent that starts then."""
    alive = agents.alive() if lives else agents.process()
    assert (alive is not None) == lives
    told = ProcessState.RUNNING if lives else ProcessState.STOPPED
    assert one.state(NAME) is told
    agents.retry(one)
    until(lambda: (b'"wanted":true' in agents.record()) == lives, "the record says so")
    until(lambda: not agents.alarms() and not agents.leftovers(), "nothing is refused any more")
    later = earlier(agents.new())
    assert later.state(NAME) is told
    assert agents.process() == alive
    if alive is not None:
        assert b'"pid":%d,' % alive.pid in agents.record()


@pytest.mark.parametrize("ending", ENDINGS)
def test_e1_a_process_that_cannot_be_ended_is_not_forgotten(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    one = agents.started()
    one.start(agents.spec)
    alive = agents.alive()

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as refusing:
        # The kernel refuses root no signal here.
        refusing.setattr(signal, "pidfd_send_signal", refuse)
        if ending == "retire":  # what took its place serves: it is asked again, by and by
            one.retire(NAME)
            assert one.state(NAME) is ProcessState.STOPPED
        else:
            with pytest.raises(OperationFailed, match="Operation not permitted"):
                getattr(one, ending)(NAME)
            assert one.state(NAME) is ProcessState.RUNNING
        assert agents.process() == alive
        assert b'"wanted":true' in agents.record()
    if ending == "retire":
        agents.retry(one)
    else:
        getattr(one, ending)(NAME)
    until(lambda: agents.process() is None, "it has ended")
    assert one.state(NAME) is ProcessState.STOPPED


@pytest.fixture
def served(boot: Callable[..., Amphora]) -> Iterator[tuple[LoadBalancer, Disk]]:
    """A load balancer that serves, and the disk that it and its record are on."""
    with ExitStack() as ending:
        disks: list[Disk] = []
        made = boot(
            ending, prepare=lambda directory: disks.append(FullDisk(ending, directory, "octavia"))
        ).new_balancer()
        made.push()
        yield made, disks[0]
        disks[0].heal()


def test_e1_a_delete_on_a_full_disk_ends_haproxy(served: tuple[LoadBalancer, Disk]) -> None:
    balancer, disk = served
    amphora, path = balancer.amphora, f"/1.0/listeners/{balancer.id}"
    disk.break_()
    amphora.request("DELETE", path)
    until(lambda: not amphora.haproxies(), "haproxy has ended")
    disk.heal()
    assert amphora.request("DELETE", path).status in (200, 404)
    successor = amphora.new_balancer()
    successor.port = balancer.port
    successor.push()
    assert {process.pid for process in amphora.haproxies()} == {
        process.pid for process in successor.processes()
    }


def test_e3_a_haproxy_that_dies_on_a_full_disk_serves_again(
    served: tuple[LoadBalancer, Disk],
) -> None:
    balancer, disk = served
    disk.break_()
    first = balancer.master
    first.send(signal.SIGKILL)
    until(lambda: not first.alive, "it is dead")
    until(lambda: balancer.processes()[:1] not in ([], [first]), "it is started again")
    until(balancer.accepts, "it serves")
    assert balancer.get()
