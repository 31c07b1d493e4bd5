"""Which pools and members a configuration holds: what is down when haproxy is."""

from amphora_agent.haproxy.config import parser, queries

CONFIGURATION = """
backend p1:l1
    mode http
    server m1 198.51.100.1:80 weight 1 check
    server m2 198.51.100.2:80 disabled
    option httpchk GET /server
backend p2:l1
backend prometheus-exporter-internal
    server prometheus-internal 127.0.0.1:9102
frontend l1
    default_backend p1:l1
"""


def test_pools_are_backends_with_their_servers_and_without_the_agent_s_own() -> None:
    parsed = parser.parse_config(CONFIGURATION, queries.POOL_KEYWORDS)
    assert queries.list_pools(parsed) == {"p1:l1": ("m1", "m2"), "p2:l1": ()}
