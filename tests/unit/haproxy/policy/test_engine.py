"""What a configuration may contain: a row for each thing that is refused, and for what is not."""

import string
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from amphora_agent.haproxy.config.parser import SECTIONS, split_sections
from amphora_agent.haproxy.policy import table as table
from amphora_agent.haproxy.policy.engine import Violation, find_violations
from amphora_agent.haproxy.policy.values import Bounds
from lab.listeners import HealthMonitor, Peer, http_listener, loadbalancer, many_listeners

BASE = "/var/lib/octavia"
ID = "0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11"
CERTIFICATES = f"{BASE}/certs/{ID}"
SOCKET = f"{BASE}/{ID}.sock"

BOUNDS = Bounds(
    base=BASE,
    directory=f"{BASE}/{ID}",
    certificates=CERTIFICATES,
    stats_socket=SOCKET,
    state_file=f"{BASE}/{ID}/servers-state",
    pid_file=f"{BASE}/{ID}/{ID}.pid",
    ping_wrapper=f"{BASE}/ping-wrapper.sh",
    group="nogroup",
    agent_port=9443,
)


def found(text: str, bounds: Bounds = BOUNDS) -> list[Violation]:
    return find_violations(split_sections({"haproxy.cfg": text}), bounds)


def reason(section: str, line: str) -> str:
    """Why this line is refused in a section of this kind; empty when it is not."""
    said = found(f"{section}\n    {line}\n")
    assert all(violation.line == 2 for violation in said)
    return said[0].reason if said else ""


GLOBAL_ALLOWED = [
    "daemon",
    "user nobody",
    "group nogroup",
    "log /run/rsyslog/octavia/log local0",
    "log /dev/log local1 notice",
    "log 192.0.2.1:514 local0",
    "log udp@[2001:db8::1]:514 len 8192 local0",
    f"stats socket {SOCKET} mode 0666 level user",
    f"stats socket {SOCKET} level user",
    "stats timeout 5s",
    f"server-state-file {BASE}/{ID}/servers-state",
    f"pidfile {BASE}/{ID}/{ID}.pid",
    "maxconn 50000",
    "tune.ssl.cachesize 1000000",
    "tune.bufsize 32768",
    "nbthread 3",
    "cpu-map auto:1/1-3 1-3",
    "external-check",
    "insecure-fork-wanted",
    "no insecure-fork-wanted",
    "ssl-default-bind-options no-sslv3 prefer-client-ciphers",
    "set-var proc.a str(b)",
]

GLOBAL_REFUSED = [
    ("lua-load /tmp/x.lua", "runs code"),
    ("lua-load-per-thread /tmp/x.lua", "runs code"),
    ("no lua-load /tmp/x.lua", "runs code"),
    ("default lua-load /tmp/x.lua", "runs code"),
    ('"lua-load" /tmp/x.lua', "runs code"),
    ('lua"-"load /tmp/x.lua', "runs code"),
    (r"\x6cua-load /tmp/x.lua", "runs code"),
    ("'lua-load' /tmp/x.lua", "runs code"),
    ("lua-prepend-path /tmp/?.lua", "runs code"),
    ("ssl-engine rdrand", "runs code"),
    ("ssl-provider legacy", "runs code"),
    ("insecure-setuid-wanted", "runs code"),
    ("user root", "user root"),
    ("user 0", "user 0"),
    ("uid 0", "settled"),
    ("gid 0", "settled"),
    ("group root", "group root"),
    ("chroot /", "settled"),
    ("setcap cap_net_raw", "settled"),
    ("setenv A b", "environment"),
    ("presetenv A b", "environment"),
    ("unsetenv A", "environment"),
    ("resetenv", "environment"),
    ("external-check preserve-env", "environment"),
    ("stats socket /run/other.sock mode 0666 level user", SOCKET),
    (f"stats socket {SOCKET} mode 0666 level admin", "level user"),
    (f"stats socket {SOCKET} mode 0666 level operator", "level user"),
    (f"stats socket {SOCKET} mode 0666", "level user"),
    (f"stats socket {SOCKET} mode 0777 level user", "0777"),
    (f"stats socket {SOCKET} level user expose-fd listeners", "expose-fd"),
    (f"stats socket {SOCKET} level user level admin", "level user"),
    (f"stats socket {SOCKET} user root level user", "user root"),
    (f"stats socket unix@{SOCKET} level user", SOCKET),
    ("stats socket ipv4@127.0.0.1:9999 level user", SOCKET),
    ("stats socket fd@3 level user", SOCKET),
    ("stats bind-process all", SOCKET),
    ("server-state-file /etc/passwd", "servers-state"),
    ("server-state-base /etc", "files"),
    ("pidfile /tmp/x", ".pid"),
    ("log stdout format raw local0", "syslog"),
    ("log fd@2 local0", "network"),
    ("log ring@r local0", "network"),
    ("log /var/log/file local0", "network"),
    ("log unix@/run/other local0", "network"),
    ("log tcp.example.net:514 local0", "syslog"),
    ("ca-base /etc", "files"),
    ("crt-base /etc", "files"),
    ("default-path config", "files"),
    ("ssl-load-extra-files all", "files"),
    ("ssl-dh-param-file /etc/dh.pem", "not below"),
    ("h1-case-adjust-file /etc/passwd", "files"),
    ("tune.ssl.keylog on", "files"),
    ("localpeer x", "agent's to say"),
    ("master-worker", "agent's to say"),
    ("ulimit-n 100000", "agent's to say"),
    ("set-dumpable", "agent's to say"),
    ("no strict-limits", "agent's to say"),
    ("unix-bind prefix /tmp", "sockets"),
    ("tune.bufsize 100000000", "at most"),
    ("tune.bufsize 1g", "at most"),
    ("tune.bufsize " + "0" * 30 + "99999999", "at most"),
    ("tune.bufsize " + "9" * 5000, "at most"),
    ("nonsense", "does not know"),
    ("set-var proc.a env(PATH)", "environment"),
    ("set-var-fmt proc.a %[env(PATH)]", "environment"),
    ('description "${HOME}"', "environment variable"),
    ('maxconn "$N"', "environment variable"),
    ("no maxconn 5", "opposite"),
    (".notice hello", "what is written"),
]

