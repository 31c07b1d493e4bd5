"""Whole load balancers by chance, as bodies of API 2.0: all that can be said, in any combination
that means something."""

from __future__ import annotations

import itertools
import string
from typing import Any

from hypothesis import strategies as st

from amphora_agent.model.decode import Problem
from amphora_agent.model.loadbalancer import (
    Algorithm,
    AlpnProtocol,
    CompareType,
    HttpMethod,
    InsertHeader,
    ListenerProtocol,
    LoadBalancer,
    MonitorType,
    PoolProtocol,
    RuleType,
    TlsVersion,
)
from amphora_agent.model.validation import POOLS_OF, find_problems
from tests.builders.bodies import Body, decoded, listener, policy, rule

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"

_TLS13 = ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")
_CIPHERS = ("ECDHE-RSA-AES256-GCM-SHA384", "HIGH", "!aNULL", "ECDHE+AESGCM", "@STRENGTH", "-SHA1")
_WITH_HTTP = (ListenerProtocol.HTTP, ListenerProtocol.TERMINATED_HTTPS)

#: Words that mean something to haproxy where names stand are names, too.
_WORDS = ("or", "if", "unless", "TRUE", "HTTP", "DEFAULT", "global", "backend", "0", "a" * 64)
_PLAIN = string.ascii_letters + string.digits
names = st.one_of(
    st.sampled_from(_WORDS),
    st.uuids().map(str),
    st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_-]{0,20}", fullmatch=True),
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)
#: What a person may write for people to read.
_free = st.text(max_size=30)
_token = st.text(_PLAIN + "!#$%&*+.^_`|~-", min_size=1, max_size=40)
_path = st.text(_PLAIN + "._~:/?#@!$&'()*+,;=%-", max_size=60).map("/{}".format)
_url = st.builds("{}://{}".format, st.sampled_from(("http", "https")), _path.map("host{}".format))
_domain = st.sampled_from(("www.example.org", "a", "_x-1.example", "example.org."))
_codes = st.sampled_from(("200", "200,202,302", "200-204", "100-599"))
_ipv4 = st.sampled_from(("192.0.2.1", "198.51.100.77", "10.0.0.9"))
_ROUTED, _LINKS_OWN = "2001:db8::1", "fe80::1"
_ipv6 = st.sampled_from((_ROUTED, _LINKS_OWN, "2001:db8:0:1::ffff"))
_address = st.one_of(_ipv4, _ipv6)
_network = st.sampled_from(("10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "192.0.2.1/32", "::/0"))
_port = st.integers(1, 65535)
_up = st.sampled_from((None, True, True, False))
_flag = st.sampled_from((None, True, False))
_milliseconds = st.sampled_from((None, 0, 1, 50_000, 24 * 24 * 60 * 60 * 1000))

_REGEXES = (
    "^/a(?:b|c)\\.\\d+$", ".*", "(?i)^www", "[^a-z'\"]{2,3}", "a{1,999}?", "\\x41\\t\\\\",
    "(?!/a)(?=/)", "%20|#|'\"", "((a|b)*c){2}", "[\\]\\-\\\\]",
)  # fmt: skip


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Body]:
    """An object with some of these fields; null is as good as nothing."""
    return st.fixed_dictionaries({}, optional=fields)


def _chosen(values: Any) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(values)), min_size=1, unique=True)


def _ciphers() -> st.SearchStrategy[str]:
    # The first is known to every library.
    more = st.lists(st.sampled_from(_CIPHERS + _TLS13), unique=True, max_size=4)
    return more.map(lambda chosen: ":".join((_CIPHERS[0], *chosen)))


def _tls() -> dict[str, st.SearchStrategy[Any]]:
    spoken = {TlsVersion.TLSV1_2, TlsVersion.TLSV1_3}
    alive = _chosen(TlsVersion).filter(lambda chosen: not spoken.isdisjoint(chosen))
    return {
        "tls_versions": alive,
        "tls_ciphers": _ciphers(),
        "alpn_protocols": _chosen(AlpnProtocol),
    }


def _containers(**fields: Any) -> dict[str, st.SearchStrategy[Any]]:
    """Each as a reference, or with what it refers to."""
    return {
        f"{name}_{form}": st.just("reference" if form == "ref" else value)
        for name, value in fields.items()
        for form in ("ref", "data")
    }


_CONTAINER = {"certificate": PEM, "private_key": PEM, "intermediates": [PEM]}


@st.composite
def _members(draw: st.DrawFn) -> list[Body]:
    fields = some(
        weight=st.sampled_from((None, 0, 1, 256)),
        backup=_flag,
        admin_state_up=_up,
        monitor_address=_address,
        monitor_port=_port,
        name=_free,
        subnet_id=_free,
        vnic_type=st.just("normal"),
    )
    return [
        {"member_id": name, "address": draw(_address), "protocol_port": draw(_port), **draw(fields)}
        for name in draw(st.lists(names, max_size=4, unique=True))
    ]


