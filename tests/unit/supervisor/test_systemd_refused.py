"""Units on a disk that takes no change. `systemctl` is a script that writes down what it is asked
for and refuses what would change that disk: what is tried here is what the agent asks for, and in
which order; tests/systemd has the real one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.supervisor.systemd import SystemdSupervisor

NAME = "haproxy-a"
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {asked}
if [ "$1" = disable ] && [ -e {refusing} ]; then
    echo "Failed to disable unit: Read-only file system" >&2
    exit 1
fi
"""


class Systemd:
    def __init__(self, directory: Path) -> None:
        self.units = directory / "units"
        self.units.mkdir()
        self.unit = self.units / f"{NAME}.service"
        self.unit.write_text("[Service]\nExecStart=/bin/true\n")
        self.refusing = directory / "refusing"
        self.refusing.touch()
        self._asked = directory / "asked"
        program = directory / "systemctl"
        program.write_text(SYSTEMCTL.format(asked=self._asked, refusing=self.refusing))
        program.chmod(0o755)

    def asked(self) -> list[str]:
        """Since the last time."""
        lines = self._asked.read_text().splitlines()
        self._asked.unlink()
        return lines


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Systemd(tmp_path)


@pytest.mark.parametrize("how", ["stop", "forget", "retire"])
def test_e1_a_unit_is_stopped_though_it_cannot_be_disabled(systemd: Systemd, how: str) -> None:
    supervisor = SystemdSupervisor(systemd.units)
    end: Callable[[str], None] = getattr(supervisor, how)
    with pytest.raises(OperationFailed, match="Read-only file system"):
        end(NAME)
    assert f"stop {NAME}.service" in systemd.asked()
    # It is known as long as something of it is left: asked again, the rest is done.
    assert systemd.unit.exists()
    systemd.refusing.unlink()
    end(NAME)
    assert f"disable {NAME}.service" in systemd.asked()
    assert systemd.unit.exists() == (how == "stop")


def test_e1_a_unit_that_cannot_be_written_is_stopped_at_once(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd.refusing.unlink()

    def refuse(*arguments: object) -> None:
        raise OSError(30, os.strerror(30))

    # A full disk cannot be had for one directory without root.
    monkeypatch.setattr(files, "write", refuse)
    SystemdSupervisor(systemd.units).retire(NAME)
    assert f"stop {NAME}.service" in systemd.asked()
    assert not systemd.unit.exists()
