"""The kernel's settings in the namespace: set, read back, and reported where the kernel refuses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.network import sysctl
from amphora_agent.network.plan.namespace_settings import SETTINGS
from tests.integration.network.rig import Rig

SOMAXCONN = "net/core/somaxconn"
RANGE = "net/ipv4/ip_local_port_range"
OFFERED_EARLY = {key: setting for key, setting in SETTINGS.items() if not setting.late}


def read(rig: Rig) -> dict[str, str]:
    return dict(rig.namespace.run(lambda: sysctl.read(SETTINGS)))


def write(rig: Rig, key: str, value: str) -> None:
    rig.namespace.run(lambda: sysctl.write(key, value))


def told(rig: Rig) -> dict[str, str]:
    return {alarm.subject: alarm.text for alarm in Alarms(rig.layout.alarms).current()}


def test_a6_a_new_namespace_has_the_settings_before_anything_is_plugged(rig: Rig) -> None:
    assert rig.agent().restore(single=True) == []
    found = read(rig)
    for key, setting in OFFERED_EARLY.items():
        assert setting.find_value(found[key]) is None
    assert found[RANGE] == "1025 65534"
    assert list(rig.agent().plan(single=True)) == []
    assert told(rig) == {}


def test_a6_so_has_one_with_ports_after_a_reboot_also_what_tracking_brings(rig: Rig) -> None:
    rig.vip_port()
    rig.plug_vip()
    assert rig.agent().restore(single=True) == []
    found = read(rig)
    for key, setting in SETTINGS.items():
        assert setting.find_value(found[key]) is None
    rig.reboot()
    rig.vip_port()
    rig.agent().restore(single=True)
    assert read(rig) == found


def test_a6_the_agent_puts_right_what_was_changed_and_leaves_what_goes_further(rig: Rig) -> None:
    rig.agent().restore(single=True)
    write(rig, SOMAXCONN, "128")
    write(rig, RANGE, "1024 60999")
    write(rig, "net/ipv4/tcp_fin_timeout", "2")
    assert len(list(rig.agent().plan(single=True))) == 2
    rig.agent().restore(single=True)
    found = read(rig)
    assert (found[SOMAXCONN], found[RANGE]) == ("65534", "1024 65534")
    assert found["net/ipv4/tcp_fin_timeout"] == "2"


def test_a6_what_the_kernel_refuses_is_told_once_and_stops_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is injected where settings are written: this kernel refuses none."""
    really = sysctl.write

    def refuse(key: str, value: str) -> None:
        if key == SOMAXCONN:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        really(key, value)

    with monkeypatch.context() as patched:
        patched.setattr(sysctl, "write", refuse)
        for _ in range(2):
            assert rig.agent().restore(single=True) == []
    assert read(rig)[RANGE] == "1025 65534"
    text = told(rig)[f"/proc/sys/{SOMAXCONN}"]
    assert "4096 instead of 65534 (" in text
    assert "Invalid argument" in text
    assert len([line for line in caplog.messages if text in line]) == 1

    assert rig.agent().restore(single=True) == []
    assert told(rig) == {}
    assert read(rig)[SOMAXCONN] == "65534"


def test_a6_what_the_kernel_does_not_have_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its absence is injected where settings are read: this kernel has them all."""
    really = sysctl.read

    def lacking(keys: Iterable[str]) -> frozenset[tuple[str, str]]:
        return really(key for key in keys if key != SOMAXCONN)

    monkeypatch.setattr(sysctl, "read", lacking)
    assert rig.agent().restore(single=True) == []
    assert "no such setting" in told(rig)[f"/proc/sys/{SOMAXCONN}"]


def test_a6_a_value_that_does_not_stay_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without effect is injected, as of a kernel that bounds a value in silence."""
    monkeypatch.setattr(sysctl, "write", lambda key, value: None)
    (failure,) = rig.agent().restore(single=True)
    assert "does not keep" in failure
    assert "ip_forward" in failure


def test_a6_connections_to_members_leave_the_peers_port_alone(rig: Rig) -> None:
    rig.agent().restore(single=True)
    # So few that one of two connections would have to take it.
    write(rig, RANGE, "1025 1026")

    def connect_and_listen() -> int:
        with (
            socket.create_server(("127.0.0.1", 9000)) as member,
            socket.create_connection(member.getsockname()) as connection,
            socket.create_server(("127.0.0.1", 1025)),
        ):
            with pytest.raises(OSError, match="Cannot assign requested address"):
                socket.create_connection(member.getsockname())
            port: int = connection.getsockname()[1]
            return port

    assert rig.namespace.run(connect_and_listen) == 1026
