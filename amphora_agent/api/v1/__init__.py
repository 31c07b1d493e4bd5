"""The API of Octavia's controllers, 1.0 and 0.5 (WIRE §3): one module a resource.

API 0.5 has one haproxy for each listener, under the listener's id (WIRE §2). An instance may have
any id, so 0.5 has the routes of 1.0, with `listeners` where 1.0 says `loadbalancer`, and one more.
"""

from flask import Blueprint, Flask

from amphora_agent.api.services import Services
from amphora_agent.api.v1.http import CURRENT, LEGACY
from amphora_agent.api.v1.info import amphora, information
from amphora_agent.api.v1.keepalived import udp, vrrp
from amphora_agent.api.v1.loadbalancers import certificates, loadbalancers
from amphora_agent.api.v1.network import network


def blueprints(services: Services) -> tuple[Blueprint, ...]:
    """Return all routes of 1.0, and those that have no version or are of 0.5 alone."""
    makers = (information, loadbalancers, certificates, udp, amphora, network, vrrp)
    return tuple(make(services) for make in makers)


def add_legacy_rules(app: Flask) -> None:
    """Serve every route of 1.0 that `app` has in 0.5 as well."""
    for rule in tuple(app.url_map.iter_rules()):
        if rule.rule.startswith(f"/{CURRENT}/"):
            path = rule.rule.removeprefix(f"/{CURRENT}/").replace("loadbalancer/", "listeners/", 1)
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            app.add_url_rule(f"/{LEGACY}/{path}", endpoint=rule.endpoint, methods=methods)
