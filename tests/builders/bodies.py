"""Bodies of API 2.0: small load balancers and their parts, as a provider driver sends them.

Each function returns what an object must have. What else is given is added, or replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer

Body = dict[str, Any]


def balancer(*listeners: Body, pools: tuple[Body, ...] = (), **more: Any) -> Body:
    return {
        "loadbalancer_id": "lb",
        "vip_address": "192.0.2.10",
        "listeners": list(listeners),
        "pools": list(pools),
        **more,
    }


def listener(protocol: str = "HTTP", name: str = "listener", **more: Any) -> Body:
    return {"listener_id": name, "protocol": protocol, "protocol_port": 80, **more}


def pool(protocol: str = "HTTP", name: str = "pool", **more: Any) -> Body:
    return {"pool_id": name, "protocol": protocol, "lb_algorithm": "ROUND_ROBIN", **more}


def member(name: str = "member", **more: Any) -> Body:
    return {"member_id": name, "address": "198.51.100.1", "protocol_port": 8080, **more}


def monitor(type_: str = "HTTP", **more: Any) -> Body:
    return {
        "healthmonitor_id": "monitor",
        "type": type_,
        "delay": 5,
        "timeout": 3,
        "max_retries": 2,
        **more,
    }


def policy(action: str = "REJECT", *rules: Body, name: str = "policy", **more: Any) -> Body:
    return {
        "l7policy_id": name,
        "action": action,
        "rules": list(rules) or [rule()],
        **more,
    }


def rule(type_: str = "PATH", compare: str = "STARTS_WITH", value: str = "/a", **more: Any) -> Body:
    return {"l7rule_id": "rule", "type": type_, "compare_type": compare, "value": value, **more}


def decoded(body: Mapping[str, Any]) -> LoadBalancer:
    return decode(msgspec.json.encode(body), LoadBalancer)
