"""Translate a listener to haproxy's terms: a frontend with the ACLs of its policies."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from amphora_agent.loadbalancer.translate.backends import Tls, translate_tls
from amphora_agent.model.addressing import Address, format_endpoint
from amphora_agent.model.loadbalancer import (
    METRICS_BACKEND,
    Action,
    Algorithm,
    ClientAuthentication,
    CompareType,
    L7Rule,
    ListenerProtocol,
    RuleType,
)
from amphora_agent.model.resolved import (
    ResolvedListener,
    ResolvedPolicy,
    ResolvedPool,
)

#: The controller's default (`default_connection_limit`), and what it ever asks for.
_CONNECTIONS, MOST_CONNECTIONS = 50_000, 1_000_000

_MATCH = {
    CompareType.CONTAINS: "sub",
    CompareType.ENDS_WITH: "end",
    CompareType.EQUAL_TO: "str",
    CompareType.REGEX: "reg",
    CompareType.STARTS_WITH: "beg",
}
_FETCH = {
    RuleType.COOKIE: "req.cook({})",
    RuleType.FILE_TYPE: "path",
    RuleType.HEADER: "req.hdr({})",
    RuleType.HOST_NAME: "req.fhdr(host),host_only,rtrim(.)",
    RuleType.PATH: "path",
    RuleType.SSL_CONN_HAS_CERT: "ssl_c_used",
    RuleType.SSL_DN_FIELD: "ssl_c_s_dn({})",
    RuleType.SSL_VERIFY_RESULT: "ssl_c_verify",
}
#: A header's value as it came; `req.hdr` splits it at commas and takes each part for a value.
_WHOLE_HEADER = "req.fhdr({})"
#: What opens a group in a regular expression, and names no port.
_GROUP = re.compile(r"\(\?[a-z]*[:=!]?")
_VERIFY = {
    ClientAuthentication.NONE: "",
    ClientAuthentication.MANDATORY: "required",
    ClientAuthentication.OPTIONAL: "optional",
}


class Acl(NamedTuple):
    """`match` is haproxy's method (`-m`); "" where there is a number to compare with."""

    name: str
    fetch: str
    ignores_case: bool
    match: str
    value: str


class Policy(NamedTuple):
    """One statement; `condition` is made of the names of `acls`. Several ACLs may have one name: it
    matches when one of them does."""

    action: Action
    acls: tuple[Acl, ...]
    condition: str
    target: str
    code: int | None


class Frontend(NamedTuple):
    """A listener. `client_verify` is haproxy's word for it, "" when clients are not asked."""

    id: str
    mode: str
    binds: tuple[str, ...]
    connection_limit: int
    client_timeout: int
    inspect_delay: int
    allowed: tuple[str, ...] | None
    keeps_source_port: bool
    tls: Tls | None
    client_verify: str
    has_crl: bool
    hsts: str
    policies: tuple[Policy, ...]
    default_backend: str


def translate_listener(
    listener: ResolvedListener, vips: tuple[Address, ...], backend: Callable[[ResolvedPool], str]
) -> Frontend:
    """Return the frontend of a listener; `backend` names what a pool that is up is to it."""

    def leads_to(pool: ResolvedPool | None) -> str:
        return backend(pool) if pool and pool.admin_state_up else ""

    policies = []
    for policy in listener.policies:
        target = leads_to(policy.pool)
        if policy.action is not Action.REDIRECT_TO_POOL or target:
            policies.append(_translate_policy(policy, target))
    prometheus = listener.protocol is ListenerProtocol.PROMETHEUS
    cidrs = listener.allowed_cidrs
    return Frontend(
        id=listener.listener_id,
        mode="http" if listener.reads_http else "tcp",
        binds=tuple(format_endpoint(vip, listener.protocol_port) for vip in vips),
        connection_limit=min(listener.connection_limit or _CONNECTIONS, MOST_CONNECTIONS),
        client_timeout=listener.timeout_client_data,
        inspect_delay=listener.timeout_tcp_inspect or 0,
        allowed=tuple(map(str, cidrs)) if cidrs else None,
        keeps_source_port=any(
            pool.admin_state_up and pool.lb_algorithm is Algorithm.SOURCE_IP_PORT
            for pool in listener.used_pools
        ),
        tls=translate_tls(listener) if listener.terminates_tls else None,
        client_verify=_VERIFY[listener.client_authentication],
        has_crl=listener.has_client_crl,
        hsts=_hsts(listener),
        policies=tuple(policies),
        default_backend=METRICS_BACKEND if prometheus else leads_to(listener.default_pool),
    )