PROXY_ALLOWED = [
    "mode http",
    "bind 192.0.2.1:80",
    "bind [2001:db8::1]:443,2001:db8::2:443 v6only",
    "bind 192.0.2.1:9443",
    "bind *:80",
    f"bind 192.0.2.1:443 ssl crt-list {CERTIFICATES}/l.pem ca-file {CERTIFICATES}/ca.pem"
    f" verify required crl-file {CERTIFICATES}/crl.pem ciphers A:B ciphersuites C:D no-sslv3"
    " no-tlsv10 alpn h2,http/1.1",
    f"bind 192.0.2.1:443 ssl crt {CERTIFICATES}/a.pem crt {CERTIFICATES}",
    f"bind 192.0.2.1:443 ssl crt {CERTIFICATES}/a.pem crt {CERTIFICATES}/",
    "server m 192.0.2.1:80 weight 1 check inter 5s fall 3 rise 3 addr 192.0.2.2 port 81",
    f"server m [2001:db8::1]:80 ssl crt {CERTIFICATES}/c.pem ca-file @system-ca sni ssl_fc_sni",
    "server m example.net:80 resolvers r init-addr none",
    "server m 192.0.2.1:80 cookie m send-proxy-v2-ssl-cn backup disabled",
    "server prometheus-internal 127.0.0.1:9102",
    "default-server inter 5s",
    "acl a req.hdr(host) -i -m str example.net",
    r"acl a path -m reg ^/map(s)?\\.env(x)$",
    "acl a path -m str %[env(PATH)]",
    r"acl a path -m str x\\\\x00",
    "acl a path -m beg -- -f /etc/passwd",
    "acl a path /x -f /etc/passwd",
    f"acl a src -f {BASE}/{ID}/allowed.acl",
    "acl a ssl_c_s_dn(CN) -m end x",
    'acl a path -m str "caf\xe9\u2028x"',
    "redirect code 301 location http://example.net/%20x if a",
    "redirect prefix https://example.net if !a b",
    "redirect scheme https if !{ ssl_fc }",
    "http-request deny if { path -m beg /x } or { src 192.0.2.0/24 }",
    "http-request set-header X-SSL %{+Q}[ssl_c_s_dn(cn)]",
    "http-request set-header X %[src,ipmask(24),lower]",
    "http-request use-service prometheus-exporter if { path /metrics }",
    f"http-request set-header X %[src,map_ip({BASE}/{ID}/hosts.map)]",
    "http-request return status 200 content-type text/plain string hello",
    "http-request track-sc0 src table t",
    'http-response set-header Strict-Transport-Security "max-age=1; includeSubDomains"',
    'http-response set-header X "a\\$b"',
    "http-response set-header X '$b'",
    r"option httpchk GET / HTTP/1.1\r\nHost:\ example.net",
    "option http-use-htx",
    "no option forwardfor",
    "no log",
    "log global",
    f"external-check command {BASE}/ping-wrapper.sh",
    f"errorfile 503 {BASE}/errors/503.http",
    "tcp-request inspect-delay 5s",
    "tcp-request content accept if { req.ssl_hello_type 1 }",
    "tcp-request connection reject if { src_conn_rate gt 5 }",
    "stick store-response res.cook(JSESSIONID)",
    "stick-table type ipv6 size 10k peers p",
    r"log-format a\ %{+Q}r\ %[ssl_c_verify]\ %Tt",
    "load-server-state-from-file global",
    "stats enable",
    "source 192.0.2.3",
    "filter compression",
    "use_backend b if a",
]

