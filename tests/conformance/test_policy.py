"""What the controller renders is within the policy; what tenants smuggle into it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from controller import loadbalancers, texts
from octavia.common import data_models

from amphora_agent.haproxy.config.parser import split_sections
from amphora_agent.haproxy.policy.engine import Violation, find_violations
from amphora_agent.haproxy.policy.values import Bounds

_STATS_SOCKET = re.compile(r"^ *stats socket \S*/([^/\s]+)\.sock ", re.MULTILINE)


def found(text: str) -> list[Violation]:
    """What the instance that the text is for may not contain."""
    named = _STATS_SOCKET.search(text)
    assert named
    directory = f"{texts.BASE_PATH}/{named[1]}"
    bounds = Bounds(
        base=texts.BASE_PATH,
        directory=directory,
        certificates=f"{texts.CERTIFICATES}/{named[1]}",
        stats_socket=f"{directory}.sock",
        state_file=f"{directory}/servers-state",
        pid_file=f"{directory}/{named[1]}.pid",
        ping_wrapper=f"{texts.BASE_PATH}/ping-wrapper.sh",
        group="nogroup",
        agent_port=9443,
    )
    return find_violations(split_sections({"haproxy.cfg": text}), bounds)


def test_everything_that_the_templates_render_is_within_the_policy() -> None:
    refused = []
    for name, text in texts.rendered():
        if "listener of" in name:
            # The driver keeps a listener's files below its own id, and so names them.
            instance = _STATS_SOCKET.search(text)
            assert instance
            text = re.sub(
                rf"{texts.CERTIFICATES}/[0-9a-f-]{{36}}/",
                f"{texts.CERTIFICATES}/{instance[1]}/",
                text,
            )
        lines = text.split("\n")
        refused += [(name, lines[v.line - 1], v.reason) for v in found(text)]
    assert refused == []


def rendered(listener: data_models.Listener) -> Iterator[str]:
    """By every template of this release that knows such a listener."""
    made_up = texts._MadeUp(0)
    for renderer in texts._renderers():
        for _, text in renderer(listener.load_balancer, made_up):
            yield text


def assert_harmless(listener: data_models.Listener, smuggled: str) -> None:
    """It is refused, or not what came out of the controller's templates: some have no such field,
    some write quotes as entities of HTML, and the newest leave out what is no URL or no cipher."""
    count = 0
    for text in rendered(listener):
        count += 1
        assert found(text) or smuggled not in text
    assert count


def new_listener(protocol: str, **fields: object) -> data_models.Listener:
    amphora = texts._amphora("10.1.0.11")
    balancer = loadbalancers.load_balancer(amphora, "10.1.0.5")
    return loadbalancers.listener(balancer, protocol, 443, **fields)


def listener_ciphers(value: str) -> data_models.Listener:
    return new_listener("TERMINATED_HTTPS", tls_certificate_id="certificate", tls_ciphers=value)


def pool_ciphers(value: str) -> data_models.Listener:
    made = new_listener("HTTP")
    loadbalancers.pool(made, "HTTP", [("10.2.0.11", 80)], tls_enabled=True, tls_ciphers=value)
    return made


def redirect_url(value: str) -> data_models.Listener:
    made = new_listener("HTTP")
    rules = [("PATH", "STARTS_WITH", "/old")]
    loadbalancers.policy(made, "REDIRECT_TO_URL", rules, redirect_url=value)
    return made


def redirect_prefix(value: str) -> data_models.Listener:
    made = new_listener("HTTP")
    rules = [("PATH", "STARTS_WITH", "/old")]
    loadbalancers.policy(made, "REDIRECT_PREFIX", rules, redirect_prefix=value)
    return made


FIELDS = [listener_ciphers, pool_ciphers, redirect_url, redirect_prefix]
#: What each of them means.
HARMLESS = {
    listener_ciphers: "!aNULL:ECDHE-RSA-AES256-GCM-SHA384",
    pool_ciphers: "@SECLEVEL=1:ECDHE-RSA-AES256-GCM-SHA384",
    redirect_url: "https://www.example.com/new?a=%20b",
    redirect_prefix: "https://www.example.com:8443",
}
HARMFUL = ["lua-load /tmp/x.lua", "user root", "external-check command /bin/sh", "program x"]
LINE_BREAKS = ["\n", "\r", "\r\n", "\n\r", "\v", "\f", "\0", "\x1c", "\n.if 1\n", "\nglobal\n"]
EVERYWHERE = [
    'x"$HEARTBEAT_KEY"',
    'x"${HEARTBEAT_KEY}"',
    r"x\r\nSet-Cookie:a=b",
    r"x\x0aSet-Cookie:a=b",
    r"x\x00y",
]
ON_REDIRECTIONS = [
    "http://x/%[env(HEARTBEAT_KEY)]",
    "http://x/%{+Q}[env(HEARTBEAT_KEY)]",
    "http://x/%[src,map_ip(/etc/passwd)]",
    "http://x/%[lua.x]",
    "http://x if { env(HEARTBEAT_KEY) -m found } #",
    "http://x if { path -f /etc/passwd } #",
]
ON_OPTIONS = [
    "A crt /etc/octavia/certs/server.pem",
    "A ca-file /etc/shadow",
    "A namespace other",
    "A source 0.0.0.0 usesrc clientip",
    "A level admin",
]


@pytest.mark.parametrize("field", FIELDS)
def test_what_the_field_means_is_within_the_policy(field) -> None:
    made = list(rendered(field(HARMLESS[field])))
    assert any(HARMLESS[field] in text for text in made)
    assert [found(text) for text in made] == [[]] * len(made)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("harm", HARMFUL)
@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
def test_lines_within_a_field_are_refused(field, harm: str, line_break: str) -> None:
    assert_harmless(field(f"http://x{line_break}    {harm}{line_break}"), harm)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", EVERYWHERE)
def test_expansions_and_escapes_within_a_field_are_refused(field, value: str) -> None:
    assert_harmless(field(value), value)


@pytest.mark.parametrize("field", [redirect_url, redirect_prefix])
@pytest.mark.parametrize("value", ON_REDIRECTIONS)
def test_formats_and_conditions_within_a_redirection_are_refused(field, value: str) -> None:
    assert_harmless(field(value), value)


@pytest.mark.parametrize("field", [listener_ciphers, pool_ciphers])
@pytest.mark.parametrize("value", ON_OPTIONS)
def test_options_within_ciphers_are_refused(field, value: str) -> None:
    assert_harmless(field(value), value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"], ids=ascii)
def test_what_only_unicode_takes_for_the_end_of_a_line_ends_none(field, end: str) -> None:
    for text in rendered(field(f"x{end}lua-load")):
        words = {
            word for block in split_sections({"": text}) for d in block.lines() for word in d.words
        }
        assert (f"x{end}lua-load" in words) == (end in text)
        assert "lua-load" not in words
