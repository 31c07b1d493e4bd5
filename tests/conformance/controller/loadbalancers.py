"""Octavia's own data models, put together the way its database would hand them out.

Each function adds one object to the graph and answers with it. Whatever is not said has the
value that Octavia's API would have filled in; keyword arguments reach the data model unchanged.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from octavia.common import constants, data_models
from octavia.common.config import cfg

from controller.release import ONLY_LISTENERS, known_to, require
from controller.settings import CONNECTION_LIMIT

PROJECT = "5f0c3a1e8d3a4c55a7b1d2c3e4f50617"

#: An L7 rule in short: type, how to compare, value, and the key for headers and cookies.
Rule = tuple[str, ...]


def new_id() -> str:
    return str(uuid.uuid4())


def amphora(
    amphora_id: str, address: str = "127.0.0.1", api_version: str | None = None
) -> data_models.Amphora:
    """An amphora that the controller reaches at `address`; the rest comes with its VIP."""
    new = data_models.Amphora(
        id=amphora_id,
        compute_id=new_id(),
        status=constants.AMPHORA_ALLOCATED,
        lb_network_ip=address,
        role=constants.ROLE_STANDALONE,
    )
    if api_version is not None:
        new.api_version = api_version  # else the controller asks the amphora
    return new


def load_balancer(
    host: data_models.Amphora,
    vip: str,
    *,
    additional_vips: Iterable[str] = (),
    topology: str = constants.TOPOLOGY_SINGLE,
) -> data_models.LoadBalancer:
    """A load balancer of one amphora, without listeners."""
    load_balancer_id = new_id()
    vip_port = new_id()
    balancer = data_models.LoadBalancer(
        id=load_balancer_id,
        project_id=PROJECT,
        name="conformance",
        enabled=True,
        provisioning_status=constants.ACTIVE,
        operating_status=constants.OFFLINE,
        topology=topology,
        vip=data_models.Vip(
            load_balancer_id=load_balancer_id,
            ip_address=vip,
            subnet_id=new_id(),
            network_id=new_id(),
            port_id=vip_port,
        ),
        amphorae=[host],
    )
    for address in additional_vips:
        balancer.additional_vips.append(
            data_models.AdditionalVip(
                load_balancer_id=load_balancer_id,
                ip_address=address,
                subnet_id=new_id(),
                network_id=balancer.vip.network_id,
                port_id=vip_port,
                load_balancer=balancer,
            )
        )
    host.load_balancer = balancer
    host.load_balancer_id = load_balancer_id
    host.ha_ip = vip
    host.ha_port_id = vip_port
    host.vrrp_port_id = host.vrrp_port_id or new_id()
    return balancer


def add_vrrp_group(balancer: data_models.LoadBalancer) -> None:
    """What the controller's database has of a load balancer in ACTIVE_STANDBY."""
    balancer.topology = constants.TOPOLOGY_ACTIVE_STANDBY
    balancer.vrrp_group = data_models.VRRPGroup(
        load_balancer_id=balancer.id,
        vrrp_group_name=balancer.id.replace("-", ""),
        vrrp_auth_type=constants.VRRP_AUTH_DEFAULT,
        vrrp_auth_pass="a1b2c3d",
        advert_int=1,
        load_balancer=balancer,
    )


def listener(
    balancer: data_models.LoadBalancer,
    protocol: str,
    port: int,
    *,
    sni: Sequence[str] = (),
    **fields: Any,
) -> data_models.Listener:
    """A listener; `sni` names further certificates by their references."""
    _require_protocol(balancer, protocol)
    listener_id = new_id()
    encrypted = protocol == constants.PROTOCOL_TERMINATED_HTTPS
    new = _made(
        data_models.Listener,
        {
            "id": listener_id,
            "project_id": PROJECT,
            "name": f"{protocol} {port}",
            "protocol": protocol,
            "protocol_port": port,
            "enabled": True,
            "connection_limit": _connection_limit(balancer),
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.OFFLINE,
            "peer_port": constants.HAPROXY_BASE_PEER_PORT,
            "load_balancer": balancer,
            "load_balancer_id": balancer.id,
            "timeout_client_data": 50000,
            "timeout_member_connect": 5000,
            "timeout_member_data": 50000,
            "timeout_tcp_inspect": 0,
            "client_authentication": "NONE",
            "sni_containers": sni_containers(listener_id, sni),
            **(_tls_defaults("listener") if encrypted else {}),
        },
        fields,
    )
    balancer.listeners.append(new)
    return new


def _made(model: type, usual: dict[str, Any], fields: dict[str, Any]) -> Any:
    """An object with the usual values that this release knows, and with these."""
    return model(**known_to(model, usual) | require(model, fields))


def _connection_limit(balancer: data_models.LoadBalancer) -> int:
    """None, which the controller turns into its own; before API 1.0 that could not be set, and
    was more than this machine has file descriptors for."""
    return CONNECTION_LIMIT if _in_0_5(balancer) else -1


def _in_0_5(balancer: data_models.LoadBalancer) -> bool:
    return ONLY_LISTENERS or balancer.amphorae[0].api_version == "0.5"


def _require_protocol(balancer: data_models.LoadBalancer, protocol: str) -> None:
    """Skip the test when the controller has no template for this protocol."""
    if protocol in ("PROMETHEUS", "PROXYV2") and _in_0_5(balancer):
        pytest.skip(f"configurations of API 0.5 have no {protocol}")