PROXY_REFUSED = [
    ("bind /run/x.sock", "network"),
    ("bind unix@/run/x.sock", "network"),
    ("bind abns@x", "network"),
    ("bind fd@3", "network"),
    ("bind rev@b/s", "network"),
    ("bind quic4@192.0.2.1:443", "network"),
    ("bind 192.0.2.1:80,/run/x.sock", "network"),
    ("bind 192.0.2.1:80 namespace other", "sockets"),
    ("bind 192.0.2.1:80 user root", "statistics socket"),
    ("bind 192.0.2.1:80 level admin", "statistics socket"),
    ("bind 192.0.2.1:80 transparent", "not for this amphora"),
    ("bind *:9443", "agent's own"),
    ("bind :9443", "agent's own"),
    ("bind :::9443 v4v6", "agent's own"),
    ("bind [::]:9443", "agent's own"),
    ("bind 0.0.0.0:9443", "agent's own"),
    ("bind ipv4@0.0.0.0:09443", "agent's own"),
    ("bind ::ffff:0.0.0.0:9443", "agent's own"),
    ("bind 0:9443", "agent's own"),
    ("bind 127.0.0.1:9443", "agent's own"),
    ("bind localhost:9443", "agent's own"),
    ("bind 192.0.2.1:80,*:9000-9999", "agent's own"),
    ("bind 192.0.2.1:443 ssl crt /etc/octavia/certs/server.pem", "not below"),
    (f"bind 192.0.2.1:443 ssl crt {CERTIFICATES}/../other/a.pem", "not below"),
    (f"bind 192.0.2.1:443 ssl crt {CERTIFICATES}//a.pem", "not below"),
    ("bind 192.0.2.1:443 ssl crt a.pem", "not below"),
    ("bind 192.0.2.1:443 ssl crt", "not below"),
    (f"bind 192.0.2.1:443 ssl crt-list {CERTIFICATES}", "not below"),
    ("bind 192.0.2.1:443 ssl ca-file /etc/shadow", "not below"),
    ("bind 192.0.2.1:443 nonsense", "does not know"),
    ("server m /run/x.sock", "network"),
    ("server m unix@/run/x.sock", "network"),
    ("server m abns@x", "network"),
    ("server m sockpair@3", "network"),
    ("server m 192.0.2.1:80 namespace x", "sockets"),
    ("server m 192.0.2.1:80 ssl crt /etc/octavia/certs/server.pem", "not below"),
    ("server m 192.0.2.1:80 ssl ca-file /etc/shadow", "not below"),
    ("server m 192.0.2.1:80 check addr /run/x.sock", "network"),
    ("server m 192.0.2.1:80 socks4 192.0.2.2:1080", "sockets"),
    ("server m 192.0.2.1:80 source 0.0.0.0 usesrc clientip", "sockets"),
    ("server m 192.0.2.1:80 sni env(PATH)", "environment"),
    ("source 0.0.0.0 usesrc clientip", "sockets"),
    ("default-server namespace x", "sockets"),
    ("acl a path -f /etc/passwd", "not below"),
    ("acl a path -i -m str -f /etc/passwd", "not below"),
    ("acl a path -M -f /etc/passwd", "not below"),
    (f"acl a path -f {BASE}/{ID}/../../../../etc/passwd", "not below"),
    ("acl a env(PATH) -m found", "environment"),
    ("acl a str(x),map_str(/etc/passwd) -m found", "not below"),
    ("acl a lua.x", "does not know"),
    ("acl a ssl_fc_session_key -m found", "keys"),
    ("http-request deny if { env(PATH) -m found }", "environment"),
    ("http-request deny if a { path -f /etc/passwd }", "not below"),
    ("http-request deny if !{ path -f /etc/passwd }", "not below"),
    ("http-request lua.x", "does not know"),
    ("http-request use-service lua.x", "does not know"),
    ("tcp-request content use-service lua.x", "does not know"),
    ("tcp-request content lua.x", "does not know"),
    ("http-request return status 200 content-type a file /etc/passwd", "file"),
    ("http-request return status 200 lf-file /etc/passwd", "file"),
    (f"http-request return status 200 file {CERTIFICATES}/key.pem", "file"),
    ("http-request deny errorfile /etc/passwd", "file"),
    ("http-error status 503 file /etc/passwd", "file"),
    ("errorfile 503 /etc/passwd", "file"),
    (f"errorfile 503 {BASE}/../x.http", "file"),
    (f"errorfile 503 {CERTIFICATES}/key.pem", "file"),
    ("http-request set-header X %[env(PATH)]", "environment"),
    ("http-request set-header X %{+Q}[env(PATH)]", "environment"),
    ("http-request set-header X '%[ env(PATH)]'", "environment"),
    ("http-request set-header X %[lua.x]", "does not know"),
    ("http-request set-header X %[src,map_ip(/etc/passwd)]", "not below"),
    ("http-request set-header X '%[src,map_ip(\"/etc/passwd\")]'", "not below"),
    (f"http-request set-var(txn.a) 'src,map_ip({BASE}/{ID}/\".\"./x)'", "not below"),
    ("http-request set-var(txn.a) env(PATH)", "environment"),
    ("http-request set-var(txn.a) req.hdr(a),jwt_verify(x,/etc/shadow)", "not below"),
    ("http-request add-acl(/etc/passwd) src", "not below"),
    ("http-request set-mark 1", "routing"),
    ("redirect location http://x/%[env(PATH)]", "environment"),
    (r"redirect location http://x/\r\nSet-Cookie:a=b", "control character"),
    (r"http-request redirect location http://x/\nx", "control character"),
    ("external-check command /bin/sh", "ping-wrapper"),
    ("external-check command", "ping-wrapper"),
    ("external-check path /tmp", "code"),
    ("option transparent", "not for this amphora"),
    ("option nonsense", "does not know"),
    ("filter spoe engine x config /etc/spoe", "code"),
    ("filter opentracing config x", "code"),
    ("filter trace", "sockets"),
    ("use-fcgi-app x", "sockets"),
    ("stats admin if TRUE", "does not know"),
    ("stats socket /run/x level admin", "does not know"),
    ("load-server-state-from-file local", "global"),
    ("http-check connect addr /run/x port 1", "network"),
    ("tcp-check nonsense", "does not know"),
    ("email-alert mailers m", "sockets"),
    ("log stderr format raw local0", "syslog"),
    ("no no option forwardfor", "opposite"),
    ("no lua-load /x", "code"),
    ("Mode http", "does not know"),
    ('"" lua-load /x', "does not know"),
    (r"use_backend a\x00b", "hides"),
    (r"acl a path x\\\\\x00", "hides"),
    ("use_backend %[env(PATH)]", "environment"),
    ('http-response set-header X "a$PATH"', "environment variable"),
    ('http-response set-header X "${PATH}"', "environment variable"),
    ("  .if defined(PATH)", "what is written"),
]


