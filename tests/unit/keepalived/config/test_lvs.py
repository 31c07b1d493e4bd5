"""What a configuration says, and what it may not say."""

from dataclasses import replace
from pathlib import Path

import pytest

from amphora_agent.keepalived.config.language import ConfigError
from amphora_agent.keepalived.config.lvs import (
    Endpoint,
    ParsedListener,
    ParsedMember,
    describe,
    earlier_source,
    is_made_of,
    rewrite,
)
from amphora_agent.paths import Layout
from amphora_agent.settings.reader import Settings
from lab.lvs import Check, LvsListener, LvsMember

UDP_CHECK = "/var/lib/octavia/lvs/check/udp_check.sh"
LISTENER = LvsListener(
    ["10.1.0.5", "10.1.0.6", "2001:db8:1::5"],
    53,
    [
        LvsMember("10.2.0.11", 5300),
        LvsMember("10.2.0.12", 5300, weight=0),
        LvsMember("10.2.0.13", 5300, enabled=False),
        LvsMember("2001:db8:2::11", 5301),
    ],
    check="UDP-CONNECT",
)
FOUR, FOUR_WEIGHTLESS, DISABLED, SIX = LISTENER.members


def parse(text: str) -> ParsedListener:
    rewrite(text.encode(), UDP_CHECK)
    return describe(text.encode())


def given(text: str) -> str:
    """What keepalived is given, but for the agent's settings."""
    return rewrite(text.encode(), UDP_CHECK).text.decode().partition("}\n")[2]


def test_each_ip_version_has_its_addresses_and_its_members() -> None:
    four, six = parse(LISTENER.text()).virtuals
    assert (four.protocol, six.protocol) == ("UDP", "UDP")
    assert four.endpoints == (Endpoint("10.1.0.5", 53), Endpoint("10.1.0.6", 53))
    assert six.endpoints == (Endpoint("2001:db8:1::5", 53),)
    assert four.members == (
        ParsedMember(FOUR.id, Endpoint("10.2.0.11", 5300), checked=True),
        ParsedMember(FOUR_WEIGHTLESS.id, Endpoint("10.2.0.12", 5300), checked=True),
        ParsedMember(DISABLED.id, None),
    )
    assert six.members == (ParsedMember(SIX.id, Endpoint("2001:db8:2::11", 5301), checked=True),)


def test_the_pool_and_all_members_are_known_by_their_ids() -> None:
    parsed = parse(LISTENER.text())
    assert parsed.enabled
    assert parsed.pool == LISTENER.pool_id
    assert [member.id for member in parsed.members] == [member.id for member in LISTENER.members]


@pytest.mark.parametrize("check", ["UDP-CONNECT", "SCTP", "TCP", None])
def test_a_member_is_checked_when_it_has_a_monitor(check: str | None) -> None:
    text = replace(LISTENER, check=check, protocol="SCTP").text()  # type: ignore[arg-type]
    assert {member.checked for member in parse(text).members if member.endpoint} == {
        check is not None
    }


def test_a_listener_that_is_disabled_has_nothing_else() -> None:
    parsed = parse(replace(LISTENER, enabled=False).text())
    assert (parsed.enabled, parsed.pool, parsed.virtuals) == (False, None, ())


def test_addresses_are_in_their_shortest_form() -> None:
    text = LISTENER.text().replace("2001:db8:1::5", "2001:0DB8:1:0:0:0:0:5")
    assert parse(text).virtuals[1].endpoints == (Endpoint("2001:db8:1::5", 53),)