def sni_containers(listener_id: str, references: Iterable[str]) -> list[data_models.SNI]:
    return [
        data_models.SNI(listener_id=listener_id, position=place, tls_container_id=reference)
        for place, reference in enumerate(references)
    ]


def pool(
    owner: data_models.Listener | data_models.LoadBalancer,
    protocol: str,
    members: Iterable[tuple[str, int]] = (),
    *,
    default: bool = True,
    **fields: Any,
) -> data_models.Pool:
    """A pool of `members` (address, port).

    With a listener as the owner it becomes that listener's default pool, unless `default` is
    false; policies make use of the others.
    """
    used_by = owner if isinstance(owner, data_models.Listener) else None
    balancer = used_by.load_balancer if used_by else owner
    _require_protocol(balancer, protocol)
    new = _made(
        data_models.Pool,
        {
            "id": new_id(),
            "project_id": PROJECT,
            "name": f"{protocol} pool",
            "protocol": protocol,
            "lb_algorithm": constants.LB_ALGORITHM_ROUND_ROBIN,
            "enabled": True,
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.OFFLINE,
            "load_balancer": balancer,
            "load_balancer_id": balancer.id,
            "tls_enabled": False,
            **(_tls_defaults("pool") if fields.get("tls_enabled") else {}),
        },
        fields,
    )
    balancer.pools.append(new)
    if used_by is not None:
        attach(used_by, new, default=default)
    for address, port in members:
        member(new, address, port)
    return new


def _tls_defaults(kind: str) -> dict[str, Any]:
    """Ciphers, versions and ALPN protocols of this release's API for a "listener" or a "pool"."""
    defaults = cfg.CONF.api_settings
    return {
        "tls_ciphers": getattr(defaults, f"default_{kind}_ciphers", None),
        "tls_versions": getattr(defaults, f"default_{kind}_tls_versions", None),
        "alpn_protocols": getattr(defaults, f"default_{kind}_alpn_protocols", None),
    }


def attach(used_by: data_models.Listener, used: data_models.Pool, *, default: bool = True) -> None:
    """Let a listener use a pool, as its default or through its policies."""
    if default:
        used_by.default_pool = used
        used_by.default_pool_id = used.id
    if used not in used_by.pools:
        used_by.pools.append(used)
        used.listeners.append(used_by)


def member(owner: data_models.Pool, address: str, port: int, **fields: Any) -> data_models.Member:
    """A member of a pool. Without a monitor its status is NO_MONITOR, as the API would say."""
    new = _made(
        data_models.Member,
        {
            "id": new_id(),
            "project_id": PROJECT,
            "pool_id": owner.id,
            "pool": owner,
            "ip_address": address,
            "protocol_port": port,
            "weight": 1,
            "backup": False,
            "enabled": True,
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.NO_MONITOR,
        },
        fields,
    )
    owner.members.append(new)
    return new


def monitor(owner: data_models.Pool, kind: str, **fields: Any) -> data_models.HealthMonitor:
    """A health monitor that decides within a second or two."""
    http = kind in (constants.HEALTH_MONITOR_HTTP, constants.HEALTH_MONITOR_HTTPS)
    web = {"http_method": "GET", "url_path": "/", "expected_codes": "200"} if http else {}
    new = _made(
        data_models.HealthMonitor,
        {
            "id": new_id(),
            "project_id": PROJECT,
            "pool_id": owner.id,
            "pool": owner,
            "type": kind,
            "delay": 1,
            "timeout": 1,
            "rise_threshold": 1,
            "fall_threshold": 1,
            "enabled": True,
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.ONLINE,
            **web,
        },
        fields,
    )
    owner.health_monitor = new
    for checked in owner.members:
        checked.operating_status = constants.OFFLINE
    return new


def persistence(owner: data_models.Pool, kind: str, cookie: str | None = None) -> None:
    owner.session_persistence = data_models.SessionPersistence(
        pool_id=owner.id, type=kind, cookie_name=cookie, pool=owner
    )


def policy(
    owner: data_models.Listener, action: str, rules: Iterable[Rule], **fields: Any
) -> data_models.L7Policy:
    """An L7 policy at the end of the listener's list; all rules must match."""
    new = _made(
        data_models.L7Policy,
        {
            "id": new_id(),
            "project_id": PROJECT,
            "name": action,
            "listener_id": owner.id,
            "listener": owner,
            "action": action,
            "position": len(owner.l7policies) + 1,
            "enabled": True,
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.ONLINE,
        },
        fields,
    )
    for kind, compare, value, *key in rules:
        rule(new, kind, compare, value, key=key[0] if key else None)
    owner.l7policies.append(new)
    if new.redirect_pool is not None:
        new.redirect_pool_id = new.redirect_pool.id
        new.redirect_pool.l7policies.append(new)
        attach(owner, new.redirect_pool, default=False)
    return new


def rule(
    owner: data_models.L7Policy, kind: str, compare: str, value: str, **fields: Any
) -> data_models.L7Rule:
    new = _made(
        data_models.L7Rule,
        {
            "id": new_id(),
            "project_id": PROJECT,
            "l7policy_id": owner.id,
            "l7policy": owner,
            "type": kind,
            "compare_type": compare,
            "value": value,
            "invert": False,
            "enabled": True,
            "provisioning_status": constants.ACTIVE,
            "operating_status": constants.ONLINE,
        },
        fields,
    )
    owner.l7rules.append(new)
    return new