@pytest.mark.parametrize("line", GLOBAL_ALLOWED)
def test_allowed_for_the_process(line: str) -> None:
    assert reason("global", line) == ""


@pytest.mark.parametrize(("line", "why"), GLOBAL_REFUSED, ids=lambda word: word[:60])
def test_refused_for_the_process(line: str, why: str) -> None:
    assert why in reason("global", line)


@pytest.mark.parametrize("line", PROXY_ALLOWED)
def test_allowed_in_a_proxy(line: str) -> None:
    assert reason("frontend f", line) == ""


@pytest.mark.parametrize(("line", "why"), PROXY_REFUSED, ids=lambda word: word[:60])
def test_refused_in_a_proxy(line: str, why: str) -> None:
    assert why in reason("frontend f", line)


@pytest.mark.parametrize("kind", sorted(SECTIONS - table.SECTIONS.keys()))
def test_sections_that_are_refused(kind: str) -> None:
    (violation,) = found(f"global\n    daemon\n{kind} x\n    anything at all\n")
    assert violation == Violation("haproxy.cfg", 3, violation.reason)
    assert violation.reason.startswith(f"{kind} is not allowed: it ")


@pytest.mark.parametrize(
    "text",
    [
        "resolvers r\n    nameserver a udp@192.0.2.1:53\n    resolve_retries 3\n",
        "peers p\n    peer x 192.0.2.1:1025\n    peer y [2001:db8::1]:1025\n",
        "peers p\n    bind 192.0.2.1:1025\n    server x\n    table t type ip size 1m\n",
        "userlist u\n    user a insecure-password b\n",
        "cache c\n    total-max-size 64\n",
        f"http-errors e\n    errorfile 503 {BASE}/503.http\n",
        "# nothing\n\n\t\n",
        "global\r\n    daemon\r\n",
    ],
)
def test_other_sections(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "resolvers r\n    nameserver a /run/x\n",
        "peers p\n    peer x unix@/run/x\n",
        "peers p\n    bind /run/x\n",
        "cache c\n    total-max-size 4095\n",
        "http-errors e\n    errorfile 503 /etc/passwd\n",
        "\nlua-load /x\n",
        "#\n.if defined(A)\n",
        "global\n    daemon\r    lua-load /x\n",
        "global\n    daemon\0\n",
        "global\n    daemon\x0blua-load\n",
        "global\n    daemon\x0clua-load\n",
        "global\n    daemon\x1b[0m\n",
        "global\n    # a comment\rlua-load /x\n",
    ],
)
def test_refuses_what_other_sections_may_not_have(text: str) -> None:
    (violation,) = found(text)
    assert violation.line == 2


