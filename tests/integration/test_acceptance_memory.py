"""A configuration needs memory for its TLS session cache in each new worker; one machine has it,
another has it once, another has it not."""

import logging
import uuid
from pathlib import Path

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.acceptance import Acceptance, Candidate, Proof
from amphora_agent.haproxy.headroom import Headroom
from amphora_agent.haproxy.policy import Bounds
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.text import Texts
from amphora_agent.layout import InstanceLayout, Layout, object_id
from amphora_agent.processes.command import Completed
from amphora_agent.settings import Settings
from lab import haproxies
from lab.pki import Authority

#: Blocks, and the MiB that they take.
BLOCKS, TAKEN = 1_000_000, 236


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    settings = Settings(
        amphora_id="amphora", base_path=str(tmp_path), base_cert_dir=str(tmp_path / "certs")
    )
    layout = Layout.of(settings, run=tmp_path / "run", namespace="none")
    instance = layout.instance(object_id(str(uuid.uuid4())))
    for directory in (instance.directory, instance.certificates, layout.run):
        directory.mkdir(parents=True)
    issued = Authority.create("CA", key="ec").issue("site", dns=["site"])
    (instance.certificates / "site.pem").write_bytes(issued.pem)
    instance.addition.write_text("global\n    group nogroup\n")
    return instance


def acceptance(instance: InstanceLayout, tmp_path: Path, megabytes: int) -> Acceptance:
    """Of a machine that has so much memory left."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {megabytes << 10} kB\n")
    bounds = Bounds(
        base=str(tmp_path),
        directory=str(instance.directory),
        certificates=str(instance.certificates),
        stats_socket=str(instance.stats_socket),
        state_file=str(instance.state),
        pid_file=str(instance.pid_file),
        ping_wrapper="/ping-wrapper.sh",
        group="nogroup",
        agent_port=9443,
    )
    program = haproxies.program(haproxies.SERIES[0])
    haproxy = Haproxy(program, tmp_path / "run")
    return Acceptance(haproxy, Headroom("self", tmp_path), lambda _: bounds)


def candidate(instance: InstanceLayout, weight: int = 1) -> Candidate:
    text = f"""
global
    tune.ssl.cachesize {BLOCKS}
defaults
    mode http
    timeout client 1s
    timeout server 1s
    timeout connect 1s
frontend f
    bind 192.0.2.1:443 ssl crt {instance.certificates}/site.pem
    default_backend b
backend b
    server s 192.0.2.9:80 weight {weight}
"""

    def check(texts: Texts) -> Completed:
        haproxy = Haproxy(haproxies.program(haproxies.SERIES[0]), instance.master_socket.parent)
        configuration = texts["haproxy.cfg"].encode()
        return haproxy.check(configuration, instance.configuration, instance.addition, "me")

    texts = {"haproxy.cfg": text, "agent.cfg": instance.addition.read_text()}
    return Candidate(texts, ("haproxy.cfg",), check)


def test_what_does_not_fit_is_refused(instance: InstanceLayout, tmp_path: Path) -> None:
    machine = acceptance(instance, tmp_path, TAKEN - 1)

    with pytest.raises(InvalidRequest) as refusal:
        machine.require(instance, candidate(instance))

    assert f"would need {TAKEN} MiB" in refusal.value.details
    assert f"{TAKEN - 1} MiB are available" in refusal.value.details


@pytest.mark.parametrize(("megabytes", "warned"), [(TAKEN + 10, True), (2 * TAKEN + 10, False)])
def test_what_fits_once_and_not_twice_is_a_warning(
    instance: InstanceLayout,
    tmp_path: Path,
    megabytes: int,
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = acceptance(instance, tmp_path, megabytes)

    with caplog.at_level(logging.WARNING):
        verdict = machine.require(instance, candidate(instance))

    assert verdict.proof is Proof.WHOLE
    assert (f"takes {TAKEN} MiB, and a reload as much again" in caplog.text) is warned


def test_what_needs_no_new_worker_needs_no_memory(instance: InstanceLayout, tmp_path: Path) -> None:
    instance.configuration.write_text(candidate(instance).texts["haproxy.cfg"])
    machine = acceptance(instance, tmp_path, 1)

    assert machine.require(instance, candidate(instance, weight=2)).proof is Proof.UNDERSTOOD
