"""The agent's configuration, exchanged while it serves: in the API and in the heartbeats."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab.heartbeats import HeartbeatReceiver
from lab.http import Tls
from tests.integration.amphora import (
    Amphora,
    differences,
    read_answer,
    request_bytes,
    with_setting,
)


@pytest.fixture
def config(amphora: Amphora) -> Iterator[str]:
    """The configuration; put back after the test."""
    text = amphora.agent.config_file.read_text()
    yield text
    amphora.api.upload_config(text)


@pytest.fixture
def other() -> Iterator[HeartbeatReceiver]:
    """Another controller, with another key."""
    with HeartbeatReceiver("another key") as receiver:
        yield receiver


def test_it_is_stored_as_sent_and_the_one_before_is_kept(amphora: Amphora, config: str) -> None:
    sent = config + "\n# changed\n"
    answer = amphora.request("PUT", "/1.0/config", sent.encode())
    assert (answer.status, answer.json()) == (202, {"message": "OK"})
    file = amphora.agent.config_file
    assert file.read_text() == sent
    assert file.with_name(f"{file.name}.previous").read_text() == config
    assert file.stat().st_mode & 0o777 == 0o600


def test_heartbeats_go_to_the_new_controllers_with_the_new_key(
    amphora: Amphora, config: str, other: HeartbeatReceiver
) -> None:
    processes = amphora.agent.pids()
    sequence = amphora.heartbeats.next().sequence
    changed = with_setting(config, "controller_ip_port_list", other.address)
    amphora.api.upload_config(with_setting(changed, "heartbeat_key", other.key))
    # The counting goes on: it is the same process that sends.
    assert other.next().sequence > sequence
    assert other.refused == []
    assert amphora.agent.pids() == processes


def test_the_old_controllers_get_no_more(
    amphora: Amphora, config: str, other: HeartbeatReceiver
) -> None:
    changed = with_setting(config, "controller_ip_port_list", other.address)
    amphora.api.upload_config(with_setting(changed, "heartbeat_key", other.key))
    last = other.next().sequence
    other.wait_for(lambda beat: beat.sequence > last + 1)
    assert all(beat.sequence < last for beat in amphora.heartbeats.drain())


def test_a_shorter_interval_does_not_wait_for_the_end_of_the_longer_one(
    boot: Callable[..., Amphora],
) -> None:
    with ExitStack() as ending:
        amphora = boot(ending, heartbeat_interval=86400)
        assert amphora.heartbeats.next().sequence == 0
        config = amphora.agent.config_file.read_text()
        amphora.api.upload_config(with_setting(config, "heartbeat_interval", "1"))
        # A day is not waited for.
        assert amphora.heartbeats.next().sequence == 1


def test_the_api_takes_up_the_topology(amphora: Amphora, config: str) -> None:
    assert amphora.api.details()["topology"] == "SINGLE"
    amphora.api.upload_config(with_setting(config, "loadbalancer_topology", "ACTIVE_STANDBY"))
    assert amphora.api.details()["topology"] == "ACTIVE_STANDBY"


def test_the_api_takes_up_the_tls_version_and_drops_no_connection(
    amphora: Amphora, config: str
) -> None:
    only_1_2 = Tls(
        server_name=amphora.agent.amphora_id,
        ca=amphora.agent.pki.server_authority.certificate,
        credentials=amphora.agent.pki.controller,
        maximum=ssl.TLSVersion.TLSv1_2,
    )
    with amphora.connect(only_1_2) as established:
        newest = config.replace(
            "[amphora_agent]\n", "[amphora_agent]\nagent_tls_protocol = TLSv1.3\n"
        )
        amphora.api.upload_config(newest)
        with pytest.raises(ssl.SSLError):
            amphora.connect(only_1_2)
        established.sendall(request_bytes("GET", "/1.0/info"))
        assert read_answer(established).status == 200
    amphora.api.upload_config(config)
    amphora.connect(only_1_2).close()


WRONG = {
    "an interval in words": ("heartbeat_interval", "soon"),
    "a port that is none": ("bind_port", "70000"),
    "a relative path": ("base_path", "octavia"),
    "no amphora": ("amphora_id", ""),
    "an unknown topology": ("loadbalancer_topology", "TRIPLE"),
}


@pytest.mark.parametrize("name", WRONG)
def test_one_that_cannot_be_used_changes_nothing(amphora: Amphora, config: str, name: str) -> None:
    key, value = WRONG[name]
    before = amphora.files()
    answer = amphora.request("PUT", "/1.0/config", with_setting(config, key, value).encode())
    assert answer.status == 400
    said = answer.json()
    assert said["message"] == "Unable to update amphora-agent configuration."
    assert f"{amphora.agent.config_file}: [" in said["details"]
    assert f"] {key}: " in said["details"]
    assert differences(before, amphora.files()) == set()


def test_one_that_was_broken_by_hand_leaves_the_last_good_one_in_force(
    amphora: Amphora, config: str
) -> None:
    amphora.agent.config_file.write_text("nonsense")
    amphora.heartbeats.drain()
    for _ in range(2):
        amphora.heartbeats.next()
    assert amphora.api.details()["topology"] == "SINGLE"
    assert amphora.heartbeats.refused == []


def test_the_key_is_neither_logged_nor_answered(amphora: Amphora, config: str) -> None:
    secret = "a key that nobody may read"
    keyed = with_setting(config, "heartbeat_key", secret)
    assert amphora.request("PUT", "/1.0/config", keyed.encode()).status == 202
    broken = with_setting(keyed, "heartbeat_interval", "soon")
    answer = amphora.request("PUT", "/1.0/config", broken.encode())
    assert answer.status == 400
    assert secret.encode() not in answer.body
    assert secret not in amphora.agent.log


def test_what_is_taken_up_only_at_a_start_is_said(amphora: Amphora, config: str) -> None:
    said = len(amphora.agent.log)
    amphora.api.upload_config(with_setting(config, "bind_port", "1"))
    assert "taken up when the agent starts again: bind_port" in amphora.agent.log[said:]
    assert amphora.api.info()


def test_a_new_configuration_survives_a_restart(
    boot: Callable[..., Amphora], other: HeartbeatReceiver
) -> None:
    with ExitStack() as ending:
        amphora = boot(ending)
        config = amphora.agent.config_file.read_text()
        changed = with_setting(config, "controller_ip_port_list", other.address)
        amphora.api.upload_config(with_setting(changed, "heartbeat_key", other.key))
        amphora.agent.restart()
        # The first one of the new process has the number 0.
        assert other.wait_for(lambda beat: beat.sequence == 0)