def test_the_words_for_a_person() -> None:
    (violation,) = found("global\n    daemon\n    lua-load /x.lua\n")
    assert violation == Violation(
        "haproxy.cfg", 3, "lua-load is not allowed: it runs code on the amphora"
    )


def test_sections_are_told_apart() -> None:
    """A line that is right in one section is not so in another."""
    text = "frontend f\n    mode http\nglobal\n    mode http\n    daemon\nbackend b\n    daemon\n"
    assert [violation.line for violation in found(text)] == [4, 7]


def test_tells_each_violation_with_its_line() -> None:
    text = "global\n    lua-load /x\n    daemon\n    lua-load /x\n"
    assert [violation.line for violation in found(text)] == [2, 4]


def test_so_many_and_no_more_are_told() -> None:
    assert len(found("global\n" + "    nonsense\n" * 10_000)) == 50


@pytest.mark.parametrize("character", ["x", "\x80", "\u2028", "\U0001f3fa"], ids=ascii)
def test_a_long_word_is_cut(character: str) -> None:
    assert len(reason("global", character * 100_000)) < 300


def test_reasons_have_no_control_characters() -> None:
    assert reason("global", r"nonsense\r\n\x1bx\xff caf\xe9").isprintable()


def test_another_port_of_the_agent() -> None:
    bounds = Bounds(**{**vars(BOUNDS), "agent_port": 80})
    assert found("frontend f\n    bind *:80\n", bounds)
    assert not found("frontend f\n    bind *:9443\n", bounds)


def test_only_what_is_given_is_looked_at() -> None:
    parts = split_sections({"a": "global\n    lua-load /x\n", "b": "frontend f\n    lua-load /x\n"})
    assert [tuple(v)[:2] for v in find_violations(parts[1:], BOUNDS)] == [("b", 2)]


def test_the_texts_of_the_lab_pass() -> None:
    ping = HealthMonitor("PING", program=f"{BASE}/ping-wrapper.sh")
    listeners = [
        *many_listeners(5, members=[("192.0.2.1", 80)], monitor=HealthMonitor("HTTP")),
        http_listener("ping", members=[("192.0.2.1", 80)], monitor=ping),
        http_listener("tls", kind="TERMINATED_HTTPS", crt_list=f"{CERTIFICATES}/l.pem", members=[]),
    ]
    peers = [Peer("a", "192.0.2.1"), Peer("b", "192.0.2.2")]
    assert found(loadbalancer(ID, vip="192.0.2.9", listeners=listeners, peers=peers)) == []


def test_the_table_refuses_nothing_that_it_has() -> None:
    """A reason for a keyword that is allowed would say what is not so."""
    allowed = set().union(*table.SECTIONS.values(), table.OPTIONS, table.ACTIONS, table.FETCHES)
    elsewhere = {"group", "load-server-state-from-file", "mode", "nbproc", "user"}
    assert allowed & table.REFUSED.keys() <= elsewhere
    assert not table.SECTIONS.keys() & table.REFUSED.keys()


# What tenants have put into fields that controllers render as they are

