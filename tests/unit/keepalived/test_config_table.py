"""What may be in keepalived's texts, and how it is written anew."""

import pytest

from amphora_agent.keepalived.config import forms, table
from amphora_agent.keepalived.config.forms import Form
from amphora_agent.keepalived.config.language import (
    LONGEST_LINE,
    ConfigError,
    Statement,
    parse,
    render,
)
from amphora_agent.keepalived.config.table import require_allowed
from amphora_agent.keepalived.program import find_complaints, renumber

CHECK = "/var/lib/octavia/vrrp/check_script.sh"
INSTANCE = "vrrp_instance x {\n interface a\n virtual_router_id 1\n}"
UDP_CHECK = "/var/lib/octavia/lvs/check/udp_check.sh"


@pytest.mark.parametrize(
    ("form", "word", "given"),
    [
        (forms.address, "2001:0DB8:0::1", "2001:db8::1"),
        (forms.prefixed_address, "10.1.0.5", "10.1.0.5"),
        (forms.prefixed_address, "10.1.0.5/24", "10.1.0.5/24"),
        (forms.network, "10.1.0.5/24", "10.1.0.0/24"),
        (forms.network, "10.1.0.5", "10.1.0.5/32"),
        (forms.number(1, 255), "007", "7"),
        (forms.nearest(1, 4294), "0", "1"),
        (forms.nearest(1, 4294), "2147483647", "4294"),
        (forms.granularity, "255.255.255.0", "255.255.255.0"),
        (forms.granularity, "128", "128"),
        (forms.protocol, "udp", "UDP"),
        (forms.url, "/a?b=c&d=$e;f{g}", "/a?b=c&d=$e;f{g}"),
        (forms.statuses, "200-202", "200-202"),
        (forms.host, "www.example.com:8080", "www.example.com:8080"),
        (forms.password, "a1!#{}|~", "a1!#{}|~"),
        (forms.program(CHECK), CHECK, CHECK),
        (forms.member_check(UDP_CHECK), f"{UDP_CHECK}  10.2.0.1\t53", f"{UDP_CHECK} 10.2.0.1 53"),
        (
            forms.member_check(UDP_CHECK),
            "amphora-health-checker sctp -t 03 2001:DB8::1 53",
            "amphora-health-checker sctp -t 3 2001:db8::1 53",
        ),
    ],
)  # fmt: skip
def test_a_value_is_given_in_its_form(form: Form, word: str, given: str) -> None:
    assert form(word) == given


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (forms.address, ["", "10.1.0.555", "fe80::1%eth0", "10.1.0.5/24", "host", "10.1.0.5 "]),
        (forms.network, ["10.1.0.0/255.255.255.0", "10.1.0.0/33", "fe80::%1/64", "/24"]),
        (forms.prefixed_address, ["10.1.0.0/0.0.0.255", "x/1"]),
        (forms.interface, ["", "a/b", "a b", "x" * 16, ".", "-x", "eth1;", "\u0660"]),
        (forms.name, ["", "$A", "@a", "~a", "a{", "include x", "\xe9"]),
        (forms.number(1, 9), ["", "0", "10", "+1", "1 ", "0x1", "\u0661", "-1", "1_0"]),
        (forms.nearest(1, 9), ["", "-1", "1.5", "\u0661"]),
        (forms.granularity, ["0", "129", "255.255.255.0/24", "x"]),
        (forms.url, ["", "x", "$X", "/$_PWD", "/${X}", "/a b", '/"', "/\\", "/\n", "/\x7f"]),
        (forms.password, ["", "a b", 'a"b', "a$b", "a\\b", "\xe9"]),
        (forms.statuses, ["99", "600", "202-200", "200-", "2000"]),
        (forms.host, ["", "a b", "a/b", "$X", "a:b"]),
        (forms.program(CHECK), ["", "/bin/sh", f"{CHECK} x", f"{CHECK}x", CHECK[1:]]),
        (
            forms.member_check(UDP_CHECK),
            [
                *("", "/bin/sh -c id", UDP_CHECK, f"{UDP_CHECK} 10.2.0.1 53 x"),
                *(f"{UDP_CHECK} 10.2.0.1 $(id)", f"{UDP_CHECK} host 53", f"/tmp{UDP_CHECK} ::1 5"),
                "amphora-health-checker tcp -t 1 ::1 53",
                "/tmp/amphora-health-checker sctp -t 1 ::1 53",
                "amphora-health-checker sctp -t x ::1 53",
                "amphora-health-checker sctp -x 1 ::1 53",
            ],
        ),
    ],
)
def test_a_value_of_another_form_is_refused(form: Form, words: list[str]) -> None:
    for word in words:
        with pytest.raises(ValueError, match=r"expected|not allowed|can only be"):
            form(word)


