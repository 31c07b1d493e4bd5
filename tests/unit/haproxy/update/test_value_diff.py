"""What the record says of a change of a configuration: each value, old and new, and no secret."""

import pytest

from amphora_agent.haproxy.config.diff import compare_configs
from amphora_agent.haproxy.update.value_diff import MOST, compare_values

TEXT = """\
global
    maxconn 1000
    log /dev/log local0

defaults
    timeout client 50000

frontend web
    maxconn 500
    option httplog
    bind 10.0.0.1:80
    acl shop path -m beg /shop
    http-request set-header X-Real-IP %[src]
    default_backend pool

backend pool
    balance roundrobin
    cookie SRV insert indirect nocache
    option httpchk GET /
    http-check send hdr Authorization "Basic YTpi"
    server web1 10.0.0.2:80 weight 1 check inter 5s cookie web1
    server web2 10.0.0.3:80 weight 1 check inter 5s cookie web2

userlist staff
    user anna password $5$abc
"""


def told(old: str, new: str, text: str = TEXT) -> list[str]:
    """What is told when a part of the text becomes another."""
    assert text.count(old) == 1
    return told_of(text, text.replace(old, new))


def told_of(before: str, after: str) -> list[str]:
    change = compare_configs({"haproxy.cfg": before}, {"haproxy.cfg": after})
    return [str(each) for each in compare_values(change, ["haproxy.cfg"])]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("client 50000", "client 51000", ["defaults: timeout client: 50000 -> 51000, line 6"]),
        ("client 50000", "client  50000 # as before", []),
        ("maxconn 1000", "maxconn 2000", ["global: maxconn: 1000 -> 2000, line 2"]),
        ("maxconn 500", "maxconn 600", ["listener web: maxconn: 500 -> 600, line 9"]),
        ("    option httplog\n", "", ["listener web: option httplog: there -> none"]),
        (
            "    option httplog\n",
            "    option httplog\n    option splice-auto\n",
            ["listener web: option splice-auto: none -> there, line 11"],
        ),
        ("beg /shop", "beg /sale", [
            "listener web: acl shop: path -m beg /shop -> path -m beg /sale, line 12"
        ]),
        ("_backend pool", "_backend other", [
            "listener web: default_backend: pool -> other, line 14"
        ]),
        ("roundrobin", "leastconn", ["pool pool: balance: roundrobin -> leastconn, line 17"]),
        (
            "web1 10.0.0.2:80 weight 1 ",
            "web1 10.0.0.9:80 weight 5 backup ",
            [
                "pool pool: member web1 address: 10.0.0.2:80 -> 10.0.0.9:80, line 21",
                "pool pool: member web1 weight: 1 -> 5, line 21",
                "pool pool: member web1 backup: none -> there, line 21",
            ],
        ),
        ("server web2", "server web3", [
            "pool pool: member web3: none -> 10.0.0.3:80, line 22",
            "pool pool: member web2: 10.0.0.3:80 -> none",
        ]),
        ("bind 10.0.0.1:80", "bind 10.0.0.1:80 ssl crt /a.pem", [
            "listener web: bind 10.0.0.1:80: there -> ssl crt /a.pem, line 11"
        ]),
        ("backend pool\n    balance", "backend more\n    mode tcp\n\nbackend pool\n    balance", [
            "pool more: none -> 3 lines, line 16"
        ]),
    ],
)  # fmt: skip
def test_op11_each_value_is_told_old_and_new(old: str, new: str, expected: list[str]) -> None:
    assert told(old, new) == expected


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("YTpi", "s3cret", "pool pool: http-check"),
        (
            "set-header X-Real-IP %[src]",
            "set-header X-Real-IP s3cret",
            "listener web: http-request",
        ),
        ("set-header X-Real-IP", "add-header s3cret", "listener web: http-request"),
        ("path -m beg /shop", "req.hdr(x-api-key) -m str s3cret", "listener web: acl shop"),
        ("path -m beg /shop", "req.cook(sid) -m str s3cret", "listener web: acl shop"),
        ("path -m beg /shop", "url_param(token) -m str s3cret", "listener web: acl shop"),
        (
            "cookie SRV insert",
            "cookie SRV insert dynamic\n    dynamic-cookie-key s3cret",
            "pool pool",
        ),
        ("$5$abc", "s3cret", "userlist staff"),
        ("password", "insecure-password s3cret", "userlist staff"),
        ("option httplog", "stats auth anna:s3cret", "listener web"),
        ("option httplog", 'stats "au"th anna:s3cret', "listener web"),
        ("option httplog", "http-request redirect location https://a:s3cret@b/", "listener web"),
        ("option httplog", "setenv A s3cret", "listener web"),
        ("cookie web1", "cookie s3cret", "pool pool: member web1 cookie"),
        (
            "option httpchk GET /",
            "option redis-check\n    tcp-check send AUTH\\ s3cret",
            "pool pool",
        ),
    ],
)
def test_op11_no_secret_is_told(old: str, new: str, where: str) -> None:
    lines = told(old, new)
    assert any(line.startswith(where) and "(secret)" in line for line in lines), lines
    backwards = told_of(TEXT.replace(old, new), TEXT)
    assert "s3cret" not in "".join(lines + backwards)
    for secret in ("YTpi", "$5$abc"):
        assert secret not in "".join(lines + backwards)


def test_op11_however_much_differs_little_is_told() -> None:
    many = "".join(f"    server s{n} 10.0.0.2:80 weight 1\n" for n in range(1000))
    text = f"backend pool\n{many}"
    lines = told_of(text, text.replace("weight 1", "weight 2"))
    assert len(lines) == MOST
    assert lines[0] == "pool pool: member s0 weight: 1 -> 2, line 2"


def test_only_what_the_controller_has_sent_is_told() -> None:
    change = compare_configs(
        {"agent.cfg": "global\n maxconn 1\n"}, {"agent.cfg": "global\n maxconn 2\n"}
    )
    assert compare_values(change, ["haproxy.cfg"]) == ()
    assert compare_values(None, ["haproxy.cfg"]) == ()
