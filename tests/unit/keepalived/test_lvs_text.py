"""What a configuration says, and what it may not say."""

from dataclasses import replace
from pathlib import Path

import pytest

from amphora_agent.keepalived.lvs_text import Endpoint, Member, given, parse, renumbered
from amphora_agent.layout import Layout
from amphora_agent.settings import Settings
from lab.lvs import LvsListener, LvsMember

BASE = "/var/lib/octavia"
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


def test_each_ip_version_has_its_addresses_and_its_members() -> None:
    four, six = parse(LISTENER.text(), BASE).virtuals
    assert (four.protocol, six.protocol) == ("UDP", "UDP")
    assert four.endpoints == (Endpoint("10.1.0.5", 53), Endpoint("10.1.0.6", 53))
    assert six.endpoints == (Endpoint("2001:db8:1::5", 53),)
    assert four.members == (
        Member(FOUR.id, Endpoint("10.2.0.11", 5300), checked=True),
        Member(FOUR_WEIGHTLESS.id, Endpoint("10.2.0.12", 5300), checked=True),
        Member(DISABLED.id, None),
    )
    assert six.members == (Member(SIX.id, Endpoint("2001:db8:2::11", 5301), checked=True),)


def test_the_pool_and_all_members_are_known_by_their_ids() -> None:
    parsed = parse(LISTENER.text(), BASE)
    assert parsed.enabled
    assert parsed.pool == LISTENER.pool_id
    assert [member.id for member in parsed.members] == [member.id for member in LISTENER.members]


@pytest.mark.parametrize("check", ["UDP-CONNECT", "SCTP", "TCP", None])
def test_a_member_is_checked_when_it_has_a_monitor(check: str | None) -> None:
    text = replace(LISTENER, check=check, protocol="SCTP").text()  # type: ignore[arg-type]
    assert {member.checked for member in parse(text, BASE).members if member.endpoint} == {
        check is not None
    }


def test_a_listener_that_is_disabled_has_nothing_else() -> None:
    parsed = parse(replace(LISTENER, enabled=False).text(), BASE)
    assert (parsed.enabled, parsed.pool, parsed.virtuals) == (False, None, ())


def test_addresses_are_in_their_shortest_form() -> None:
    text = LISTENER.text().replace("2001:db8:1::5", "2001:0DB8:1:0:0:0:0:5")
    assert parse(text, BASE).virtuals[1].endpoints == (Endpoint("2001:db8:1::5", 53),)


def test_one_address_without_a_group_as_older_controllers_write_it() -> None:
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
    [virtual] = parse(text, BASE).virtuals
    assert virtual.endpoints == (Endpoint("10.1.0.5", 53),)
    assert virtual.members == (Member("m", Endpoint("10.2.0.11", 5300)),)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("net_namespace amphora-haproxy", "include /etc/shadow", "include is not allowed"),
        ("net_namespace amphora-haproxy", "global_defs {\n}", "global_defs is not allowed"),
        ("net_namespace amphora-haproxy", "vrrp_script x {\n}", "vrrp_script is not allowed"),
        ("net_namespace amphora-haproxy", "$X=misc_", r"\$X=misc_ is not allowed"),
        ("weight 0", "notify_down /bin/sh", "notify_down is not allowed"),
        ("weight 0", '"notify_up" /bin/sh', "notify_up is not allowed"),
        ("weight 0", "quorum_up /bin/sh", "quorum_up is not allowed"),
        ("weight 0", "include /etc/shadow", "include is not allowed"),
        ("weight 0", "misc_user root", "misc_user is not allowed"),
        ("weight 0", "@a weight 0", "@a is not allowed"),
        ("weight 0", 'wei"ght" 0', "a quote within a word"),
        ("weight 0", 'weight "0', "a quote is not closed"),
        ("weight 0", "weight \\", "a backslash"),
        ("weight 0", "weight 0 }", "a brace where none belongs"),
        ("weight 0", "weight\x00 0", "a control character"),
        (f"{BASE}/lvs/check/udp_check.sh 10.2.0.12", "/bin/sh -c", "this program is not allowed"),
        (f"{BASE}/lvs/check/udp_check.sh", "/tmp/lvs/check/udp_check.sh", "this program"),
        ("    10.1.0.6 53", "    10.1.0.6 70000", "not an address and a port"),
        ("    10.1.0.6 53", "    10.1.0.6", "not an address and a port"),
        ("protocol UDP", "protocol TCP", "neither UDP nor SCTP"),
        ("group ipv4-group {\n    lb", "group other {\n    lb", "no such group"),
        (f"# Configuration for Member {FOUR.id}", "# nothing", "which member"),
    ],
)
def test_what_no_controller_writes_is_refused_with_its_line(old: str, new: str, words: str) -> None:
    text = LISTENER.text()
    assert old in text
    with pytest.raises(ValueError, match=rf"^line \d+: .*{words}"):
        parse(text.replace(old, new, 1), BASE)


def test_what_is_in_a_comment_does_nothing() -> None:
    text = LISTENER.text().replace("weight 0", "weight 0 ! notify_down /bin/sh")
    assert parse(text, BASE) == parse(LISTENER.text(), BASE)


@pytest.mark.parametrize("text", ["virtual_server 10.1.0.5 53 {\n", "}\n", "a {\n" * 9])
def test_braces_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"clos|too many"):
        parse(text, BASE)


def test_keepalived_knows_who_runs_scripts_before_it_is_told_of_any() -> None:
    configuration = LISTENER.text().encode()
    assert given(configuration).endswith(configuration)
    assert b"script_user root" in given(configuration).removesuffix(configuration)


def test_the_path_of_the_check_is_that_of_the_layout() -> None:
    layout = Layout.of(Settings(amphora_id="a"), run=Path("/run/x"), namespace="n")
    assert str(layout.udp_check) in LISTENER.text()


def test_keepalived_speaks_of_the_lines_of_the_controllers_text() -> None:
    text = given(b"one\ntwo\n").decode().splitlines()
    number = text.index("two") + 1
    assert renumbered(f"(x.conf: Line {number}) no") == "(x.conf: Line 2) no"