def test_reads_an_address_without_a_group_as_older_controllers_write_it() -> None:
    text = """\
virtual_server 10.1.0.5 53 {
    protocol UDP
    # Configuration for Pool p
    # Configuration for Member m
    real_server 10.2.0.11 5300 {
        weight 1
    }
}
"""
    [virtual] = parse(text).virtuals
    assert virtual.endpoints == (Endpoint("10.1.0.5", 53),)
    assert virtual.members == (ParsedMember("m", Endpoint("10.2.0.11", 5300)),)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("net_namespace amphora-haproxy", "include /etc/shadow", "include is not allowed"),
        ("net_namespace amphora-haproxy", "global_defs {\n}", "global_defs is not allowed"),
        ("net_namespace amphora-haproxy", "vrrp_script x {\n}", "vrrp_script is not allowed"),
        ("net_namespace amphora-haproxy", "$X=misc_", r"\$X=misc_: macros"),
        ("weight 0", "notify_down /bin/sh", "notify_down is not allowed"),
        ("weight 0", '"notify_up" /bin/sh', "notify_up is not allowed"),
        ("weight 0", "quorum_up /bin/sh", "quorum_up is not allowed"),
        ("weight 0", "include /etc/shadow", "include is not allowed"),
        ("weight 0", "misc_user root", "misc_user is not allowed"),
        ("weight 0", "@a weight 0", "@a: conditions"),
        ("weight 0", 'wei"ght" 0', "wei is not allowed"),
        ("weight 0", 'weight "0', "a quote is not closed"),
        ("weight 0", "weight \\", "a backslash"),
        ("weight 0", "weight 0 }", "closes what was not opened"),
        ("weight 0", "weight\x00 0", "a NUL byte"),
        (f"{UDP_CHECK} 10.2.0.12", "/bin/sh -c", "this program is not allowed"),
        (UDP_CHECK, f"/tmp{UDP_CHECK}", "this program"),
        (f'"{UDP_CHECK} 10.2.0.11 5300"', f"{UDP_CHECK} 10.2.0.11 5300", "it takes one value"),
        ("    10.1.0.6 53", "    10.1.0.6 70000", "a number from 1 to 65535"),
        ("    10.1.0.6 53", "    10.1.0.6", "it takes 2 values"),
        ("protocol UDP", "protocol TCP", "it can only be UDP, SCTP"),
        ("lb_kind NAT", "lb_kind DR", "it can only be NAT"),
        ("group ipv4-group {\n    lb", "group other {\n    lb", "no such group"),
        pytest.param(
            f"# Configuration for Member {FOUR.id}", "# nothing", "which member", id="no member"
        ),
    ],
)
def test_refuses_with_its_line_whatever_no_controller_writes(
    old: str, new: str, words: str
) -> None:
    text = LISTENER.text()
    assert old in text
    with pytest.raises(ConfigError, match=rf"^line \d+: .*{words}"):
        parse(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "program", ["startup_script", "shutdown_script", "notify_fifo_script", '"startup_script"']
)
@pytest.mark.parametrize("brace", ["}", " }", "\t} ", "\r}", "\v}", "}\v"])
def test_b2_no_brace_ends_a_block_unseen(brace: str, program: str) -> None:
    harm = f"quorum 1 {brace}{brace}global_defs{{{program} \"/bin/sh -c 'id'\""
    for old in ("delay_loop 1", "weight 1", "retry 1"):
        with pytest.raises(ConfigError, match=r"^line \d+: "):
            parse(LISTENER.text().replace(old, f"{old}\n{harm}", 1))
        with pytest.raises(ConfigError, match=r"^line \d+: "):
            parse(LISTENER.text().replace(old, f"{old}{harm.removeprefix('quorum 1')}", 1))


def test_ignores_comments() -> None:
    text = LISTENER.text().replace("weight 0", "weight 0 ! notify_down /bin/sh")
    assert parse(text) == parse(LISTENER.text())
    assert given(text) == given(LISTENER.text())


@pytest.mark.parametrize("text", ["virtual_server 10.1.0.5 53 {\n", "}\n", "a {\n" * 9])
def test_braces_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"close|too many"):
        parse(text)


def test_keepalived_knows_who_runs_scripts_before_it_is_told_of_any() -> None:
    text = rewrite(LISTENER.text().encode(), UDP_CHECK).text.decode()
    assert text.index("script_user root") < text.index("misc_path")


def test_keepalived_is_not_told_a_namespace_which_the_agent_knows_better() -> None:
    assert "net_namespace" in LISTENER.text()
    assert "net_namespace" not in given(LISTENER.text())


@pytest.mark.parametrize("check", ["UDP-CONNECT", "SCTP", "TCP"])
def test_a8_first_checks_do_not_wait_for_the_delay(check: Check) -> None:
    text = given(replace(LISTENER, check=check, delay=3600).text())
    assert text.count("\nvirtual_server ") == text.count("    warmup 0.1\n") > 0
    assert "warmup" not in given(replace(LISTENER, check=None).text())


def test_recognizes_the_configuration_that_a_text_was_made_of() -> None:
    configuration = LISTENER.text().encode()
    text = rewrite(configuration, UDP_CHECK).text
    assert is_made_of(text, configuration)
    assert not is_made_of(text, configuration + b"\n")
    assert not is_made_of(configuration, configuration)
    assert earlier_source(text) is None


def test_the_controllers_text_is_found_in_what_an_earlier_agent_gave() -> None:
    earlier = b"global_defs {\n    script_user root\n    enable_script_security\n}\n"
    assert earlier_source(earlier + b"x { }\n") == b"x { }\n"


@pytest.mark.parametrize(
    ("version", "mask", "given_mask"),
    [
        (4, "255.255.255.0", "255.255.255.0"),
        (6, "64", "64"),
        (6, "255.255.255.255", "128"),
        (4, "64", "255.255.255.255"),
    ],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_masks_are_those_of_the_ip_version(
    version: int, mask: str, given_mask: str, grouped: bool
) -> None:
    """Octavia writes what the user gave, or the mask of IPv4, for both."""
    address = {4: "10.1.0.5", 6: "2001:db8::5"}[version]
    where = "group g" if grouped else f"{address} 53"
    text = f"virtual_server {where} {{\nprotocol UDP\npersistence_granularity {mask}\n}}\n"
    if grouped:
        text += f"virtual_server_group g {{\n{address} 53\n}}\n"
    assert f"    persistence_granularity {given_mask}\n" in given(text)


def test_a_url_with_braces_is_quoted() -> None:
    """Octavia writes it without quotes, and keepalived takes the braces for its own."""
    text = replace(LISTENER, check=None).text()
    check = "weight 1\nHTTP_GET {\nurl {\npath /{a}?b\n}\n}"
    assert '                path "/{a}?b"\n' in given(text.replace("weight 1", check))


def test_the_path_of_the_check_is_that_of_the_layout() -> None:
    layout = Layout.of(Settings(amphora_id="a"), run=Path("/run/x"), namespace="n")
    assert str(layout.udp_check) == UDP_CHECK
    assert UDP_CHECK in LISTENER.text()
