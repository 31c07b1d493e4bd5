"""Where log lines go, and what systemd's journal and syslog make of them."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amphora_agent.agent import logs
from amphora_agent.settings.reader import Settings

SETTINGS = Settings(amphora_id="amphora")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


@pytest.fixture
def stderr(tmp_path: Path) -> Path:
    """What standard error is; `logs` looks at it through `sys`."""
    return tmp_path / "stderr"


@pytest.fixture
def redirected(stderr: Path) -> Iterator[Callable[[], None]]:
    """Redirects it, in the test itself: pytest redirects it for each phase."""
    with stderr.open("w", buffering=1) as file, pytest.MonkeyPatch.context() as patch:
        yield lambda: patch.setattr("sys.stderr", file)


def connect_to_journal(stderr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = stderr.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


def speak() -> None:
    logger = logging.getLogger("amphora_agent.somewhere")
    logger.info("fine")
    logger.warning("so so")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("bad")


def test_gives_the_journal_the_priority_of_each_line(
    stderr: Path, redirected: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    redirected()
    connect_to_journal(stderr, monkeypatch)
    logs.set_up(SETTINGS)
    speak()
    lines = stderr.read_text().splitlines()
    assert lines[0] == "<6>amphora_agent.somewhere: fine"
    assert lines[1] == "<4>amphora_agent.somewhere: so so"
    assert lines[2] == "<3>amphora_agent.somewhere: bad"
    assert len(lines) > 5
    assert {line[:3] for line in lines[2:]} == {"<3>"}


def test_a_terminal_sees_no_priorities(
    stderr: Path, redirected: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    redirected()
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # of a service that has started a shell
    logs.set_up(SETTINGS)
    speak()
    assert "<6>" not in stderr.read_text()
    assert " INFO " in stderr.read_text()


def test_a_command_logs_only_warnings_unless_the_journal_reads_it(
    stderr: Path, redirected: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    redirected()
    logs.set_up(SETTINGS, of_command=True)
    speak()
    assert "fine" not in stderr.read_text()
    assert "so so" in stderr.read_text()
    connect_to_journal(stderr, monkeypatch)
    logs.set_up(SETTINGS, of_command=True)
    speak()
    assert "fine" in stderr.read_text()


@pytest.mark.parametrize(
    ("facility", "code"), [("LOG_USER", 1), ("LOG_LOCAL3", 19), ("daemon", 3), ("nonsense", 1)]
)
def test_gives_syslog_the_facility_and_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facility: str, code: int
) -> None:
    path = tmp_path / "log"
    monkeypatch.setattr(logs, "_SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        logs.set_up(Settings(amphora_id="a", use_syslog=True, syslog_log_facility=facility))
        speak()
        said = [syslog.recv(4096).decode() for _ in range(3)]
    tag = f"amphora-agent[{os.getpid()}]: amphora_agent.somewhere:"
    assert said[0] == f"<{code * 8 + 6}>{tag} fine"
    assert said[1] == f"<{code * 8 + 4}>{tag} so so"
    assert said[2].startswith(f"<{code * 8 + 3}>{tag} bad\n")


def test_sends_messages_that_syslog_does_not_take_to_standard_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stderr: Path,
    redirected: Callable[[], None],
) -> None:
    redirected()
    path = tmp_path / "log"
    monkeypatch.setattr(logs, "_SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        logs.set_up(Settings(amphora_id="a", use_syslog=True))
    path.unlink()
    speak()
    assert "fine" in stderr.read_text()