def _hsts(listener: ResolvedListener) -> str:
    if listener.hsts_max_age is None or listener.protocol is not ListenerProtocol.TERMINATED_HTTPS:
        return ""
    return (
        f"max-age={listener.hsts_max_age};"
        + (" includeSubDomains;" if listener.hsts_include_subdomains else "")
        + (" preload;" if listener.hsts_preload else "")
    )


def _translate_policy(policy: ResolvedPolicy, backend: str) -> Policy:
    names = (f"{'!' if rule.invert else ''}{_acl_name(rule)}" for rule in policy.rules)
    return Policy(
        action=policy.action,
        acls=tuple(acl for rule in policy.rules for acl in _acls(rule)),
        condition=" ".join(names),
        target=backend or policy.target,
        code=policy.code,
    )


def _acl_name(rule: L7Rule) -> str:
    """No word of conditions (`or`), nor an ACL that haproxy has (`TRUE`), whatever the id."""
    return f"rule-{rule.l7rule_id}"


def _acls(rule: L7Rule) -> Iterator[Acl]:
    """Yield the ACLs of a rule; it matches when one of them does."""
    value = rule.compared_value
    match rule.type:
        case RuleType.HEADER:
            for fetch in _header_fetches(rule.compare_type, value):
                yield _acl(rule, fetch, value)
        case RuleType.HOST_NAME:
            yield _acl(rule, _FETCH[rule.type], _host(rule.compare_type, value))
            if _may_name_port(rule.compare_type, value):
                yield _acl(rule, _WHOLE_HEADER.format("host"), value)
        case _:
            yield _acl(rule, _FETCH[rule.type], value)


def _header_fetches(compare: CompareType, value: str) -> tuple[str, ...]:
    """Return how the value of a header is read: whole, or in the parts that commas make of it.

    A part can equal, begin or end with what has no comma, as in the controller's text. What has a
    comma can match the whole value alone. What a regular expression matches may have one.
    """
    parts = _FETCH[RuleType.HEADER]
    if compare is CompareType.REGEX:
        return _WHOLE_HEADER, parts
    if compare is CompareType.CONTAINS or "," in value:
        return (_WHOLE_HEADER,)
    return (parts,)


def _host(compare: CompareType, value: str) -> str:
    """What a host is compared with, as haproxy reads hosts: an IPv6 address in brackets, and no dot
    at the end."""
    if compare is CompareType.EQUAL_TO:
        try:
            return f"[{ipaddress.IPv6Address(value)}]"
        except ValueError:
            return value.rstrip(".") or value
    return (value.rstrip(".") or value) if compare is CompareType.ENDS_WITH else value


def _may_name_port(compare: CompareType, value: str) -> bool:
    """Return whether a rule about a host may mean its port: then it is read as it is, too."""
    return ":" in (_GROUP.sub("", value) if compare is CompareType.REGEX else value)


def _acl(rule: L7Rule, fetch: str, value: str) -> Acl:
    match = _MATCH[rule.compare_type]
    if rule.type is RuleType.FILE_TYPE and rule.compare_type is CompareType.EQUAL_TO:
        match = "end"
    if rule.type in (RuleType.SSL_CONN_HAS_CERT, RuleType.SSL_VERIFY_RESULT):
        match = ""
    return Acl(
        name=_acl_name(rule),
        fetch=fetch.format(rule.key),
        ignores_case=rule.type is RuleType.HOST_NAME,
        match=match,
        value="" if rule.type is RuleType.SSL_CONN_HAS_CERT else value,
    )