@st.composite
def _monitors(draw: st.DrawFn, protocol: PoolProtocol) -> Body:
    layer4 = protocol in (PoolProtocol.UDP, PoolProtocol.SCTP)
    only4 = (MonitorType.UDP_CONNECT, MonitorType.SCTP)
    types = [
        each
        for each in MonitorType
        if (layer4 and each in (*only4, MonitorType.TCP, MonitorType.HTTP))
        or (not layer4 and each not in only4)
    ]
    return {
        "healthmonitor_id": draw(names),
        "type": draw(st.sampled_from(types)),
        "delay": draw(st.integers(1, 3600)),
        "timeout": draw(st.integers(1, 3600)),
        "max_retries": draw(st.integers(1, 10)),
        **draw(
            some(
                max_retries_down=st.integers(1, 10),
                admin_state_up=_up,
                expected_codes=_codes,
                http_method=st.just("GET") if layer4 else st.sampled_from(HttpMethod),
                http_version=st.sampled_from((None, 1.0, 1.1)),
                url_path=_path.map(lambda path: path.replace("$", "x") if layer4 else path),
                domain_name=_domain,
                name=_free,
            )
        ),
    }


@st.composite
def _persistence(draw: st.DrawFn, protocol: PoolProtocol) -> Body | None:
    if protocol in (PoolProtocol.UDP, PoolProtocol.SCTP):
        masks = st.sampled_from(("255.255.255.0", "ffff:ffff::", None))
        fields = some(persistence_timeout=st.integers(1, 3600), persistence_granularity=masks)
        return {"type": "SOURCE_IP", **draw(fields)}
    kind = draw(st.sampled_from((None, "SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE")))
    if kind == "APP_COOKIE":
        return {"type": kind, "cookie_name": draw(_token)}
    return {"type": kind} if kind else None


@st.composite
def _pools(draw: st.DrawFn, name: str) -> Body:
    protocol = draw(st.sampled_from(PoolProtocol))
    layer4 = protocol in (PoolProtocol.UDP, PoolProtocol.SCTP)
    tls = {}
    if not layer4 and draw(st.booleans()):
        tls = {
            "tls_enabled": True,
            **draw(some(**_tls(), **_containers(tls_container=_CONTAINER, ca_tls_container=PEM))),
        }
        if tls.keys() & {"ca_tls_container_ref", "ca_tls_container_data"}:
            tls |= draw(some(**_containers(crl_container=PEM)))
    members, checks = draw(_members()), draw(st.none() | _monitors(protocol))
    if layer4 and checks and checks["type"] in ("HTTP", "TCP"):
        # An address of a link cannot be checked.
        members = [
            {key: _ROUTED if value == _LINKS_OWN else value for key, value in each.items()}
            for each in members
        ]
    return {
        "pool_id": name,
        "protocol": protocol,
        "lb_algorithm": draw(st.sampled_from(Algorithm)),
        "members": members,
        "session_persistence": draw(_persistence(protocol)),
        "healthmonitor": checks,
        **tls,
        **draw(some(admin_state_up=_up, name=_free, description=_free)),
    }


@st.composite
def _rules(draw: st.DrawFn, name: str) -> Body:
    kind = draw(st.sampled_from(RuleType))
    compare = draw(st.sampled_from(CompareType))
    value = draw(printable.filter(lambda text: text != '""'))
    key = draw(_token)
    if kind is RuleType.FILE_TYPE and compare is not CompareType.REGEX:
        compare = CompareType.EQUAL_TO
    if kind is RuleType.SSL_DN_FIELD:
        key = draw(st.sampled_from(("CN", "O", "x-1")))
    if kind is RuleType.SSL_CONN_HAS_CERT:
        compare, value = CompareType.EQUAL_TO, draw(st.sampled_from(("True", "true")))
    elif kind is RuleType.SSL_VERIFY_RESULT:
        compare, value = CompareType.EQUAL_TO, str(draw(st.integers(0, 999)))
    elif compare is CompareType.REGEX:
        value = draw(st.sampled_from(_REGEXES))
    keyed = kind in (RuleType.COOKIE, RuleType.HEADER, RuleType.SSL_DN_FIELD)
    made = rule(kind, compare, value, l7rule_id=name, key=key if keyed else None)
    return made | draw(some(invert=_flag, admin_state_up=_up))


@st.composite
def _policies(draw: st.DrawFn, name: str, rule_names: list[str], usable: list[str]) -> Body:
    actions = ["REJECT", "REDIRECT_PREFIX", "REDIRECT_TO_URL"]
    action = draw(st.sampled_from([*actions, *(["REDIRECT_TO_POOL"] if usable else [])]))
    more: Body = {}
    if action == "REDIRECT_TO_POOL":
        more["redirect_pool_id"] = draw(st.sampled_from(usable))
    elif action != "REJECT":
        more["redirect_url" if action == "REDIRECT_TO_URL" else "redirect_prefix"] = draw(_url)
        more |= draw(some(redirect_http_code=st.sampled_from((None, 301, 302, 303, 307, 308))))
    fields = some(admin_state_up=_up, position=st.integers(1, 9), name=_free, description=_free)
    made = policy(action, name=name) | more | draw(fields)
    made["rules"] = [draw(_rules(each)) for each in rule_names]
    return made


