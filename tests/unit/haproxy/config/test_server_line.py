"""`server` lines: what is fully understood, and what is doubtful."""

import re

import pytest

from amphora_agent.haproxy.config.parser import split_words
from amphora_agent.haproxy.config.server_line import Doubtful, ServerLine, is_name, parse_server

MEMBER = "4e8f7a9c-0a0b-4b1c-9d0e-aaaaaaaaaaaa"

UNDERSTOOD = {
    "server a 10.0.0.1:80": ServerLine("a", "10.0.0.1", 80),
    f"server {MEMBER} 10.0.0.1:80": ServerLine(MEMBER, "10.0.0.1", 80),
    "server a:b.c_d 10.0.0.1:65535": ServerLine("a:b.c_d", "10.0.0.1", 65535),
    "server a fd00::1:80": ServerLine("a", "fd00::1", 80),
    "server a [fd00::1]:80": ServerLine("a", "fd00::1", 80),
    "server a FD00:0:0:0:0:0:0:1:80": ServerLine("a", "fd00::1", 80),
    "server a 10.0.0.1:80 weight 0": ServerLine("a", "10.0.0.1", 80, weight=0),
    "server a 10.0.0.1:80 weight 256": ServerLine("a", "10.0.0.1", 80, weight=256),
    "server a 10.0.0.1:80 backup disabled": ServerLine(
        "a", "10.0.0.1", 80, backup=True, disabled=True
    ),
    "server a 10.0.0.1:80 cookie a-b": ServerLine("a", "10.0.0.1", 80, cookie="a-b"),
    "server a 10.0.0.1:80 check inter 5s fall 3 rise 2": ServerLine(
        "a", "10.0.0.1", 80, check=True, options=(("fall", "3"), ("inter", "5s"), ("rise", "2"))
    ),
    "server a 10.0.0.1:80 rise 2 inter 5s check fall 3": ServerLine(
        "a", "10.0.0.1", 80, check=True, options=(("fall", "3"), ("inter", "5s"), ("rise", "2"))
    ),
    "server a 10.0.0.1:80 check addr 10.0.0.9 port 8080": ServerLine(
        "a", "10.0.0.1", 80, check=True, options=(("addr", "10.0.0.9"), ("port", "8080"))
    ),
    "server a 10.0.0.1:80 send-proxy-v2-ssl-cn": ServerLine(
        "a", "10.0.0.1", 80, options=(("send-proxy-v2-ssl-cn", ""),)
    ),
    "server a 10.0.0.1:443 ssl verify none sni ssl_fc_sni": ServerLine(
        "a", "10.0.0.1", 443, options=(("sni", "ssl_fc_sni"), ("ssl", ""), ("verify", "none"))
    ),
    "server a 10.0.0.1:443 ssl ca-file /c/ca.pem": ServerLine(
        "a", "10.0.0.1", 443, options=(("ca-file", "/c/ca.pem"), ("ssl", ""))
    ),
}


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_understood(line: str) -> None:
    assert parse_server(split_words(line)) == UNDERSTOOD[line]


