"""A listener in haproxy's terms: a frontend with the ACLs of its policies."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from amphora_agent.declarative import ends
from amphora_agent.declarative.ends import Tls
from amphora_agent.model import meaning
from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import (
    Action,
    Algorithm,
    ClientAuthentication,
    CompareType,
    L7Policy,
    L7Rule,
    Listener,
    ListenerProtocol,
    Pool,
    RuleType,
)
from amphora_agent.model.meaning import is_up

#: The controller's default (`[haproxy_amphora] timeout_client_data`), in milliseconds.
_CLIENT_TIMEOUT = 50_000
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
    RuleType.HOST_NAME: "req.hdr(host)",
    RuleType.PATH: "path",
    RuleType.SSL_CONN_HAS_CERT: "ssl_c_used",
    RuleType.SSL_DN_FIELD: "ssl_c_s_dn({})",
    RuleType.SSL_VERIFY_RESULT: "ssl_c_verify",
}
_VERIFY = {ClientAuthentication.MANDATORY: "required", ClientAuthentication.OPTIONAL: "optional"}
#: The order in which haproxy decides, whatever the order in which it is told.
_PRECEDENCE = {
    Action.REJECT: 0,
    Action.REDIRECT_PREFIX: 1,
    Action.REDIRECT_TO_URL: 1,
    Action.REDIRECT_TO_POOL: 2,
}


class Acl(NamedTuple):
    """`match` is haproxy's method (`-m`); "" where there is a number to compare with."""

    name: str
    fetch: str
    ignores_case: bool
    match: str
    value: str


class Policy(NamedTuple):
    """One statement; `condition` is made of the names of `acls`."""

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


def pools_used(listener: Listener) -> Iterator[str]:
    """The ids of those that a listener leads to, in whatever state they are."""
    default = meaning.default_pool_id(listener)
    if default is not None:
        yield default
    for policy in _policies_in_order(listener):
        pool_id = meaning.redirect_pool_id(policy)
        if pool_id is not None:
            yield pool_id


def _policies_in_order(listener: Listener) -> list[L7Policy]:
    """Those that decide anything: up, with a rule that is up. In the order of their effect."""
    effective = [
        policy
        for policy in listener.l7policies or ()
        if is_up(policy) and any(is_up(rule) for rule in policy.rules or ())
    ]
    return sorted(effective, key=lambda each: (_PRECEDENCE[each.action], each.position or 0))


def frontend(
    listener: Listener,
    vips: tuple[Address, ...],
    pools: Mapping[str, Pool],
    backend: Callable[[Pool], str],
) -> Frontend:
    """`pools` are those that are up; `backend` names what one of them is to this listener."""

    def leads_to(pool_id: str | None) -> str:
        pool = pools.get(pool_id or "")
        return backend(pool) if pool else ""

    policies = []
    for policy in _policies_in_order(listener):
        target = leads_to(meaning.redirect_pool_id(policy))
        if policy.action is not Action.REDIRECT_TO_POOL or target:
            policies.append(_policy(policy, target))
    limit = listener.connection_limit or -1
    default = leads_to(meaning.default_pool_id(listener))
    if listener.protocol is ListenerProtocol.PROMETHEUS:
        default = meaning.METRICS
    cidrs = listener.allowed_cidrs
    used = [pools[each] for each in pools_used(listener) if each in pools]
    return Frontend(
        id=listener.listener_id,
        mode="http" if ends.reads_http(listener) else "tcp",
        binds=tuple(ends.endpoint(vip, listener.protocol_port) for vip in vips),
        connection_limit=min(limit, MOST_CONNECTIONS) if limit > 0 else _CONNECTIONS,
        client_timeout=listener.timeout_client_data or _CLIENT_TIMEOUT,
        inspect_delay=listener.timeout_tcp_inspect or 0,
        allowed=tuple(map(str, cidrs)) if cidrs else None,
        keeps_source_port=any(pool.lb_algorithm is Algorithm.SOURCE_IP_PORT for pool in used),
        tls=ends.tls(listener) if meaning.terminates_tls(listener) else None,
        client_verify=_client_verify(listener),
        has_crl=bool(listener.client_crl_container_data or listener.client_crl_container_ref),
        hsts=_hsts(listener),
        policies=tuple(policies),
        default_backend=default,
    )


def _hsts(listener: Listener) -> str:
    if listener.hsts_max_age is None or listener.protocol is not ListenerProtocol.TERMINATED_HTTPS:
        return ""
    return (
        f"max-age={listener.hsts_max_age};"
        + (" includeSubDomains;" if listener.hsts_include_subdomains else "")
        + (" preload;" if listener.hsts_preload else "")
    )


def _client_verify(listener: Listener) -> str:
    has_ca = listener.client_ca_tls_container_data or listener.client_ca_tls_container_ref
    wanted = listener.client_authentication
    return _VERIFY.get(wanted, "") if has_ca and wanted else ""


def _policy(policy: L7Policy, pool: str) -> Policy:
    rules = [rule for rule in policy.rules or () if is_up(rule)]
    return Policy(
        action=policy.action,
        acls=tuple(_acl(rule) for rule in rules),
        condition=" ".join(f"{'!' if rule.invert else ''}{_acl_name(rule)}" for rule in rules),
        target=pool or policy.redirect_url or policy.redirect_prefix or "",
        code=policy.redirect_http_code,
    )


def _acl_name(rule: L7Rule) -> str:
    """No word of conditions (`or`), nor an ACL that haproxy has (`TRUE`), whatever the id."""
    return f"rule-{rule.l7rule_id}"


def _acl(rule: L7Rule) -> Acl:
    match = _MATCH[rule.compare_type]
    value = meaning.compared_with(rule)
    if rule.type is RuleType.FILE_TYPE and rule.compare_type is CompareType.EQUAL_TO:
        match = "end"
    if rule.type in (RuleType.SSL_CONN_HAS_CERT, RuleType.SSL_VERIFY_RESULT):
        match = ""
    return Acl(
        name=_acl_name(rule),
        fetch=_FETCH[rule.type].format(rule.key),
        ignores_case=rule.type is RuleType.HOST_NAME,
        match=match,
        value="" if rule.type is RuleType.SSL_CONN_HAS_CERT else value,
    )
