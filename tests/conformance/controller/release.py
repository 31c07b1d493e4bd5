"""Which release of Octavia drives the agent, and what that release knows."""

from importlib.metadata import version

import pytest
from octavia.amphorae.drivers.haproxy.rest_api_driver import HaproxyAmphoraLoadBalancerDriver
from octavia.common import data_models

OCTAVIA = version("octavia")
MAJOR = int(OCTAVIA.split(".")[0])


def _needs(known: bool, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not known, reason=f"octavia {OCTAVIA} has no {what}")


HAS_ADDITIONAL_VIPS = hasattr(data_models, "AdditionalVip")

needs_additional_vips = _needs(HAS_ADDITIONAL_VIPS, "additional VIPs")
needs_interface_rules = _needs(
    hasattr(HaproxyAmphoraLoadBalancerDriver, "set_interface_rules"), "interface rules"
)
needs_hsts = _needs(hasattr(data_models.Listener(), "hsts_max_age"), "HSTS")