@st.composite
def _listener_tls(draw: st.DrawFn) -> Body:
    certificate: Body = draw(
        st.sampled_from(
            (
                {"default_tls_container_ref": "reference"},
                {"default_tls_container_data": _CONTAINER},
                {"sni_container_refs": ["one", "two"]},
                {
                    "default_tls_container_data": _CONTAINER,
                    "sni_container_data": [{**_CONTAINER, "id": "one"}],
                },
            )
        )
    )
    asked = {}
    if draw(st.booleans()):
        asked = {
            "client_ca_tls_container_data": PEM,
            **draw(
                some(
                    client_authentication=st.sampled_from(("NONE", "OPTIONAL", "MANDATORY")),
                    client_crl_container_ref=st.just("reference"),
                )
            ),
        }
    hsts = some(
        hsts_max_age=st.integers(0, 2_147_483_647),
        hsts_include_subdomains=_flag,
        hsts_preload=_flag,
        **_tls(),
    )
    return {**certificate, **asked, **draw(hsts)}


@st.composite
def _listeners(draw: st.DrawFn, name: str, port: int, pools: list[Body]) -> Body:
    protocol = draw(st.sampled_from(ListenerProtocol))
    usable = [pool["pool_id"] for pool in pools if pool["protocol"] in POOLS_OF[protocol]]
    more: Body = {}
    if usable:
        more["default_pool_id"] = draw(st.sampled_from([None, *usable]))
        if draw(st.booleans()):
            more["default_pool"] = next(
                (pool for pool in pools if pool["pool_id"] == more["default_pool_id"]), None
            )
    if protocol in _WITH_HTTP:
        allowed = [
            header
            for header in InsertHeader
            if protocol is ListenerProtocol.TERMINATED_HTTPS or not header.startswith("X-SSL")
        ]
        truths = st.sampled_from(("true", "True", "false", "False", True, False))
        more["insert_headers"] = draw(st.dictionaries(st.sampled_from(allowed), truths, max_size=4))
        rules = iter(draw(st.lists(names, max_size=6, unique=True)))
        more["l7policies"] = [
            draw(_policies(f"{name[:50]}-{number}", list(itertools.islice(rules, 2)), usable))
            for number in range(draw(st.integers(0, 3)))
        ]
    if protocol is ListenerProtocol.TERMINATED_HTTPS or (
        protocol is ListenerProtocol.PROMETHEUS and draw(st.booleans())
    ):
        more |= draw(_listener_tls())
    fields = some(
        admin_state_up=_up,
        connection_limit=st.sampled_from((None, -1, 0, 1, 2000, 2_147_483_647)),
        timeout_client_data=_milliseconds,
        timeout_member_connect=_milliseconds,
        timeout_member_data=_milliseconds,
        timeout_tcp_inspect=_milliseconds,
        allowed_cidrs=st.lists(_network, max_size=3),
        name=_free,
        description=_free,
    )
    return listener(protocol, name, protocol_port=port) | more | draw(fields)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """A load balancer as JSON; decodes, and is consistent."""
    pools = [
        draw(_pools(name)) for name in draw(st.lists(names, min_size=1, max_size=4, unique=True))
    ]
    ids = draw(st.lists(names, max_size=4, unique=True))
    ports = draw(st.lists(_port, min_size=len(ids), max_size=len(ids), unique=True))
    listeners = [draw(_listeners(*each, pools)) for each in zip(ids, ports, strict=True)]
    seen: set[str] = set()
    policies = [each for made in listeners for each in made.get("l7policies", ())]
    for number, a_policy in enumerate(policies):
        a_policy["l7policy_id"] = f"policy-{number}"
        a_policy["rules"] = [each for each in a_policy["rules"] if each["l7rule_id"] not in seen]
        seen |= {each["l7rule_id"] for each in a_policy["rules"]}
    return {
        "loadbalancer_id": draw(names),
        "vip_address": draw(_address),
        "listeners": listeners,
        "pools": pools,
        **draw(
            some(
                additional_vips=st.lists(
                    _address.map(lambda address: {"ip_address": address}), max_size=2
                ),
                admin_state_up=_up,
                name=_free,
                description=_free,
                project_id=names,
            )
        ),
    }


def found(balancer: LoadBalancer) -> list[Problem]:
    return list(find_problems(balancer))


@st.composite
def balancers(draw: st.DrawFn) -> LoadBalancer:
    """A load balancer that can be made."""
    made = decoded(draw(bodies()))
    wrong = found(made)
    assert not wrong, wrong
    return made
