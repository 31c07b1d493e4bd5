"""Pools with a PING monitor: haproxy runs a program of the agent's for each check."""

from lab.listeners import HealthMonitor, http_listener
from tests.integration.amphora import VIP, Amphora

#: For documentation (RFC 5737): there is no way to it in the amphora.
NOWHERE = "192.0.2.77"


def test_a_member_that_answers_is_up_and_one_that_does_not_is_down(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    program = amphora.agent.base_path / "ping-wrapper.sh"
    # haproxy's user gets there where base_path is below /var/lib; here its parents are private.
    for directory in (amphora.agent.directory, *amphora.agent.directory.parents):
        directory.chmod(directory.stat().st_mode | 0o011)
    # As plugging a VIP leaves it.
    amphora.namespace.sysctl("net.ipv4.ping_group_range", "0 2147483647")
    listener = http_listener(
        f"{made.id} pinged",
        port=made.port + 20000,
        members=[(VIP, 9), (NOWHERE, 9), ("::1", 9)],
        monitor=HealthMonitor("PING", rise=1, fall=1, timeout=2, program=str(program)),
    )
    assert listener.pool is not None
    here, nowhere, ipv6 = (member.id for member in listener.pool.members)

    made.push(listener)

    expected = {here: "UP", nowhere: "DOWN", ipv6: "UP"}
    amphora.heartbeats.wait_for(
        lambda beat: {each: beat.members.get(each) for each in expected} == expected
    )
    made.delete()


def test_the_program_is_there_again_when_the_agent_starts(amphora: Amphora) -> None:
    program = amphora.agent.base_path / "ping-wrapper.sh"
    provided = program.read_text()
    program.write_text("#!/bin/sh\nexit 0\n")
    amphora.agent.restart()
    assert program.read_text() == provided
    assert program.stat().st_mode & 0o777 == 0o755
