"""The API of what is wanted, `/2.0`: one module a resource. What it is made of is loaded when it is
asked for: an amphora of a controller that sends texts never does."""

from flask import Blueprint

from amphora_agent.api.services import Services
from amphora_agent.api.v2.document import document
from amphora_agent.api.v2.loadbalancers import certificates, loadbalancers


def blueprints(services: Services) -> tuple[Blueprint, ...]:
    """All routes below `/2.0` but those of instances."""
    return document(), loadbalancers(services), certificates(services)
