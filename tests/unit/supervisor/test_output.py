"""Lines of processes get a level; serious ones are logged once."""

import json
import logging
from pathlib import Path

import pytest

from amphora_agent.supervisor import output as supervisor_output

HAPROXY, VRRP = "haproxy-a", "octavia-keepalived"


@pytest.mark.parametrize(
    ("process", "line", "level"),
    [
        (HAPROXY, "[ALERT]    (12) : config : unknown keyword", logging.ERROR),
        (HAPROXY, "[WARNING]  (12) : Server a/b is DOWN", logging.WARNING),
        (
            HAPROXY,
            "[ALERT]    (12) : Current worker (13) exited with code 139 (Segv)",
            logging.ERROR,
        ),
        (
            HAPROXY,
            "[ALERT]    (12) : Current worker (13) exited with code 143 (Term)",
            logging.INFO,
        ),
        (HAPROXY, "[WARNING]  (12) : Exiting Master process...", logging.INFO),
        (HAPROXY, "[WARNING]  (12) : All workers exited. Exiting... (139)", logging.WARNING),
        (HAPROXY, "[NOTICE]   (12) : New worker (13) forked", logging.INFO),
        (HAPROXY, "[other]  of haproxy", logging.INFO),
        (HAPROXY, "an error of somebody else", logging.DEBUG),
        (VRRP, "(vips) Entering MASTER STATE", logging.DEBUG),
        (VRRP, "Unable to open /x - Permission denied", logging.WARNING),
        (VRRP, "pid 12 exited with permanent error CONFIG. Terminating", logging.ERROR),
        (VRRP, "VRRP child process(12) died: Respawning", logging.ERROR),
        ("octavia-keepalivedlvs-b", "HTTP_CONNECT failed", logging.WARNING),
        ("octavia-vrrp-check", "does not answer: /a.sock", logging.WARNING),
        ("octavia-vrrp-check", "all answer", logging.DEBUG),
    ],
)
def test_finds_the_level_of_a_line(process: str, line: str, level: int) -> None:
    assert supervisor_output.find_level(process, line) == level


def test_logs_only_serious_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    supervisor_output.log_serious(
        [(HAPROXY, "[NOTICE] (1) : x"), (HAPROXY, "[ALERT] (1) : \x1b[31mx" + "y" * 999)]
    )
    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert told.getMessage().startswith("haproxy-a: [ALERT] (1) : ?[31mxyy")
    assert len(told.getMessage()) < 600
    caplog.clear()
    supervisor_output.log_serious([(HAPROXY, "[WARNING] (1) : x")] * 60)
    assert len(caplog.records) == 51
    assert caplog.records[-1].getMessage() == "and 10 more lines like these"


def test_parses_the_lines_of_units_in_the_journal() -> None:
    lines = [
        {"__CURSOR": "a", "_SYSTEMD_UNIT": "haproxy-a.service", "MESSAGE": "[ALERT] x"},
        {"__CURSOR": "b", "_SYSTEMD_UNIT": "haproxy-a.service", "MESSAGE": [1, 2, 3]},
        {"__CURSOR": "c", "_SYSTEMD_UNIT": "haproxy-a.service", "MESSAGE": None},
        {"__CURSOR": "d", "MESSAGE": "of nobody"},
    ]
    output = "\n".join([*map(json.dumps, lines), "words", "[1]", '{"__CURSOR": "e", "cut'])
    assert supervisor_output.parse_journal(output) == ([("haproxy-a", "[ALERT] x")], "d")
    assert supervisor_output.parse_journal("Failed to seek to cursor: Invalid argument\n") == (
        [],
        "",
    )


def test_reads_each_new_line_of_a_file_once(tmp_path: Path) -> None:
    files = supervisor_output.OutputFiles(lambda name: tmp_path / name)
    path = tmp_path / "a"
    path.write_text("before\n")
    files.follow("a")
    files.follow("no such file")
    assert files.read() == []
    with path.open("a") as file:
        file.write("one\ntw")
    assert files.read() == [("a", "one")]
    files.follow("a")
    with path.open("a") as file:
        file.write("o\n")
    assert files.read() == [("a", "two")]
    path.write_text("cut\n")  # made smaller
    assert files.read() == []
    with path.open("a") as file:
        file.write("x" * 100_000 + "\nlast\n")
    assert files.read()[-1] == ("a", "last")
    files.forget("a")
    with path.open("a") as file:
        file.write("more\n")
    assert files.read() == []
