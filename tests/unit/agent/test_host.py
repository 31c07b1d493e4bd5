"""Versions of programs, in their own words."""

from pathlib import Path

import pytest

from amphora_agent.agent.host import Host

KEEPALIVED = """\
Keepalived v2.2.7 (01/16,2022)

Built with kernel headers for Linux 5.19.11
Running on Linux 6.18.44-fc-v782 #1 SMP PREEMPT_DYNAMIC @0
"""
IPVSADM = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n"
#: Where ip_vs cannot be loaded.
MODPROBE = """\
modprobe: FATAL: Module ip_vs not found in directory /lib/modules/6.18.44-fc-v782
Can't initialize ipvs: Protocol not available
Are you sure that IP Virtual Server is built in the kernel or as module?
"""


def provide(directory: Path, name: str, output: str, status: int = 0) -> None:
    """A stand-in that says what the program says: the machine's own kernel decides what that is."""
    program = directory / name
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}END\nexit {status}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("output", "status", "version"), [(IPVSADM, 0, "1.31"), (MODPROBE, 2, ""), ("", 1, "")]
)
def test_ipvsadm_version_is_what_the_program_reports(
    tmp_path: Path, output: str, status: int, version: str
) -> None:
    provide(tmp_path, "ipvsadm", output, status)
    assert Host(programs=tmp_path).find_version("ipvsadm") == version


def test_keepalived_version_is_what_the_program_reports(tmp_path: Path) -> None:
    provide(tmp_path, "keepalived", MODPROBE + KEEPALIVED)
    assert Host(programs=tmp_path).find_version("keepalived") == "2.2.7"


def test_a_program_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert Host(programs=tmp_path).find_version("ipvsadm") == ""


def test_a_program_that_is_replaced_is_asked_again(tmp_path: Path) -> None:
    host = Host(programs=tmp_path)
    provide(tmp_path, "ipvsadm", MODPROBE)
    assert host.find_version("ipvsadm") == ""
    (tmp_path / "ipvsadm").unlink()
    provide(tmp_path, "ipvsadm", IPVSADM)
    assert host.find_version("ipvsadm") == "1.31"