def read(text: str) -> tuple[Statement, ...]:
    known = {**table.vrrp(CHECK), **table.lvs(UDP_CHECK)}
    return require_allowed(parse(text.encode()), known)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("global_defs {\n}", "line 1: global_defs is not allowed here"),
        ("vrrp_instance x {\n priority 1\n priority 2\n}", "line 3: priority stands here twice"),
        ("vrrp_instance x {\n priority\n}", "line 2: priority: it takes one value, not 0"),
        ("vrrp_instance x {\n priority 1 2\n}", "line 2: priority: it takes one value, not 2"),
        ("vrrp_instance x {\n priority 1 {\n}\n}", "line 2: priority has no braces"),
        ("vrrp_instance x\n", "line 1: vrrp_instance must have braces"),
        (
            "vrrp_instance x {\n virtual_router_id 1\n}",
            "line 1: vrrp_instance: interface is missing",
        ),
        ("vrrp_instance x {\n interface a\n}", "vrrp_instance: virtual_router_id is missing"),
        ("vrrp_script a {\n interval 1\n}", "line 1: vrrp_script: script is missing"),
        (f"{INSTANCE}\n{INSTANCE}", "line 5: vrrp_instance x stands here twice"),
        ("vrrp_instance x {\n authentication {\n auth_type PASS\n}\n}", "auth_pass is missing"),
        ("vrrp_instance x {\n virtual_ipaddress {\n 1.1.1.1 {\n}\n}\n}", "line 3: a brace"),
        ("vrrp_instance x {\n script /bin/sh\n}", "line 2: script is not allowed here"),
        ('vrrp_instance x {\n "" y\n}', "line 2:  is not allowed here"),
        ("vrrp_instance x {\n virtual_routes {\n}\n virtual_routes {\n}\n}", "line 4: virtual_ro"),
        ("vrrp_instance x {\n virtual_routes {\n default mtu 5\n}\n}", "mtu is not allowed here"),
        ("vrrp_instance x {\n virtual_routes {\n default via\n}\n}", "via: a value is missing"),
        ("vrrp_instance x {\n virtual_routes {\n default onlink onlink\n}\n}", "onlink is not"),
        ("vrrp_instance x {\n virtual_rules {\n from\n}\n}", "a value is missing"),
        ("vrrp_instance x {\n virtual_rules {\n to 1.1.1.1 goto 5\n}\n}", "goto is not allowed"),
        ("vrrp_instance x {\n track_script {\n check weight 5\n}\n}", "it takes one value"),
    ],
)
def test_refuses_with_its_line_whatever_is_not_in_the_table(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert reason in str(refused.value)


def test_no_password_is_in_a_refusal() -> None:
    with pytest.raises(ConfigError) as refused:
        read('vrrp_instance x {\n authentication {\n auth_pass "s$cret"\n}\n}')
    assert "cret" not in str(refused.value)


def test_a_text_is_written_anew_with_the_lines_that_it_came_from() -> None:
    given = render(read(f'vrrp_script x{{script "{CHECK}"\ninterval 0 # c\n}}'))
    lines = given.text.decode().splitlines()
    own = len(lines) - 4
    assert lines[own:] == ["vrrp_script x {", f"    script {CHECK}", "    interval 1", "}"]
    assert given.lines == (*(0,) * own, 1, 1, 2, 1)
    assert "    router_id amphora" in lines[:own]


@pytest.mark.parametrize(
    ("value", "written"),
    [("/a{b}", '"/a{b}"'), ("/a#b!c", '"/a#b!c"'), ("a b", '"a b"'), ("/$a", '"/$a"'), ("", '""')],
)
def test_values_are_quoted(value: str, written: str) -> None:
    text = render([Statement(1, "path", (value,))]).text.decode()
    assert text.endswith(f"\npath {written}\n")


@pytest.mark.parametrize(
    "value", ["{", "}", 'a"b', "a\\b", "a\nb", "a\tb", "a\0", "$_PWD", "${A}", "\x7f"]
)
def test_refuses_to_write_values_that_quotes_cannot_hold(value: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        render([Statement(3, "path", (value,))])


@pytest.mark.parametrize("keyword", ["@a", "$a", "~a", "a b", "a{", "1", "a\n"])
def test_no_other_keyword_can_be_written(keyword: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        render([Statement(3, keyword, ())])


def test_a_line_that_the_indentation_makes_too_long_is_refused() -> None:
    value = "/" + "a" * (LONGEST_LINE - len("path /"))
    known = {"path": table.Keyword(table.words(forms.url))}
    assert require_allowed(parse(f"path {value}".encode()), known)
    inner = Statement(7, "path", (value,))
    with pytest.raises(ConfigError, match="line 7: the line is longer"):
        render([Statement(1, "url", (), (inner,))])


def test_complaints_are_told_from_advice() -> None:
    output = """\
(/v/k.conf: Line 12) Unknown keyword 'nopreemptx'
(/v/k.conf: Line 12) Unknown keyword 'nopreemptx'
(/v/k.conf: Line 9) WARNING - interface eth7 for vrrp_instance x doesn't exist
(/v/k.conf: Line 19) Truncating auth_pass to 8 characters
There are 2 missing '}'s or extra '{'s
(x) Warning - nopreempt will not work with initial state MASTER - clearing
(x) A unicast keyword has been specified without any unicast peers. Defaulting to multicast.
Non-existent interface specified in configuration
Disabling track script check_script since not found/accessible
"""
    lines = (0, 0, 0, 0, *range(1, 16))
    assert find_complaints(output, lines) == [
        "(/v/k.conf: Line 8) Unknown keyword 'nopreemptx'",  # in the controller's own text
        "There are 2 missing '}'s or extra '{'s",
        "Non-existent interface specified in configuration",
        "Disabling track script check_script since not found/accessible",
    ]
    assert find_complaints("", ()) == []
    assert renumber("(k.conf: Line 99) no", lines) == "(k.conf: Line 99) no"
