"""Which release of Octavia drives the agent, and what that release knows."""

import inspect
from importlib.metadata import version
from typing import Any

import pytest
from octavia.amphorae.drivers.haproxy import rest_api_driver
from octavia.amphorae.drivers.haproxy.rest_api_driver import HaproxyAmphoraLoadBalancerDriver
from octavia.common import data_models

OCTAVIA = version("octavia")
MAJOR = int(OCTAVIA.split(".")[0])

#: Releases before 4.1 speak API 0.5 and know nothing of load balancers in the amphora.
ONLY_LISTENERS = not hasattr(rest_api_driver, "AmphoraAPIClient1_0")


def _needs(known: bool, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not known, reason=f"octavia {OCTAVIA} has no {what}")


def known_to(model: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Those fields of a data model that this release has."""
    names = inspect.signature(model.__init__).parameters
    return {name: value for name, value in fields.items() if name in names}


def require(model: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Skip the test when this release does not have one of these fields."""
    if unknown := fields.keys() - known_to(model, fields).keys():
        pytest.skip(f"octavia {OCTAVIA}: {model.__name__} has no {', '.join(sorted(unknown))}")
    return fields


HAS_ADDITIONAL_VIPS = hasattr(data_models, "AdditionalVip")


def needs_of_driver(method: str) -> pytest.MarkDecorator:
    """For a test of something that the driver of old releases cannot do."""
    return _needs(hasattr(HaproxyAmphoraLoadBalancerDriver, method), f"{method} in its driver")


needs_agent_configuration = needs_of_driver("update_amphora_agent_config")
needs_interface_look_up = needs_of_driver("get_interface_from_ip")
needs_allowed_cidrs = _needs(hasattr(data_models, "ListenerCidr"), "allowed CIDRs")

needs_additional_vips = _needs(HAS_ADDITIONAL_VIPS, "additional VIPs")
needs_interface_rules = _needs(
    hasattr(HaproxyAmphoraLoadBalancerDriver, "set_interface_rules"), "interface rules"
)
needs_hsts = _needs(hasattr(data_models.Listener(), "hsts_max_age"), "HSTS")
