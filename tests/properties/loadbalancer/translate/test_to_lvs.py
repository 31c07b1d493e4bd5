"""UDP and SCTP listeners of any load balancer are read back from keepalived's text."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from amphora_agent.keepalived.config.lvs import Endpoint, ParsedMember, describe, rewrite
from amphora_agent.model import loadbalancer
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.resolved import merge_pools
from tests.builders.loadbalancers import balancers
from tests.builders.places import BASE
from tests.properties.loadbalancer.test_render import is_up
from tests.unit.loadbalancer.translate.test_to_lvs import rendered


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(balancers())
def test_rendered_virtual_server_is_read_back(made: LoadBalancer) -> None:
    texts = rendered(made)
    wanted = {
        each.listener_id: each
        for each in made.listeners or ()
        if each.protocol in ("UDP", "SCTP") and is_up(each) and is_up(made)
    }
    assert texts.keys() == wanted.keys()
    pools = merge_pools(made).pools
    vips = {made.vip_address, *(vip.ip_address for vip in made.additional_vips or ())}
    for name, a_listener in wanted.items():
        rewrite(texts[name].encode(), f"{BASE}/lvs/check/udp_check.sh")
        found = describe(texts[name].encode())
        assert found.enabled
        a_pool = pools.get(a_listener.default_pool_id or "")
        if a_pool is None:
            assert (found.pool, found.virtuals) == (None, ())
            continue
        assert found.pool == (a_pool.pool_id if is_up(a_pool) else None)
        assert {each.protocol for each in found.virtuals} == {a_listener.protocol.value}
        assert {end for each in found.virtuals for end in each.endpoints} == {
            Endpoint(str(vip), a_listener.protocol_port) for vip in vips
        }
        members = a_pool.members or () if is_up(a_pool) else ()
        reached = [each for each in members if each.address.version in {v.version for v in vips}]
        assert set(found.members) == {expected(each, a_pool) for each in reached}


def expected(of: loadbalancer.Member, a_pool: loadbalancer.Pool) -> ParsedMember:
    if not is_up(of):
        return ParsedMember(of.member_id, None)
    checks = a_pool.healthmonitor
    endpoint = Endpoint(str(of.address), of.protocol_port)
    return ParsedMember(of.member_id, endpoint, checks is not None and is_up(checks))
