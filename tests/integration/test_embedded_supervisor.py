"""The embedded supervisor with real processes: kept, adopted, restarted, ended."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.supervisor.contract import Mark, ProcessSpec, ProcessState
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from amphora_agent.supervisor.processes import start_time
from lab import processes
from lab.network import Namespace
from lab.processes import Process
from lab.waiting import until

NAME = "sleeper"

#: Waits for what never comes, and has no children in which it could be found again.
WAITS = 'exec 3<>"$0.fifo"; read line <&3'


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Whose processes end with the test: all of them name it."""
    yield tmp_path
    processes.end(processes.mentioning(tmp_path))


@pytest.fixture
def spec(directory: Path, namespace: Namespace) -> Callable[..., ProcessSpec]:
    def make(script: str = WAITS, name: str = NAME) -> ProcessSpec:
        fifo = directory / f"{name}.fifo"
        if not fifo.exists():
            os.mkfifo(fifo)
        return ProcessSpec(
            name=name,
            description="a process of a test",
            template="haproxy.service.j2",
            argv=("/bin/sh", "-c", script, f"{directory}/{name}"),
            namespace=namespace.path,
        )

    return make


@pytest.fixture
def supervisor(directory: Path) -> Iterator[Callable[[], EmbeddedSupervisor]]:
    """A new agent's, each time: it knows only what is on disk."""
    made: list[EmbeddedSupervisor] = []

    def make() -> EmbeddedSupervisor:
        made.append(EmbeddedSupervisor(directory / "records", directory / "run"))
        return made[-1]

    yield make
    for one in made:
        for name in (NAME, "another"):
            one.stop(name)


def at_work(made: EmbeddedSupervisor) -> EmbeddedSupervisor:
    made.adopt()
    made.resume()
    return made


def earlier(made: EmbeddedSupervisor) -> EmbeddedSupervisor:
    """That of an agent which is gone when it counts: it does not go on watching."""
    made.adopt()
    return made


def found(directory: Path, name: str = NAME) -> Process | None:
    """The process, by what its command line names."""
    alive = processes.mentioning(directory / name)
    assert len(alive) <= 1
    return alive[0] if alive else None


def test_a_process_is_started_in_its_namespace_in_a_session_of_its_own(
    directory: Path,
    supervisor: Callable[[], EmbeddedSupervisor],
    spec: Callable[..., ProcessSpec],
    namespace: Namespace,
) -> None:
    running = at_work(supervisor())
    running.start(spec())
    process = found(directory)
    assert process is not None
    assert process.session == process.pid
    assert os.stat(f"/proc/{process.pid}/ns/net").st_ino == namespace.path.stat().st_ino
    assert os.stat("/proc/self/ns/net").st_ino != namespace.path.stat().st_ino
    assert running.state(NAME) is ProcessState.RUNNING


def test_a_process_that_runs_is_not_started_twice(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec())
    first = found(directory)
    running.start(spec(WAITS + "# another command line"))
    assert found(directory) == first


