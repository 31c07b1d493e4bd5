"""The API of Octavia's controllers (WIRE §3): one module a resource, and `legacy` for 0.5."""

from flask import Blueprint

from amphora_agent.api.octavia.amphora import amphora
from amphora_agent.api.octavia.certificates import certificates
from amphora_agent.api.octavia.information import information
from amphora_agent.api.octavia.legacy import legacy
from amphora_agent.api.octavia.loadbalancers import loadbalancers
from amphora_agent.api.octavia.network import network
from amphora_agent.api.octavia.udp import udp
from amphora_agent.api.octavia.vrrp import vrrp
from amphora_agent.api.services import Services


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