#: What would do harm as a line of its own, or as an option.
HARMFUL = ["lua-load /tmp/x.lua", "user root", "external-check command /bin/sh", "program x"]
LINE_BREAKS = ["\n", "\r", "\r\n", "\n\r", "\v", "\f", "\0", "\x1c", "\x1e"]
NO_LINE_BREAKS = ["\x85", "\u2028", "\u2029", r"\n", r"\r\n", r"\x0a", "%0a", "%0d%0a", "\\"]
QUOTES = ["", '"', "'", '\\"', '"\n"', "'\n'", "\\\n"]


def ciphers(value: str) -> str:
    return (
        "frontend f\n"
        f"    bind 192.0.2.1:443 ssl crt-list {CERTIFICATES}/l.pem ciphers {value}"
        " no-sslv3 alpn h2\n"
        "    mode http\n"
    )


def member_ciphers(value: str) -> str:
    return f"backend b\n    server m 192.0.2.1:443 ssl verify none ciphers {value} no-sslv3\n"


def redirect_url(value: str) -> str:
    return f"frontend f\n    redirect code 302 location {value} if rule\n    mode http\n"


def redirect_prefix(value: str) -> str:
    return f"frontend f\n    redirect prefix {value} if rule\n    mode http\n"


FIELDS = [ciphers, member_ciphers, redirect_url, redirect_prefix]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("harm", HARMFUL)
@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
@pytest.mark.parametrize("quote", QUOTES, ids=ascii)
def test_lines_within_a_field_are_refused(
    field: Callable[[str], str], harm: str, line_break: str, quote: str
) -> None:
    assert found(field(f"http://x{quote}{line_break}    {harm}{line_break}{quote}"))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("no_break", NO_LINE_BREAKS, ids=ascii)
def test_keeps_characters_in_a_field_that_end_no_line(
    field: Callable[[str], str], no_break: str
) -> None:
    """Either it is refused, or the line has as many words as before."""
    text = field(f"http://x{no_break}lua-load")
    parsed = split_sections({"haproxy.cfg": text})[0].section()
    plain = split_sections({"haproxy.cfg": field("http://x")})[0].section()
    if not found(text):
        assert [len(d.words) for d in parsed.directives] == [len(d.words) for d in plain.directives]


@pytest.mark.parametrize(
    "value",
    [
        "http://x/%[env(SECRET)]",
        "http://x/%{+Q}[env(SECRET)]",
        "http://x/'%[env(SECRET)]'",
        "http://x/%[src,map_ip(/etc/passwd)]",
        "http://x/%[lua.x]",
        "http://x/%[ssl_fc_session_key]",
        'http://x/"$SECRET"',
        'http://x/"${SECRET}"',
        r"http://x/\r\nSet-Cookie:\ a=b",
        r"http://x/\x0d\x0aSet-Cookie:a=b",
        "http://x if { env(SECRET) -m found } #",
        "http://x if { path -f /etc/passwd } #",
        "http://x if { lua.x } #",
    ],
)
@pytest.mark.parametrize("field", [redirect_url, redirect_prefix])
def test_formats_within_a_redirection(field: Callable[[str], str], value: str) -> None:
    assert found(field(value))


@pytest.mark.parametrize(
    "value",
    [
        "A crt /etc/octavia/certs/server.pem",
        "A namespace other",
        "A ca-file /etc/shadow",
        "A\\ crt\tcrt-list /etc/passwd",
        '"A$SECRET"',
        '"A" "crt" "/etc/octavia/certs/server.pem"',
        r"A\x0a",
    ],
)
@pytest.mark.parametrize("field", [ciphers, member_ciphers])
def test_options_within_ciphers(field: Callable[[str], str], value: str) -> None:
    assert found(field(value))


def test_paths_of_the_bounds_are_plain() -> None:
    """What the tests compare with is what a layout gives."""
    for path in (BOUNDS.base, BOUNDS.certificates, BOUNDS.stats_socket):
        assert str(PurePosixPath(path)) == path


@pytest.mark.parametrize("character", [*sorted(set(map(chr, range(32))) - set("\t\n\r")), "\x7f"])
def test_control_characters_are_refused_wherever_they_are(character: str) -> None:
    assert reason("global", f"daemon # {character}")


@pytest.mark.parametrize("character", [*string.punctuation, "\x80", "\xa0", "\u2028", "\udcff"])
def test_other_characters_are_let_through(character: str) -> None:
    assert reason("frontend f", f"acl a path x\\{character}y") == ""
