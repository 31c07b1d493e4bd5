"""haproxy's life under the agent: starts that fail, hangs, deaths.

Reloads, good and bad, are tested with every version of haproxy in test_haproxy_versions.py.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.listeners import http_listener
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    LoadBalancer,
    damage,
    differences,
    stopped,
    taken,
)


@contextmanager
def hung(balancer: LoadBalancer) -> Iterator[None]:
    """A haproxy that does not do anything any more, master and workers."""
    with stopped(balancer.processes(), signal.SIGSTOP, signal.SIGCONT):
        yield


# Starts


def test_a_first_start_that_fails_leaves_nothing_running_and_no_load_balancer(
    amphora: Amphora,
) -> None:
    made = amphora.new_balancer()
    made.upload()
    with taken(made):
        with pytest.raises(AmphoraError, match=r"(?i)cannot bind|in use") as refusal:
            made.reload()
        assert refusal.value.status == 500
        assert refusal.value.answer["message"] == "Error starting haproxy"
        assert made.processes() == []
    with pytest.raises(AmphoraError) as raised:
        amphora.api.haproxy(made.id)
    assert raised.value.status == 404
    assert amphora.api.listeners() == []
    made.delete()


def test_a_start_that_failed_is_not_tried_again_by_itself(own_amphora: Amphora) -> None:
    made = own_amphora.new_balancer()
    made.upload()
    with taken(made), pytest.raises(AmphoraError):
        made.reload()
    log = own_amphora.agent.log.count(f"haproxy-{made.id}: started")
    own_amphora.agent.restart()
    # Whatever was to be started again would be started before this one.
    other = own_amphora.new_balancer()
    other.push()
    assert made.processes() == []
    assert own_amphora.agent.log.count(f"haproxy-{made.id}: started") == log


def test_the_refused_configuration_is_kept_for_a_person(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    text = made.text()
    amphora.api.upload_haproxy(made.id, text)
    with taken(made), pytest.raises(AmphoraError):
        made.reload()
    assert made.configuration.with_name("haproxy.cfg.rejected").read_text() == text
    made.delete()


def test_after_a_start_that_failed_the_next_one_may_do(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    made.upload()
    with taken(made), pytest.raises(AmphoraError):
        made.reload()
    made.push()
    assert made.get() in ("web1", "web2")
    made.delete()


def test_a_stopped_one_that_does_not_start_goes_back_to_its_last_good_configuration(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    good = balancer.configuration.read_text()
    amphora.api.stop(balancer.id)
    busy = amphora.new_balancer()
    balancer.upload(http_listener("second", port=busy.port, members=[]))
    with taken(busy), pytest.raises(AmphoraError):
        balancer.reload()
    assert balancer.configuration.read_text() == good
    # It was not wanted before either.
    assert balancer.processes() == []
    amphora.api.start(balancer.id)
    assert balancer.get() in ("web1", "web2")


def test_certificates_that_changed_meanwhile_go_back_with_a_configuration_that_fails(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    """Those that were replaced, those that were removed, and those that came."""
    before_pem, after_pem = (Authority.create(name, key="ec").certificate for name in "ab")
    for name in ("replaced.pem", "removed.pem"):
        amphora.api.upload_certificate(balancer.id, name, before_pem)
    balancer.push()
    before = last_good(amphora)
    amphora.api.upload_certificate(balancer.id, "replaced.pem", after_pem)
    amphora.api.upload_certificate(balancer.id, "added.pem", after_pem)
    amphora.api.delete_certificate(balancer.id, "removed.pem")
    busy = amphora.new_balancer()
    balancer.upload(http_listener("second", port=busy.port, members=[]))
    assert len(differences(before, last_good(amphora))) >= 4

    with taken(busy), pytest.raises(AmphoraError):
        balancer.reload()

    assert last_good(amphora) == before
    assert balancer.get() in ("web1", "web2")


def last_good(amphora: Amphora) -> dict[str, tuple[str, str]]:
    """What a reload that fails puts back."""
    return {
        name: what
        for name, what in amphora.files().items()
        if name.endswith((".pem", "/haproxy.cfg", "/agent.cfg")) and "last-good" not in name
    }


# Hangs


def test_a_hung_haproxy_keeps_nobody_from_anything(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    other = amphora.new_balancer()
    other.push()
    amphora.heartbeats.wait_for(lambda beat: len(beat.listeners) == 2)
    with hung(balancer):
        assert amphora.api.info()
        assert set(amphora.api.details()["listeners"]) == {
            balancer.listener.id,
            other.listener.id,
        }
        assert len(amphora.api.listeners()) == 2
        amphora.heartbeats.drain()
        for _ in range(2):
            beat = amphora.heartbeats.next()
        assert beat.listeners[balancer.listener.id]["status"] == "DOWN"
        assert beat.listeners[other.listener.id]["status"] == "OPEN"
        other.push()
        assert other.get() in ("web1", "web2")
    amphora.heartbeats.wait_for(
        lambda beat: beat.listeners[balancer.listener.id]["status"] == "OPEN"
    )
    other.delete()


def test_a_reload_of_a_hung_haproxy_fails_and_says_so(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    good = balancer.configuration.read_text()
    balancer.upload()
    with hung(balancer):
        with pytest.raises(AmphoraError, match="does not answer") as refusal:
            balancer.reload()
        assert refusal.value.status == 500
        assert refusal.value.answer["message"] == "Error reloading haproxy"
        assert amphora.api.info()
    assert balancer.configuration.read_text() == good
    assert balancer.get() in ("web1", "web2")
    balancer.push()
    assert balancer.get() in ("web1", "web2")


# Deaths


def test_a_master_that_is_killed_comes_back(balancer: LoadBalancer) -> None:
    before = balancer.processes()
    before[0].send(signal.SIGKILL)
    until(lambda: _serves_anew(balancer, {p.pid for p in before}), "it has come back")
    assert balancer.get() in ("web1", "web2")
    assert [row["status"] for row in balancer.amphora.api.listeners()] == ["ACTIVE"]
    until(lambda: not any(process.alive for process in before), "nothing is left of the old one")


def test_a_worker_that_is_killed_comes_back(balancer: LoadBalancer) -> None:
    before = balancer.processes()
    before[1].send(signal.SIGKILL)
    until(lambda: _serves_anew(balancer, {p.pid for p in before}), "it has come back")
    assert balancer.get() in ("web1", "web2")


def test_one_that_dies_again_and_again_comes_back_again_and_again(
    balancer: LoadBalancer,
) -> None:
    for _ in range(3):
        _kill_and_await(balancer)
    assert balancer.get() in ("web1", "web2")


def test_one_that_came_back_reloads_as_ever(balancer: LoadBalancer) -> None:
    _kill_and_await(balancer)
    master = balancer.master
    balancer.push()
    assert balancer.master == master
    assert balancer.get() in ("web1", "web2")


def test_one_that_was_stopped_stays_stopped(amphora: Amphora, balancer: LoadBalancer) -> None:
    amphora.api.stop(balancer.id)
    other = amphora.new_balancer()
    other.push()
    # What the supervisor has to do for one it has done for all.
    _kill_and_await(other)
    assert balancer.processes() == []
    statuses = {row["uuid"]: row["status"] for row in amphora.api.listeners()}
    assert statuses == {balancer.listener.id: "OFFLINE", other.listener.id: "ACTIVE"}
    other.delete()


def test_one_that_cannot_come_back_is_an_error_until_the_next_good_configuration(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    before = {process.pid for process in balancer.processes()}
    # What is damaged then cannot be read any more; what is known of it counts.
    amphora.heartbeats.wait_for(lambda beat: balancer.listener.id in beat.listeners)
    damage(balancer)
    balancer.master.send(signal.SIGKILL)
    until(
        lambda: {row["status"] for row in amphora.api.listeners()} == {"ERROR"},
        "it is seen that it does not run",
    )
    amphora.heartbeats.drain()
    amphora.heartbeats.wait_for(
        lambda beat: beat.listeners[balancer.listener.id]["status"] == "DOWN"
    )
    balancer.push()
    assert _serves_anew(balancer, before)
    assert {row["status"] for row in amphora.api.listeners()} == {"ACTIVE"}


def _kill_and_await(balancer: LoadBalancer) -> None:
    before = {process.pid for process in balancer.processes()}
    balancer.master.send(signal.SIGKILL)
    until(lambda: _serves_anew(balancer, before), "it has come back")


def _serves_anew(balancer: LoadBalancer, old: set[int]) -> bool:
    """Whether other processes than these serve now."""
    processes = balancer.processes()
    return (
        len(processes) == 2
        and not old & {process.pid for process in processes}
        and balancer.accepts()
        and {"uuid": balancer.listener.id, "status": "ACTIVE", "type": "HTTP"}
        in balancer.amphora.api.listeners()
    )