def test_a_program_that_is_not_there_is_an_error(
    supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    wrong = spec()
    wrong = ProcessSpec(NAME, "", "", ("/nowhere/to/be/found",), wrong.namespace)
    with pytest.raises(OperationFailed, match="Cannot start sleeper"):
        at_work(supervisor()).start(wrong)


def test_a_stop_ends_the_process_and_is_idempotent(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec())
    for _ in range(2):
        running.stop(NAME)
        assert found(directory) is None
        assert running.state(NAME) is ProcessState.STOPPED
    running.stop("nobody")


def test_a_reload_is_a_hangup_to_one_that_runs(
    spec: Callable[..., ProcessSpec], supervisor: Callable[[], EmbeddedSupervisor], directory: Path
) -> None:
    told = directory / "told"
    one = supervisor()
    with pytest.raises(OperationFailed, match="does not run"):
        one.reload(NAME)
    ready = directory / "ready"
    one.start(spec(f"trap 'touch {told}' HUP; touch {ready}; while true; do {WAITS}; done"))
    until(ready.exists, "it can be told")

    def was_told() -> bool:
        one.reload(NAME)  # a shell that is about to read looks at signals when it has read
        return told.exists()

    until(was_told, "it was told")
    assert one.state(NAME) is ProcessState.RUNNING
    one.stop(NAME)
    with pytest.raises(OperationFailed, match="does not run"):
        one.reload(NAME)


def test_what_is_wanted_can_be_seen_without_an_agent(
    spec: Callable[..., ProcessSpec], supervisor: Callable[[], EmbeddedSupervisor]
) -> None:
    one = supervisor()

    def wanted() -> bool:
        record = one.wanted / f"{NAME}.json"
        return record.exists() and b'"wanted":true' in record.read_bytes()

    one.start(spec())
    assert wanted()
    one.stop(NAME)
    assert not wanted()


def test_to_forget_leaves_no_trace(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec("echo hello; " + WAITS))
    running.forget(NAME)
    assert [path for path in directory.rglob("*") if path.is_file()] == []
    running.forget(NAME)


def test_a_process_outlives_its_agent_and_is_adopted(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    earlier(supervisor()).start(spec())
    first = found(directory)
    later = at_work(supervisor())
    assert found(directory) == first
    assert later.state(NAME) is ProcessState.RUNNING
    later.stop(NAME)
    assert found(directory) is None


def test_what_is_adopted_is_known_before_anything_is_started(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    """Requests come while what is missing is still being brought back."""
    earlier(supervisor()).start(spec())
    later = supervisor()
    later.adopt()
    assert later.state(NAME) is ProcessState.RUNNING
    later.forget(NAME)
    later.resume()
    assert found(directory) is None
    assert later.state(NAME) is ProcessState.STOPPED


def test_a_process_that_died_without_an_agent_is_started_by_the_next(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    first_agent = earlier(supervisor())
    first_agent.start(spec())
    record = (directory / "records/sleeper.json").read_bytes()
    first_agent.stop(NAME)
    (directory / "records/sleeper.json").write_bytes(record)
    at_work(supervisor())
    until(lambda: found(directory) is not None, "it runs again")


def test_one_whose_agent_was_killed_before_it_wrote_down_the_pid_is_adopted(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    earlier(supervisor()).start(spec())
    first = found(directory)
    record = directory / "records" / f"{NAME}.json"
    written = msgspec.json.decode(record.read_bytes())
    record.write_bytes(msgspec.json.encode(written | {"pid": None, "start_time": None}))
    later = at_work(supervisor())
    assert later.state(NAME) is ProcessState.RUNNING
    assert found(directory) == first
    later.stop(NAME)
    assert found(directory) is None


def test_another_process_with_the_same_pid_is_none_of_ours(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    first_agent = earlier(supervisor())
    first_agent.start(spec())
    record = msgspec.json.decode((directory / "records/sleeper.json").read_bytes())
    first_agent.stop(NAME)
    with another_process() as innocent:
        record["pid"] = innocent.pid
        boot, _, ticks = str(start_time(innocent.pid)).partition(":")
        record["start_time"] = f"{boot}:{int(ticks) - 1}"
        (directory / "records/sleeper.json").write_bytes(msgspec.json.encode(record))
        later = at_work(supervisor())
        until(lambda: found(directory) is not None, "the right one has been started")
        later.stop(NAME)
        assert found(directory) is None
        assert innocent.poll() is None


@contextlib.contextmanager
def another_process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_was_stopped_stays_stopped(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    first_agent = earlier(supervisor())
    first_agent.start(spec())
    first_agent.stop(NAME)
    later = at_work(supervisor())
    later.start(spec(name="another"))
    assert later.state(NAME) is ProcessState.STOPPED
    assert found(directory) is None


STOPPING_AGENT = """
import sys
from pathlib import Path
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
directory = Path(sys.argv[1])
supervisor = EmbeddedSupervisor(directory / "records", directory / "run")
supervisor.adopt()
supervisor.stop("sleeper")
"""

#: Ends only when it is told to a second time.
HARD_TO_END = """
trap 'if [ -e "$0.told" ]; then exit; fi; : > "$0.told"' TERM
exec 3<>"$0.fifo"
while :; do read line <&3; done
"""


def test_a_stop_that_was_cut_short_is_finished_by_the_next_agent(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    earlier(supervisor()).start(spec(HARD_TO_END))
    process = found(directory)
    assert process is not None
    agent = subprocess.Popen([sys.executable, "-c", STOPPING_AGENT, str(directory)])
    until((directory / "sleeper.told").exists, "the stop is under way")
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    assert process.alive

    later = at_work(supervisor())

    assert not process.alive
    assert later.state(NAME) is ProcessState.STOPPED


def test_a_process_that_dies_is_started_again(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    at_work(supervisor()).start(spec())
    first = found(directory)
    assert first is not None
    first.send(signal.SIGKILL)
    until(lambda: found(directory) not in (None, first), "it runs again")


def test_the_pauses_grow_while_it_keeps_dying(
    supervisor: Callable[[], EmbeddedSupervisor],
    spec: Callable[..., ProcessSpec],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    running = at_work(supervisor())
    running.start(spec("exit 3"))

    def pauses() -> list[str]:
        return re.findall(r"died with status 3; starts again in (\S+) s", caplog.text)

    until(lambda: len(pauses()) >= 4, "it has died four times")
    assert running.state(NAME) is ProcessState.FAILED
    running.stop(NAME)
    assert pauses()[:4] == ["0.1", "0.2", "0.4", "0.8"]


def test_a_process_can_be_stopped_while_it_waits_for_its_restart(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec("echo dead >> $0.log; exit 1"))
    until(lambda: running.state(NAME) is ProcessState.FAILED, "it has died")
    running.stop(NAME)
    deaths = (directory / "sleeper.log").read_text()
    # What the supervisor would do next for this one it does for another.
    running.start(spec("exit 1", name="another"))
    until(lambda: running.state("another") is ProcessState.FAILED, "the other has died")
    assert (directory / "sleeper.log").read_text() == deaths
    running.stop("another")


def test_one_that_failed_can_be_started_at_once(
    supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec("exit 1"))
    until(lambda: running.state(NAME) is ProcessState.FAILED, "it has died")
    running.start(spec())
    assert running.state(NAME) is ProcessState.RUNNING


def test_its_words_since_a_mark_are_read(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    assert running.mark(NAME) == Mark(0)
    assert running.output(NAME, Mark(0)) == ""
    running.start(spec("echo one; echo two >&2; " + WAITS))
    until(lambda: running.output(NAME, Mark(0)) == "one\ntwo\n", "it has spoken")
    mark = running.mark(NAME)
    running.stop(NAME)
    running.start(spec("echo three; " + WAITS))
    until(lambda: running.output(NAME, mark) == "three\n", "it has spoken again")


def test_of_too_many_words_the_last_are_read(
    supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    running.start(spec("yes | head -c 300000; echo end; " + WAITS))
    until(lambda: running.output(NAME, Mark(0)).endswith("end\n"), "it has spoken")
    assert len(running.output(NAME, Mark(0))) == 65536


def test_words_of_a_file_that_was_emptied_are_read_from_its_start(
    directory: Path, supervisor: Callable[[], EmbeddedSupervisor], spec: Callable[..., ProcessSpec]
) -> None:
    running = at_work(supervisor())
    (directory / "run").mkdir(exist_ok=True)
    (directory / "run/sleeper.log").write_text("short\n")
    assert running.output(NAME, Mark(100_000)) == "short\n"


@pytest.mark.parametrize("content", ["", "nonsense", "{}", '{"spec": 1, "wanted": true}'])
def test_a_record_that_cannot_be_read_is_reported_and_stops_nothing_else(
    directory: Path,
    supervisor: Callable[[], EmbeddedSupervisor],
    spec: Callable[..., ProcessSpec],
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    earlier(supervisor()).start(spec())
    (directory / "records/broken.json").write_text(content)
    later = at_work(supervisor())
    assert later.state(NAME) is ProcessState.RUNNING
    assert "broken.json: cannot be read, ignored" in caplog.text


def test_a_start_time_is_that_of_a_process_as_long_as_it_lives() -> None:
    with another_process() as one:
        with another_process() as other:
            pids = one.pid, other.pid
            names = [start_time(pid) for pid in pids]
            assert [start_time(pid) for pid in pids] == names
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert all(name is not None and name.startswith(f"{boot}:") for name in names)
        assert start_time(pids[0]) == names[0]
        assert start_time(pids[1]) is None
