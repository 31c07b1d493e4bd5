"""The API of Octavia's controllers, version 1.0 (WIRE §3): one module a resource."""

from flask import Blueprint

from amphora_agent.api.octavia.amphora import amphora
from amphora_agent.api.octavia.certificates import certificates
from amphora_agent.api.octavia.information import information
from amphora_agent.api.octavia.loadbalancers import loadbalancers
from amphora_agent.api.octavia.missing import missing
from amphora_agent.api.octavia.network import network
from amphora_agent.api.services import Services


def blueprints(services: Services) -> tuple[Blueprint, ...]:
    """All routes of 1.0, and the discovery."""
    return (
        information(services),
        loadbalancers(services),
        certificates(services),
        amphora(services),
        network(services),
        missing(),
    )
