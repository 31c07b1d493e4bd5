"""The API of Octavia's controllers (WIRE §3): one module a resource, and `legacy` for 0.5."""

from flask import Blueprint

from amphora_agent.api.services import Services
from amphora_agent.api.v1.info import amphora, information
from amphora_agent.api.v1.keepalived import udp, vrrp
from amphora_agent.api.v1.loadbalancers import certificates, loadbalancers
from amphora_agent.api.v1.network import network
from amphora_agent.api.v1.v0_5 import legacy


def blueprints(services: Services) -> tuple[Blueprint, ...]:
    """All routes of 1.0, the discovery, and what only 0.5 has."""
    return (
        information(services),
        loadbalancers(services),
        certificates(services),
        udp(services),
        amphora(services),
        network(services),
        vrrp(services),
        legacy(services),
    )
