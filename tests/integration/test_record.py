"""One record of what happened to the amphora, whoever did it."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.waiting import until
from tests.builders import bodies
from tests.integration.amphora import WEB_PORTS, Amphora, LoadBalancer, with_setting
from tests.integration.history import run


def record(amphora: Amphora) -> list[dict[str, Any]]:
    """All of it, the newest entry first."""
    done = run(amphora, "history", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def newest_or_none(amphora: Amphora, operation: str) -> dict[str, Any] | None:
    return next((each for each in record(amphora) if each["operation"] == operation), None)


def newest(amphora: Amphora, operation: str) -> dict[str, Any]:
    return next(entry for entry in record(amphora) if entry["operation"] == operation)


def test_op11_a_configuration_push_is_recorded_with_values_and_without_secrets(
    own_amphora: Amphora,
) -> None:
    config = with_setting(own_amphora.agent.config_file.read_text(), "heartbeat_interval", "61")
    config = with_setting(config, "heartbeat_key", "anew-and-secret")
    own_amphora.api.upload_config(config)
    entry = newest(own_amphora, "configuration")
    assert (entry["part"], entry["who"]["address"]) == ("agent", "127.0.0.1")
    told = {each["name"]: (each["old"], each["new"]) for each in entry["differences"]}
    assert told["heartbeat_interval"][1] == "61"
    assert told["heartbeat_key"] == ("(secret)", "(secret)")
    assert "anew-and-secret" not in json.dumps(record(own_amphora))
    shown = run(own_amphora, "history").stdout
    assert "heartbeat_interval: " in shown
    assert "-> 61" in shown


def test_op11_plugs_rules_vrrp_and_certificates_are_recorded_when_they_are_refused(
    amphora: Amphora,
) -> None:
    requests = {
        "/1.0/plug/vip/192.0.2.1": ("POST", "plug vip", "interface"),
        "/1.0/plug/network": ("POST", "plug network", "interface"),
        "/1.0/vrrp/upload": ("PUT", "upload", "vrrp"),
        "/1.0/certificate": ("PUT", "agent certificate", "agent"),
        "/1.0/config": ("PUT", "configuration", "agent"),
    }
    for path, (method, operation, part) in requests.items():
        assert amphora.request(method, path, b"nonsense").status in (400, 500)
        entry = record(amphora)[0]
        assert (entry["operation"], entry["part"]) == (operation, part)
        assert entry["result"] in ("refused", "failed")
        assert entry["because"]
        assert entry["who"]["name"] == "octavia-controller"


def test_op11_an_upload_is_recorded_with_old_and_new_values(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    text = balancer.directory.joinpath("haproxy.cfg").read_text()
    line = next(n for n, each in enumerate(text.splitlines(), 1) if "timeout client " in each)
    value = text.splitlines()[line - 1].split()[-1]
    changed = text.replace(f"timeout client {value}", "timeout client 51000")
    (member,) = (each for each in changed.splitlines() if f"{WEB_PORTS[0]} " in each)
    changed = changed.replace(member, member.replace(" weight 1", " weight 5"))
    amphora.api.upload_haproxy(balancer.id, changed)
    entry = newest(amphora, "upload")
    told = {each["name"]: each for each in entry["differences"]}
    (timeout,) = (each for name, each in told.items() if name.endswith("timeout client"))
    assert (timeout["old"], timeout["new"], timeout["line"]) == (value, "51000", line)
    (weight,) = (each for name, each in told.items() if name.endswith(" weight"))
    assert (weight["old"], weight["new"]) == ("1", "5")
    assert len(told) == 2
    shown = run(amphora, "history", balancer.id).stdout
    assert f"timeout client: {value} -> 51000, line {line}" in shown
    assert " weight: 1 -> 5, line " in shown
    amphora.api.upload_haproxy(balancer.id, changed)
    assert "differences" not in newest(amphora, "upload")
    balancer.reload()
    assert run(amphora, "rollback", balancer.id).returncode == 0
    back = {
        each["name"]: (each["old"], each["new"])
        for each in newest(amphora, "rollback")["differences"]
    }
    assert back == {timeout["name"]: ("51000", value), weight["name"]: ("5", "1")}


def test_op11_a_load_balancer_that_is_put_again_is_recorded_with_values(amphora: Amphora) -> None:
    listener = bodies.listener(name="l1", protocol_port=12399)
    body = bodies.balancer(listener, loadbalancer_id="valued", vip_address="127.0.0.1")

    def put(**changed: Any) -> dict[str, Any]:
        listener.update(changed)
        made = amphora.request("PUT", "/2.0/loadbalancers/valued", json.dumps(body).encode())
        assert made.status in (200, 201), made.body
        return newest(amphora, "put")

    assert "differences" not in put(connection_limit=1000)
    entry = put(connection_limit=2000, timeout_client_data=61000)
    told = {each["name"]: (each["old"], each["new"]) for each in entry["differences"]}
    assert told["listener l1: maxconn"] == ("1000", "2000")
    assert told["listener l1: timeout client"][1] == "61000"
    assert amphora.request("DELETE", "/2.0/loadbalancers/valued").status < 300


def test_op11_a_haproxy_that_is_missing_is_told_once_and_served_when_it_is_there(
    own_amphora: Amphora, tmp_path: Path
) -> None:
    agent, program = own_amphora.agent, tmp_path / "haproxy"
    installed = shutil.which("haproxy")
    assert installed is not None
    agent.stop()
    config = agent.config_file.read_text()
    section = "[haproxy_amphora]"
    assert section in config
    config = config.replace(section, f"{section}\nhaproxy_cmd = {program}")
    agent.config_file.write_text(config)
    said = len(agent.log)
    agent.start(status=503)

    def alarm() -> bool:
        metrics = own_amphora.request("GET", "/metrics").body.decode()
        return 'amphora_agent_alarm{kind="program-missing"' in metrics

    until(alarm, "an alarm says so")
    until(lambda: newest_or_none(own_amphora, "program") is not None, "it is recorded")
    assert newest(own_amphora, "program")["words"] == ["there is no such file"]
    balancer = own_amphora.new_balancer()
    with pytest.raises(
        AmphoraError, match=f"^503: Cannot run haproxy: {program}: there is no such file"
    ):
        balancer.push()
    errors = [line for line in agent.log[said:].splitlines() if " ERROR " in line]
    assert len(errors) == 1, errors
    assert "cannot run haproxy: there is no such file" in errors[0]
    shutil.copy(installed, program)
    program.chmod(0o644)
    until(lambda: "may not be executed" in agent.log[said:], "what is wrong now is said")
    program.chmod(0o755)
    until(lambda: not alarm(), "the alarm ends")
    balancer.push()
    assert balancer.get() in ("web1", "web2")
    until(
        lambda: newest(own_amphora, "program")["words"] == ["it can be run again"], "it is recorded"
    )


def test_op11_the_death_of_a_haproxy_is_recorded_with_its_load_balancer(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    balancer.master.send(signal.SIGKILL)
    api = amphora.api
    until(lambda: api.changes(balancer.id, 1)[0]["operation"] == "death", "it is recorded")
    entry = api.changes(balancer.id, 1)[0]
    assert entry["subject"] == f"haproxy-{balancer.id}"
    assert "status -9" in entry["words"][0]
    until(balancer.accepts, "it is there again")


def test_op10_what_haproxy_says_of_a_death_is_in_the_log_as_an_error(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    said = len(amphora.agent.log)
    balancer.processes()[1].send(signal.SIGKILL)
    until(balancer.accepts, "it is there again")

    def told() -> list[str]:
        name = f"haproxy-{balancer.id}: ["
        return [line for line in amphora.agent.log[said:].splitlines() if name in line]

    until(lambda: any("exited with code 137" in line for line in told()), "it is said")
    assert all(" ERROR " in line for line in told() if "[ALERT]" in line)
    assert not any("[NOTICE]" in line for line in told())


def test_op11_a_command_is_recorded_with_who_logged_in(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    balancer.push()
    command = [*amphora.agent.command(), "rollback", balancer.id]
    environment = {**os.environ, "SUDO_UID": "65534"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    login = int(Path("/proc/self/loginuid").read_text())
    expected = 65534 if login == (1 << 32) - 1 else login
    assert f"(uid {expected})" in newest(amphora, "rollback")["who"]["name"]


def test_e10_a_first_upload_that_fails_leaves_nothing_but_its_entry(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    with pytest.raises(AmphoraError):
        amphora.api.upload_agent_certificate(b"nonsense")
    before = amphora.files()
    refused = amphora.request("PUT", f"/1.0/loadbalancer/a/{made.id}/certificates/x.pem", b"")
    assert refused.status == 404
    answer = amphora.request("PUT", f"/2.0/loadbalancers/{made.id}", b"nonsense")
    assert answer.status == 400
    assert amphora.files() == before
    assert not made.directory.exists()
    assert amphora.api.changes(made.id)[0]["result"] == "refused"


def test_a_change_is_made_when_the_record_cannot_be_written(own_amphora: Amphora) -> None:
    directory = own_amphora.agent.base_path / "journal"
    directory.write_text("a file where a directory should be")
    balancer = own_amphora.new_balancer()
    balancer.push()
    assert balancer.get() in ("web1", "web2")
    metrics = own_amphora.request("GET", "/metrics").body.decode()
    assert 'amphora_agent_alarm{kind="record-unwritten",subject="agent"' in metrics
    directory.unlink()
    balancer.push()
    told = [entry["operation"] for entry in own_amphora.api.changes(balancer.id)]
    assert told == ["reload", "upload"] * 2
    metrics = own_amphora.request("GET", "/metrics").body.decode()
    assert "record-unwritten" not in metrics
