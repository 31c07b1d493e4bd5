"""What is rendered from a load balancer's model is configuration to every haproxy, and to
keepalived."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from amphora_agent.haproxy.config.parser import parse_config
from amphora_agent.keepalived.config import lvs
from amphora_agent.keepalived.program import SOMETHING_TO_SAY, find_complaints
from amphora_agent.loadbalancer import render as loadbalancer_render
from amphora_agent.loadbalancer.render import Places
from amphora_agent.loadbalancer.translate.to_haproxy import Process
from amphora_agent.model import validation
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.validation import MOST_RULES
from lab import rendered
from lab.pki import Authority
from tests.builders.bodies import (
    balancer,
    decoded,
    listener,
    member,
    monitor,
    policy,
    pool,
    rule,
)
from tests.builders.loadbalancers import balancers
from tests.builders.places import PLACES

_REGEXES = 3000

_EXAMPLES = 100
any_model = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

#: What in a rendered text names a file of which kind.
_FILES = {"ca-file": "ca", "crl-file": "crl", "crt": "pem", "crt-list": "list"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """What each kind of file is made of."""
    authority = Authority.create("declared", key="ec")
    file = tmp_path_factory.mktemp("pki") / "one.pem"
    issued = authority.issue("www.example.org", dns=["www.example.org"], key="ec")
    file.write_bytes(issued.pem)
    return {
        "ca": authority.certificate,
        "crl": authority.revocation_list(),
        "pem": file.read_bytes(),
        "list": f"{file}\n".encode(),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("declared")


def places(directory: Path) -> Places:
    current = str(directory / "current")
    return PLACES._replace(
        project_id="a project",
        configuration=current,
        certificates=current,
        stats_socket=str(directory / "stats.sock"),
        state_file=str(directory / "state"),
        ping_wrapper="/bin/true",
    )


def write(process: Process, directory: Path, certificates: Mapping[str, bytes]) -> Path:
    """The files of a process, with certificates wherever it wants any."""
    current = directory / "current"
    shutil.rmtree(current, ignore_errors=True)
    current.mkdir()
    texts = rendered.render(process, places(directory))
    for name, text in texts.items():
        (current / name).write_text(text)
        for section in parse_config(text).sections if name.endswith(".cfg") else ():
            for directive in section.directives:
                for option, file in itertools.pairwise(directive.words):
                    if option in _FILES and directive.words[0] in ("bind", "server"):
                        Path(file).write_bytes(certificates[_FILES[option]])
    return current


def check(program: Path, current: Path) -> None:
    said = subprocess.run(
        [program, "-c", "-f", current], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr + "\n".join(_complained_of(said.stderr))


def _complained_of(said: str) -> Iterator[str]:
    """The lines that haproxy names."""
    for file, line in re.findall(r"\[(\S+\.cfg):(\d+)\]", said):
        yield Path(file).read_text().splitlines()[int(line) - 1]


def test_any_model_is_configuration(
    program: Path, directory: Path, certificates: Mapping[str, bytes]
) -> None:
    @any_model
    @given(balancers())
    def is_accepted(made: LoadBalancer) -> None:
        check(program, write(rendered.translate_whole(made), directory, certificates))
        for process in itertools.islice(rendered.translate_each(made), 1):
            check(program, write(process, directory, certificates))

    is_accepted()


def regular_expressions() -> Iterator[str]:
    """Text that looks like them, as far as the model lets it pass."""
    source = random.Random(2)
    pieces = [
        *"abz09-^$.|()[]{}?*+,=!:#%'\"& /\\",
        *(r"\d", r"\W", r"\b", r"\.", r"\\", r"\]", r"\x41", r"\t", "(?:", "(?=", "(?!", "(?i)"),
        *("[a-z]", "[^", "{2}", "{1,3}", "{0,}", "{,2}", "){2,40}", "[[:alpha:]]", "*?", "+?"),
    ]
    passed = 0
    while passed < _REGEXES:
        value = "".join(source.choices(pieces, k=source.choice((1, 2, 3, 5, 8, 13, 40))))
        body = balancer(listener(l7policies=[policy("REJECT", rule("PATH", "REGEX", value))]))
        if value and len(value) < 256 and not list(validation.find_problems(decoded(body))):
            passed += 1
            yield value
    # What takes the most room of what may pass.
    yield "(" + "[a-b]" * 10 + "){70}"
    yield "((([a-b]{999}){2}){5}){3}"


@pytest.fixture(scope="module")
def expressions() -> list[str]:
    return list(regular_expressions())


def test_any_regular_expression_that_passes_is_one_to_every_engine(
    program: Path, directory: Path, certificates: Mapping[str, bytes], expressions: list[str]
) -> None:
    rules = [
        rule("PATH", "REGEX", value, l7rule_id=f"r{number}".ljust(64, "x"))
        for number, value in enumerate(expressions)
    ]
    most = MOST_RULES
    policies = [
        policy("REJECT", *rules[begin : begin + most], name=f"policy-{begin}")
        for begin in range(0, len(rules), most)
    ]
    made = decoded(balancer(listener(l7policies=policies)))
    assert not list(validation.find_problems(made))
    check(program, write(rendered.translate_whole(made), directory, certificates))


def test_a_shared_pool_is_checked_by_one_backend(
    program: Path, directory: Path, certificates: Mapping[str, bytes]
) -> None:
    """Others of the same pool track it, and a disabled member or one in reserve is so in each."""
    members = [member("a", backup=True), member("b", admin_state_up=False, weight=0)]
    shared = pool("PROXYV2", healthmonitor=monitor("HTTP"), members=members)
    made = decoded(
        balancer(
            listener("HTTP", "one", default_pool_id="pool"),
            listener("TCP", "two", protocol_port=81, default_pool_id="pool"),
            listener("HTTP", "three", protocol_port=82, default_pool_id="pool"),
            pools=(shared,),
        )
    )
    current = write(rendered.translate_whole(made), directory, certificates)
    check(program, current)
    text = (current / "pool-pool.cfg").read_text()
    assert re.findall(r"^backend (.*)", text, re.M) == ["pool", "pool:two"]
    assert re.findall(r"server a .* (check|track \S+)", text) == ["check", "track pool/a"]


def layer4_texts(made: LoadBalancer, directory: Path) -> list[str]:
    return [
        loadbalancer_render.render_layer4(each, places(directory)).made()
        for each in rendered.translate_layer4(made)
    ]


def check_by_keepalived(text: str, directory: Path) -> None:
    file = directory / "keepalived.conf"
    given = lvs.rewrite(text.encode(), places(directory).udp_check)
    file.write_bytes(given.text)
    said = subprocess.run(
        ["keepalived", "--config-test", "--check", "-f", file],
        capture_output=True,
        text=True,
        check=False,
    )
    # It also says that nothing has any weight, which is no objection.
    assert said.returncode in (0, SOMETHING_TO_SAY), said.stderr + text
    assert not find_complaints(said.stdout + said.stderr, given.lines), text


@pytest.mark.skipif(shutil.which("keepalived") is None, reason="needs keepalived")
def test_any_udp_or_sctp_listener_is_configuration_to_keepalived(directory: Path) -> None:
    texts: list[str] = []

    # Few have such a listener.
    @settings(any_model, max_examples=4 * _EXAMPLES)
    @given(balancers())
    def render(made: LoadBalancer) -> None:
        texts.extend(layer4_texts(made, directory))

    render()
    assert len(texts) > _EXAMPLES / 4
    for text in texts:
        check_by_keepalived(text, directory)


@pytest.mark.skipif(shutil.which("keepalived") is None, reason="needs keepalived")
@pytest.mark.parametrize("codes", ["200", "200,202", "200-204"])
@pytest.mark.parametrize("type_", ["HTTP", "SCTP", "TCP", "UDP-CONNECT"])
def test_every_monitor_is_one_to_keepalived(directory: Path, type_: str, codes: str) -> None:
    checks = monitor(
        type_,
        expected_codes=codes,
        http_version=1.1,
        domain_name="www.example.org",
        url_path="/a#b!c?d=~e",
    )
    members = [member(), member("six", address="2001:db8::1", monitor_port=99)]
    kept = {"type": "SOURCE_IP", "persistence_granularity": "ffff:ffff::"}
    used = pool("SCTP", healthmonitor=checks, members=members, session_persistence=kept)
    made = decoded(
        balancer(
            listener("SCTP", default_pool_id="pool", connection_limit=10),
            pools=(used | {"lb_algorithm": "SOURCE_IP_PORT"},),
            additional_vips=[{"ip_address": "2001:db8::5"}],
        )
    )
    assert not list(validation.find_problems(made))
    (text,) = layer4_texts(made, directory)
    check_by_keepalived(text, directory)
