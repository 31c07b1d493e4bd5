"""A configuration needs memory for its TLS session cache in each new worker; one machine has it,
another has it once, another has it not."""

import logging
import uuid
from pathlib import Path

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.validate.validator import Candidate, Proof, ResourceLimits, Validator
from amphora_agent.paths import Layout, UploadedLayout, object_id
from amphora_agent.revisions.contents import Revisions
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.processes import Completed
from lab import haproxies
from lab.pki import Authority
from tests.builders.instances import live_files

#: Blocks, and the MiB that they take.
BLOCKS, TAKEN = 1_000_000, 236


@pytest.fixture
def instance(tmp_path: Path) -> UploadedLayout:
    settings = Settings(
        amphora_id="amphora", base_path=str(tmp_path), base_cert_dir=str(tmp_path / "certs")
    )
    layout = Layout.of(settings, run=tmp_path / "run", namespace="none")
    instance = layout.uploaded(object_id(str(uuid.uuid4())))
    for directory in (instance.directory, instance.certificates, layout.run):
        directory.mkdir(parents=True)
    issued = Authority.create("CA", key="ec").issue("site", dns=["site"])
    (instance.certificates / "site.pem").write_bytes(issued.pem)
    instance.addition.write_text("global\n    group nogroup\n")
    return instance


def acceptance(instance: UploadedLayout, tmp_path: Path, megabytes: int) -> Validator:
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
    return Validator(haproxy, ResourceLimits("self", tmp_path), lambda _: bounds)


def candidate(instance: UploadedLayout, weight: int = 1) -> Candidate:
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


def test_what_does_not_fit_is_refused(instance: UploadedLayout, tmp_path: Path) -> None:
    machine = acceptance(instance, tmp_path, TAKEN - 1)

    with pytest.raises(InvalidRequest) as refusal:
        machine.require(instance, candidate(instance))

    assert f"would need {TAKEN} MiB" in refusal.value.details
    assert f"{TAKEN - 1} MiB are available" in refusal.value.details


@pytest.mark.parametrize(("megabytes", "warned"), [(TAKEN + 30, True), (2 * TAKEN + 30, False)])
def test_what_fits_once_and_not_twice_is_a_warning(
    instance: UploadedLayout,
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


def test_what_needs_no_new_worker_needs_no_memory(instance: UploadedLayout, tmp_path: Path) -> None:
    texts = {name: content.encode() for name, content in candidate(instance).texts.items()}
    live_files(instance).commit(instance, Revisions.of(instance).keep(texts), {})
    machine = acceptance(instance, tmp_path, 1)

    assert machine.require(instance, candidate(instance, weight=2)).proof is Proof.UNDERSTOOD


def test_d2_more_listeners_than_the_machine_holds_are_refused(
    instance: UploadedLayout, tmp_path: Path
) -> None:
    few = candidate(instance)
    many = "".join(
        f"frontend f{number}\n    bind 192.0.2.1:{number + 1}\nbackend b{number}\n"
        + "".join(f"    server s{each} 192.0.2.9:80\n" for each in range(10))
        for number in range(5000)
    )
    texts = {**few.texts, "haproxy.cfg": "defaults\n    mode http\n" + many}
    machine = acceptance(instance, tmp_path, 200)
    with pytest.raises(InvalidRequest) as refusal:
        machine.require(instance, few._replace(texts=texts))
    assert "to load so many listeners, pools and members" in refusal.value.details
    assert "200 MiB are available" in refusal.value.details


def test_d2_what_fits_once_and_not_beside_the_worker_of_a_reload_is_refused(
    instance: UploadedLayout, tmp_path: Path
) -> None:
    few = candidate(instance)
    many = "".join(
        f"frontend f{number}\n    bind 192.0.2.1:{number + 1}\nbackend b{number}\n"
        for number in range(2000)
    )
    wanted = few._replace(texts={**few.texts, "haproxy.cfg": "defaults\n    mode http\n" + many})
    needed = preflight.estimate_memory(
        wanted.texts, haproxies.SERIES[0], ResourceLimits("self").threads()
    )
    once = acceptance(instance, tmp_path, (needed.start >> 20) + 1)
    with pytest.raises(InvalidRequest):
        once.require(instance, wanted)
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {needed.most() >> 10} kB\n")
    with pytest.raises(InvalidRequest) as refusal:  # nobody listens there: haproxy's own words
        once.require(instance, wanted._replace(check=lambda texts: Completed(1, "heard")))
    assert refusal.value.details == "heard"


def test_d2_what_takes_the_place_of_another_haproxy_gets_its_memory(
    instance: UploadedLayout, tmp_path: Path
) -> None:
    many = "".join(
        f"frontend f{number}\n    bind 192.0.2.1:{number + 1}\nbackend b{number}\n"
        for number in range(2000)
    )
    few = candidate(instance)._replace(check=lambda texts: Completed(0, ""))
    wanted = few._replace(texts={**few.texts, "haproxy.cfg": "defaults\n    mode http\n" + many})
    machine = acceptance(instance, tmp_path, 1)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1024 kB\n")
    with pytest.raises(InvalidRequest):
        machine.require(instance, wanted)
    assert machine.require(instance, wanted._replace(replaced=wanted.texts)).proof is Proof.WHOLE


def test_d2_what_there_is_may_always_become_less(instance: UploadedLayout, tmp_path: Path) -> None:
    """Where others have taken the memory meanwhile."""
    texts = {name: content.encode() for name, content in candidate(instance).texts.items()}
    live_files(instance).commit(instance, Revisions.of(instance).keep(texts), {})
    instance.master_socket.touch()
    machine = acceptance(instance, tmp_path, TAKEN + 5)
    less = candidate(instance)
    shorter = less.texts["haproxy.cfg"].replace("    server s 192.0.2.9:80 weight 1\n", "")
    wanted = less._replace(texts={**less.texts, "haproxy.cfg": shorter + "    http-reuse never\n"})
    assert machine.require(instance, wanted).proof is Proof.WHOLE
