"""The namespace is made once, by whoever comes first, and completed when it was half made."""

from __future__ import annotations

import subprocess
import threading

from tests.integration.network.rig import Rig


def test_it_is_made_with_lo_up_as_ip_would_make_it(rig: Rig) -> None:
    assert rig.ensure_namespace() is True
    assert "UP" in rig.link("lo")["flags"]
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert rig.namespace.name in listed.stdout
    assert rig.ensure_namespace() is False


def test_one_that_is_there_is_taken_and_its_lo_set_up(rig: Rig) -> None:
    subprocess.run(["ip", "netns", "add", rig.namespace.name], check=True)
    assert rig.ensure_namespace() is False
    assert "UP" in rig.link("lo")["flags"]


def test_one_half_made_is_completed(rig: Rig) -> None:
    rig.namespace.path.parent.mkdir(exist_ok=True)
    rig.namespace.path.touch(mode=0)
    assert rig.ensure_namespace() is True
    assert "UP" in rig.link("lo")["flags"]


def test_many_at_once_make_one(rig: Rig) -> None:
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda: made.append(rig.ensure_namespace())) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 15 + [True]


def test_the_agent_itself_stays_where_it_is(rig: Rig) -> None:
    def own() -> str:
        return subprocess.run(
            ["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
        ).stdout

    before = own()
    rig.ensure_namespace()
    assert own() == before
