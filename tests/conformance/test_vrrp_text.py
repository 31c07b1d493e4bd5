"""What the controller writes for VRRP is what the agent's table allows."""

from __future__ import annotations

import itertools
from types import SimpleNamespace as Row
from typing import Any

import pytest

from amphora_agent.keepalived.config import vrrp

jinja_cfg = pytest.importorskip("octavia.amphorae.drivers.keepalived.jinja.jinja_cfg")

CHECK = "/var/lib/octavia/vrrp/check_script.sh"


def vip(address: str, network: str, hop: str, **values: Any) -> dict[str, Any]:
    route = Row(destination=network.replace("1", "9", 1), nexthop=hop)
    known = {"ip_address": address, "network_cidr": network, "gateway": hop}
    six = ":" in address
    return {**known, "ipv6": six, "excluded": False, "host_routes": [route], **values}


FOUR = vip("10.1.0.5", "10.1.0.0/24", "10.1.0.1")
SIX = vip("2001:db8::5", "2001:db8::/64", "2001:db8::1")


def rendered(vips: list[dict[str, Any]], peers: list[str], source: str) -> str:
    """The template of this release; each takes of these values what it knows."""
    first = vips[0]
    text: str = (
        jinja_cfg.KeepalivedJinjaTemplater()
        .get_template(jinja_cfg.KEEPALIVED_TEMPLATE)
        .render(
            vrrp_group_name="0c1cbc2b3d9e4a5f", amp_role="MASTER", amp_intf="eth1", amp_vrrp_id=1,
            amp_priority=100, vrrp_garp_refresh=5, vrrp_garp_refresh_repeat=2,
            vrrp_auth_type="PASS",
            vrrp_auth_pass="a1b2c3d", amp_vrrp_ip=source, peers_vrrp_ips=peers, advert_int=1,
            check_script_path=CHECK, vrrp_check_interval=5, vrrp_fail_count=2,
            vrrp_success_count=2, vips=vips, vip_ip_address=first["ip_address"],
            vip_ipv6=first["ipv6"], vip_network_cidr=first["network_cidr"],
        )
    )  # fmt: skip
    return text


@pytest.mark.parametrize(
    ("vips", "source"),
    [
        ([FOUR], "10.1.0.3"),
        ([SIX], "2001:db8::3"),
        ([FOUR, {**SIX, "excluded": True}], "10.1.0.3"),
        ([SIX, {**FOUR, "excluded": True, "gateway": None, "host_routes": []}], "2001:db8::3"),
    ],
)
@pytest.mark.parametrize("peers", [[], ["10.1.0.4"], ["2001:db8::4", "2001:db8::6"]])
def test_every_text_is_allowed_and_nothing_of_it_is_lost(
    vips: list[dict[str, Any]], source: str, peers: list[str]
) -> None:
    text = rendered(vips, peers, source)
    given = vrrp.rewrite(text.encode(), CHECK, "/run/notify").text.decode().partition("}\n")[2]
    words = text.replace(" gateway ", " via ").split()
    assert given.split() == words, list(itertools.zip_longest(given.split(), words))
