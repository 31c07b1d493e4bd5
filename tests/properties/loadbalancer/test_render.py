"""What is rendered is what the model says: read back word by word, for any load balancer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings

from amphora_agent.haproxy.config.parser import Section, parse_config, split_sections
from amphora_agent.haproxy.policy.engine import find_violations
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.model.loadbalancer import (
    METRICS_BACKEND,
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    Pool,
)
from amphora_agent.model.resolved import merge_pools
from lab import rendered
from tests.builders.bodies import (
    balancer,
    decoded,
    listener,
    member,
    monitor,
    policy,
    pool,
)
from tests.builders.loadbalancers import balancers
from tests.builders.places import BASE, CURRENT, PLACES

BOUNDS = Bounds(
    base=BASE,
    directory=f"{BASE}/lb",
    certificates=CURRENT,
    stats_socket=PLACES.stats_socket,
    state_file=PLACES.state_file,
    pid_file=f"{BASE}/lb/lb.pid",
    ping_wrapper=PLACES.ping_wrapper,
    group="nogroup",
    agent_port=9443,
)
Lines = set[tuple[str, ...]]

any_balancer = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def configuration(made: LoadBalancer) -> dict[str, str]:
    files = rendered.render(rendered.translate_whole(made), PLACES)
    return {name: text for name, text in sorted(files.items()) if name.endswith(".cfg")}


def sections(made: LoadBalancer, kind: str) -> dict[str, Section]:
    return {
        section.name: section
        for text in configuration(made).values()
        for section in parse_config(text).of_kind(kind)
    }


def lines(section: Section) -> Lines:
    return {directive.words for directive in section.directives}


def is_up(
    thing: LoadBalancer | Listener | Pool | Member | HealthMonitor | L7Policy | L7Rule,
) -> bool:
    return thing.admin_state_up is not False


def haproxys(made: LoadBalancer) -> list[Listener]:
    all_ = [each for each in made.listeners or () if each.protocol not in ("UDP", "SCTP")]
    return [each for each in all_ if is_up(each) and is_up(made)]


def at(address: IPv4Address | IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


# Listeners


@any_balancer
@given(balancers())
def test_active_listener_is_a_frontend(made: LoadBalancer) -> None:
    frontends = sections(made, "frontend")
    assert list(frontends) == sorted(frontends)
    assert set(frontends) == {each.listener_id for each in haproxys(made)}
    addresses = [made.vip_address, *(vip.ip_address for vip in made.additional_vips or ())]
    for wanted in haproxys(made):
        section = frontends[wanted.listener_id]
        bound = [directive.words for directive in section.all("bind")]
        expected = dict.fromkeys(at(address, wanted.protocol_port) for address in addresses)
        assert [words[1] for words in bound] == list(expected)
        assert {words[2:] for words in bound} == {tuple(bind_options(wanted))}
        assert lines(section) >= set(of_listener(wanted))
        hsts = section.first("http-response", "set-header", "Strict-Transport-Security")
        assert (hsts is not None) == (
            wanted.protocol == "TERMINATED_HTTPS" and wanted.hsts_max_age is not None
        )


def bind_options(wanted: Listener) -> Iterator[str]:
    if wanted.protocol not in ("TERMINATED_HTTPS", "PROMETHEUS"):
        return
    data, refs = wanted.default_tls_container_data, wanted.default_tls_container_ref
    if not (data or refs or wanted.sni_container_data or wanted.sni_container_refs):
        return
    name = wanted.listener_id
    yield from ("ssl", "crt-list", f"{CURRENT}/{name}.pem")
    verify = {"OPTIONAL": "optional", "MANDATORY": "required"}.get(
        wanted.client_authentication or ""
    )
    if verify:
        yield from ("ca-file", f"{CURRENT}/{name}.client-ca.pem", "verify", verify)
        if wanted.client_crl_container_ref or wanted.client_crl_container_data:
            yield from ("crl-file", f"{CURRENT}/{name}.client-crl.pem")
    yield from tls_options(wanted)


def tls_options(wanted: Listener | Pool) -> Iterator[str]:
    ciphers = wanted.tls_ciphers.split(":") if wanted.tls_ciphers else []
    older = [name for name in ciphers if not name.startswith("TLS_")]
    suites = [name for name in ciphers if name.startswith("TLS_")]
    if older:
        yield from ("ciphers", ":".join(older))
    if suites:
        yield from ("ciphersuites", ":".join(suites))
    options = {"SSLv3": "sslv3", "TLSv1": "tlsv10", "TLSv1.1": "tlsv11", "TLSv1.2": "tlsv12"}
    for version, option in {**options, "TLSv1.3": "tlsv13"}.items():
        if wanted.tls_versions and version not in wanted.tls_versions:
            yield f"no-{option}"
    if wanted.alpn_protocols:
        yield from ("alpn", ",".join(wanted.alpn_protocols))


def of_listener(wanted: Listener) -> Iterator[tuple[str, ...]]:
    limit = wanted.connection_limit or -1
    http = wanted.protocol in ("HTTP", "TERMINATED_HTTPS", "PROMETHEUS")
    yield ("mode", "http" if http else "tcp")
    yield ("maxconn", str(min(limit, 1_000_000)) if limit > 0 else "50000")
    yield ("timeout", "client", str(wanted.timeout_client_data or 50_000))
    if wanted.timeout_tcp_inspect:
        yield ("tcp-request", "inspect-delay", str(wanted.timeout_tcp_inspect))
    if wanted.allowed_cidrs:
        file = f"{CURRENT}/{wanted.listener_id}.cidrs"
        words = ("reject", "unless", "{", "src", "-f", file, "}")
        yield ("tcp-request", "connection", *words)


@any_balancer
@given(balancers())
def test_allowed_networks_are_in_a_file(made: LoadBalancer) -> None:
    files = rendered.render(rendered.translate_whole(made), PLACES)
    for wanted in haproxys(made):
        found = files.get(f"{wanted.listener_id}.cidrs")
        expected = [str(network) for network in wanted.allowed_cidrs or ()]
        assert (found.splitlines() if found else []) == expected


# Policies


FETCHES = {
    "COOKIE": "req.cook({})", "FILE_TYPE": "path", "HEADER": "req.hdr({})",
    "HOST_NAME": "req.fhdr(host),host_only,rtrim(.)", "PATH": "path",
    "SSL_CONN_HAS_CERT": "ssl_c_used",
    "SSL_DN_FIELD": "ssl_c_s_dn({})", "SSL_VERIFY_RESULT": "ssl_c_verify",
}  # fmt: skip
METHODS = {
    "CONTAINS": "sub", "ENDS_WITH": "end", "EQUAL_TO": "str", "REGEX": "reg", "STARTS_WITH": "beg",
}  # fmt: skip


@any_balancer
@given(balancers())
def test_active_rule_is_an_acl(made: LoadBalancer) -> None:
    frontends = sections(made, "frontend")
    for wanted in haproxys(made):
        found = [directive.words[1:] for directive in frontends[wanted.listener_id].all("acl")]
        expected = [
            (f"rule-{rule.l7rule_id}", fetch.format(rule.key), *pattern(rule, fetch))
            for a_policy in wanted.l7policies or ()
            if decides(a_policy, made)
            for rule in a_policy.rules or ()
            if is_up(rule)
            for fetch in fetches(rule)
        ]
        assert sorted(found) == sorted(expected)


def fetches(rule: L7Rule) -> Iterator[str]:
    """What a rule looks at; one match is enough."""
    regex = rule.compare_type == "REGEX"
    if rule.type == "HEADER" and (regex or rule.compare_type == "CONTAINS" or "," in rule.value):
        yield "req.fhdr({})"
        if not regex:
            return
    yield FETCHES[rule.type]
    if rule.type == "HOST_NAME" and ":" in rule.value.replace("(?:", ""):
        yield "req.fhdr(host)"


def pattern(rule: L7Rule, fetch: str) -> Iterator[str]:
    if rule.type == "HOST_NAME":
        yield "-i"
    if rule.type == "SSL_CONN_HAS_CERT":
        return
    if rule.type != "SSL_VERIFY_RESULT":
        ends = rule.type == "FILE_TYPE" and rule.compare_type == "EQUAL_TO"
        yield from ("-m", "end" if ends else METHODS[rule.compare_type])
    value = rule.value
    if rule.compare_type != "REGEX" and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if "host_only" in fetch and rule.compare_type in ("EQUAL_TO", "ENDS_WITH"):
        value = value.rstrip(".") or value
    yield from ("--", value)


def decides(a_policy: L7Policy, made: LoadBalancer) -> bool:
    target = a_policy.target_pool_id
    to_nowhere = target is not None and not is_up(merge_pools(made).pools[target])
    return is_up(a_policy) and any(map(is_up, a_policy.rules or ())) and not to_nowhere


@any_balancer
@given(balancers())
def test_policies_are_statements_in_the_order_of_their_effect(made: LoadBalancer) -> None:
    frontends = sections(made, "frontend")
    for wanted in haproxys(made):
        section = frontends[wanted.listener_id]
        effective = [each for each in wanted.l7policies or () if decides(each, made)]
        effective.sort(key=lambda each: each.position or 0)
        kinds = (("REJECT",), ("REDIRECT_PREFIX", "REDIRECT_TO_URL"), ("REDIRECT_TO_POOL",))
        in_order = [each for kind in kinds for each in effective if each.action in kind]
        found = [
            directive.words
            for directive in section.directives
            if directive.words[0] in ("redirect", "use_backend")
            or directive.words[:2] == ("http-request", "deny")
        ]
        assert len(found) == len(in_order)
        for words, a_policy in zip(found, in_order, strict=True):
            place = words.index("if", 2)
            assert words[place + 1 :] == tuple(
                f"{'!' if rule.invert else ''}rule-{rule.l7rule_id}"
                for rule in a_policy.rules or ()
                if is_up(rule)
            )
            match a_policy.action:
                case "REJECT":
                    assert words[:place] == ("http-request", "deny")
                case "REDIRECT_TO_POOL":
                    assert words[0] == "use_backend"
                    assert words[1].split(":")[0] == a_policy.redirect_pool_id
                case _:
                    how = "prefix" if a_policy.redirect_prefix else "location"
                    code = a_policy.redirect_http_code
                    expected = ("redirect", how, a_policy.redirect_url or a_policy.redirect_prefix)
                    assert words[:place] == expected + (("code", str(code)) if code else ())


# Pools


def used(made: LoadBalancer) -> Iterator[tuple[Listener, Pool]]:
    pools = merge_pools(made).pools
    for wanted in haproxys(made):
        policies = [each for each in wanted.l7policies or () if decides(each, made)]
        names = [wanted.target_pool_id, *(each.target_pool_id for each in policies)]
        for name in dict.fromkeys(name for name in names if name is not None):
            if is_up(pools[name]):
                yield wanted, pools[name]


@any_balancer
@given(balancers())
def test_used_pool_is_checked_by_one_backend(made: LoadBalancer) -> None:
    backends = sections(made, "backend")
    backends.pop(METRICS_BACKEND, None)
    pools = {a_pool.pool_id: a_pool for _, a_pool in used(made)}
    assert {name.split(":")[0] for name in backends} == set(pools) <= set(backends)
    for name, section in backends.items():
        a_pool = pools[name.split(":")[0]]
        servers = [directive.words for directive in section.all("server")]
        members = a_pool.members or ()
        assert [words[1:5] for words in servers] == [
            (
                each.member_id,
                at(each.address, each.protocol_port),
                "weight",
                str(1 if each.weight is None else each.weight),
            )
            for each in members
        ]
        for words, a_member in zip(servers, members, strict=True):
            assert ("backup" in words[5:]) == bool(a_member.backup)
            assert ("disabled" in words[5:]) == (not is_up(a_member))
            assert set(itertools.pairwise(words)) >= set(of_member(name, a_pool, a_member))
            tls = " ".join(words).partition(" ssl sni ssl_fc_sni")[2].split()
            assert tls == list(server_tls(a_pool))
            checked = a_pool.healthmonitor is not None and is_up(a_pool.healthmonitor)
            assert ("check" in words[5:]) == (checked and ":" not in name)
        assert lines(section) >= set(of_pool(name, a_pool))


def of_member(name: str, a_pool: Pool, a_member: Member) -> Iterator[tuple[str, str]]:
    checks = a_pool.healthmonitor
    if not checks or not is_up(checks):
        return
    if ":" in name:
        yield ("track", f"{a_pool.pool_id}/{a_member.member_id}")
        return
    yield ("inter", f"{checks.delay}s")
    yield ("fall", str(checks.max_retries_down or 3))
    yield ("rise", str(checks.max_retries))
    if a_member.monitor_address:
        yield ("addr", at(a_member.monitor_address, 0).removesuffix(":0"))
    if a_member.monitor_port:
        yield ("port", str(a_member.monitor_port))


def server_tls(a_pool: Pool) -> Iterator[str]:
    if not a_pool.tls_enabled:
        return
    file = f"{CURRENT}/{a_pool.pool_id}"
    if a_pool.tls_container_data or a_pool.tls_container_ref:
        yield from ("crt", f"{file}.client.pem")
    if a_pool.ca_tls_container_data or a_pool.ca_tls_container_ref:
        yield from ("ca-file", f"{file}.ca.pem", "verify", "required")
        if a_pool.crl_container_data or a_pool.crl_container_ref:
            yield from ("crl-file", f"{file}.crl.pem")
    else:
        yield from ("verify", "none")
    yield from tls_options(a_pool)


def of_pool(name: str, a_pool: Pool) -> Iterator[tuple[str, ...]]:
    balance = {
        "LEAST_CONNECTIONS": ("leastconn",),
        "ROUND_ROBIN": ("roundrobin",),
        "SOURCE_IP": ("source",),
        "SOURCE_IP_PORT": ("hash", "src,concat(:,sess.source_port)"),
    }
    yield ("balance", *balance[a_pool.lb_algorithm])
    kept = a_pool.session_persistence
    if kept and kept.type == "SOURCE_IP":
        yield ("stick", "on", "src")
    if kept and kept.type == "APP_COOKIE" and a_pool.protocol == "HTTP":
        yield ("stick", "match", f"req.cook({kept.cookie_name})")
    if kept and kept.type == "HTTP_COOKIE" and a_pool.protocol == "HTTP":
        yield ("cookie", "SRV", "insert", "indirect", "nocache")
    checks = a_pool.healthmonitor
    if not checks or not is_up(checks) or ":" in name:
        return
    yield ("timeout", "check", f"{checks.timeout}s")
    if checks.type == "PING":
        yield ("external-check", "command", PLACES.ping_wrapper)
    if checks.type in ("HTTP", "HTTPS"):
        words = ("meth", checks.http_method or "GET", "uri", checks.url_path or "/")
        host = ("hdr", "Host", checks.domain_name) if checks.domain_name else ()
        version = f"HTTP/{checks.http_version or 1.0:.1f}"
        yield ("http-check", "send", *words, "ver", version, *host)
        yield ("http-check", "expect", "status", checks.expected_codes or "200")


@any_balancer
@given(balancers())
def test_listener_finds_its_pools_as_it_needs_them(made: LoadBalancer) -> None:
    frontends, backends = sections(made, "frontend"), sections(made, "backend")
    for wanted, a_pool in used(made):
        targets = [
            directive.words[1]
            for directive in frontends[wanted.listener_id].directives
            if directive.words[0] in ("default_backend", "use_backend")
            and directive.words[1].split(":")[0] == a_pool.pool_id
        ]
        (target,) = set(targets)
        section = backends[target]
        by_proxy = a_pool.protocol.startswith("PROXY")
        http_listener = wanted.protocol in ("HTTP", "TERMINATED_HTTPS")
        http = http_listener if by_proxy else a_pool.protocol == "HTTP"
        connect, data = wanted.timeout_member_connect, wanted.timeout_member_data
        assert lines(section) >= {
            ("mode", "http" if http else "tcp"),
            ("timeout", "connect", str(connect or 5_000)),
            ("timeout", "server", str(data or 50_000)),
        }
        headers = {
            name.value
            for name, value in (wanted.insert_headers or {}).items()
            if value in (True, "true", "True")
        }
        found = {words[2] for words in lines(section) if words[1:2] == ("set-header",)}
        found |= {"X-Forwarded-For"} if section.first("option", "forwardfor") else set()
        assert found == headers
        proxy = {"PROXY": "send-proxy", "PROXYV2": "send-proxy-v2"}.get(a_pool.protocol)
        if proxy == "send-proxy-v2" and wanted.protocol == "TERMINATED_HTTPS":
            proxy += "-ssl-cn"
        for directive in section.all("server"):
            sent = [word for word in directive.words[5:] if word.startswith("send-proxy")]
            assert sent == ([proxy] if proxy else [])


# The whole


@any_balancer
@given(balancers())
def test_allow_list_accepts_rendered_files(made: LoadBalancer) -> None:
    assert find_violations(split_sections(configuration(made)), BOUNDS) == []


@any_balancer
@given(balancers())
def test_processes_of_single_listeners_have_the_same_frontends(made: LoadBalancer) -> None:
    together = {frontend.id for frontend in rendered.translate_whole(made).frontends}
    apart = [
        frontend.id for process in rendered.translate_each(made) for frontend in process.frontends
    ]
    assert sorted(apart) == sorted(together)


@pytest.mark.parametrize(
    ("other", "backends"),
    [
        ({}, ["pool"]),
        ({"timeout_client_data": 1}, ["pool"]),
        ({"timeout_member_data": 1}, ["pool", "pool:two"]),
        ({"insert_headers": {"X-Forwarded-For": "true"}}, ["pool", "pool:two"]),
        ({"insert_headers": {"X-Forwarded-For": "false"}}, ["pool"]),
    ],
)
def test_listeners_share_a_backend_unless_they_use_it_differently(
    other: dict[str, object], backends: list[str]
) -> None:
    one = listener("HTTP", "one", default_pool_id="pool")
    two = listener("HTTP", "two", protocol_port=81, default_pool_id="pool") | other
    shared = pool(members=[member()], healthmonitor=monitor())
    made = decoded(balancer(one, two, pools=(shared,)))
    assert [backend.id for backend in rendered.translate_whole(made).backends] == backends


def test_ten_listeners_and_their_policies_have_one_backend() -> None:
    listeners = [
        listener(
            "HTTP",
            f"l{number}",
            protocol_port=80 + number,
            default_pool_id="pool",
            l7policies=[policy("REDIRECT_TO_POOL", name=f"p{number}", redirect_pool_id="pool")],
        )
        for number in range(10)
    ]
    made = decoded(balancer(*listeners, pools=(pool(members=[member()]),)))
    assert [backend.id for backend in rendered.translate_whole(made).backends] == ["pool"]


def test_metrics_are_asked_of_the_agent() -> None:
    made = decoded(balancer(listener("PROMETHEUS")))
    (server,) = sections(made, "backend")[METRICS_BACKEND].all("server")
    assert server.words[2] == "127.0.0.1:9102"
    assert rendered.translate_whole(made).serves_metrics


def test_file_depends_on_nothing_but_its_object() -> None:
    """Who adds a listener has one more file, and all others as they were."""
    pools = (pool(members=[member()], healthmonitor=monitor()),)
    one = listener("HTTP", "one", default_pool_id="pool")
    two = listener("HTTP", "two", protocol_port=81, default_pool_id="pool")
    before = configuration(decoded(balancer(one, pools=pools)))
    after = configuration(decoded(balancer(one, two, pools=pools)))
    assert after.keys() - before.keys() == {"listener-two.cfg"}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["haproxy.cfg"]  # its maxconn