DOUBTFUL = {
    "server": "no whole server line",
    "server a": "no whole server line",
    "bind a 10.0.0.1:80": "no whole server line",
    "server a 10.0.0.1": "address",
    "server a 10.0.0.1:0": "address",
    "server a 10.0.0.1:65536": "address",
    "server a 10.0.0.1:080": "address",
    "server a 10.0.0.1:-80": "address",
    "server a 10.0.0.1:+80": "address",
    "server a 10.0.0.1:80-90": "address",
    "server a 10.0.0.1:": "address",
    "server a :80": "address",
    "server a *:80": "address",
    "server a 0.0.0.0:80": "address",
    "server a [::]:80": "address",
    "server a 224.0.0.1:80": "address",
    "server a ff02::1:80": "address",
    "server a fe80::1%eth0:80": "address",
    "server a ::ffff:10.0.0.1:80": "address",
    "server a 010.0.0.1:80": "address",
    "server a 10.1:80": "address",
    "server a localhost:80": "address",
    "server a ipv4@10.0.0.1:80": "address",
    "server a /run/socket": "address",
    "server a unix@/run/socket:80": "address",
    "server a fd@3:80": "address",
    "server a [10.0.0.1:80": "address",
    "server a/b 10.0.0.1:80": "name",
    "server #1 10.0.0.1:80": "no whole server line",
    "server a;b 10.0.0.1:80": "name",
    "server a\u00e9 10.0.0.1:80": "name",
    f"server {'a' * 129} 10.0.0.1:80": "name",
    "server a 10.0.0.1:80 weight": "weight",
    "server a 10.0.0.1:80 weight -1": "weight",
    "server a 10.0.0.1:80 weight 257": "weight",
    "server a 10.0.0.1:80 weight 1000": "weight",
    "server a 10.0.0.1:80 weight 5%": "weight",
    "server a 10.0.0.1:80 weight \u0661": "weight",
    "server a 10.0.0.1:80 weight 1 weight 2": "twice",
    "server a 10.0.0.1:80 check check": "twice",
    "server a 10.0.0.1:80 rise 0": "rise",
    "server a 10.0.0.1:80 fall many": "fall",
    "server a 10.0.0.1:80 inter 0": "inter",
    "server a 10.0.0.1:80 inter 5d": "inter",
    "server a 10.0.0.1:80 inter 99999999999": "inter",
    "server a 10.0.0.1:80 port 65536": "port",
    "server a 10.0.0.1:80 addr example.org": "addr",
    "server a 10.0.0.1:80 addr fd00::1": "addr",
    "server a 10.0.0.1:80 addr 0.0.0.0": "address",
    "server a 10.0.0.1:80 cookie a;b": "cookie",
    "server a 10.0.0.1:80 cookie": "cookie",
    "server a 10.0.0.1:80 ssl": "without authorities",
    "server a 10.0.0.1:80 ssl verify required": "without authorities",
    "server a 10.0.0.1:80 check check-ssl": "without authorities",
    "server a 10.0.0.1:80 verify maybe": "verify",
    "server a 10.0.0.1:80 ssl verify none sni str(a)": "sni",
    "server a 10.0.0.1:80 ssl verify none crt relative.pem": "crt",
    "server a 10.0.0.1:80 ssl verify none crt /a;b": "crt",
    "server a 10.0.0.1:80 alpn ,": "alpn",
    "server a 10.0.0.1:80 agent-check": "agent-check",
    "server a 10.0.0.1:80 enabled": "enabled",
    "server a 10.0.0.1:80 id 5": "id",
    "server a 10.0.0.1:80 init-addr none": "init-addr",
    "server a 10.0.0.1:80 maxconn 5": "maxconn",
    "server a 10.0.0.1:80 minconn 5": "minconn",
    "server a 10.0.0.1:80 namespace x": "namespace",
    "server a 10.0.0.1:80 non-stick": "non-stick",
    "server a 10.0.0.1:80 observe layer7": "observe",
    "server a 10.0.0.1:80 on-marked-down shutdown-sessions": "on-marked-down",
    "server a 10.0.0.1:80 proto h2": "proto",
    "server a 10.0.0.1:80 redir http://x": "redir",
    "server a 10.0.0.1:80 resolvers dns": "resolvers",
    "server a 10.0.0.1:80 slowstart 5s": "slowstart",
    "server a 10.0.0.1:80 source 10.0.0.9": "source",
    "server a 10.0.0.1:80 track p/b": "track",
    "server a 10.0.0.1:80 CHECK": "CHECK",
}


@pytest.mark.parametrize("line", DOUBTFUL)
def test_doubtful(line: str) -> None:
    with pytest.raises(Doubtful, match=re.escape(DOUBTFUL[line])):
        parse_server(split_words(line))


def test_shortens_the_reason_for_a_doubtful_line() -> None:
    for line in ("server {} 10.0.0.1:80", "server a {}", "server a 10.0.0.1:80 {}"):
        with pytest.raises(Doubtful) as doubt:
            parse_server(split_words(line.format("x" * 100_000)))
        assert len(str(doubt.value)) < 200


def test_arguments_of_add_server_describe_the_member() -> None:
    line = "server a [fd00::1]:80 check inter 5s ssl verify none cookie c backup weight 3 disabled"
    member = parse_server(split_words(line))
    assert member.endpoint == "[fd00::1]:80"
    assert member.arguments == "check inter 5s ssl verify none cookie c backup"
    again = f"server a {member.endpoint} {member.arguments} weight 3 disabled"
    assert parse_server(split_words(again)) == member


def test_names_options_that_another_member_must_prove() -> None:
    line = "server a 10.0.0.1:80 check inter 5s ssl verify required ca-file /c/ca.pem no-sslv3"
    assert parse_server(split_words(line)).unproven == {("ca-file", "/c/ca.pem"), ("no-sslv3", "")}
    assert not parse_server(
        split_words("server a 10.0.0.1:80 check inter 5s ssl verify none")
    ).unproven


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a;b", "a\n", "\n", "a'", 'a"', "a\\", "a$"])
def test_no_name(name: str) -> None:
    assert not is_name(name)
