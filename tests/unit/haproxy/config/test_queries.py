"""Which listeners a configuration holds, and of which type."""

from amphora_agent.haproxy.config.parser import parse_config
from amphora_agent.haproxy.config.queries import ListenerType, list_listeners

CONFIG = """\
frontend web
    bind 10.0.0.1:80
    mode http
frontend secure
    redirect scheme https if !{ ssl_fc }
    bind 10.0.0.1:443 ssl crt-list /certs/secure.pem alpn h2
    bind [2001:db8::1]:443 ssl crt-list /certs/secure.pem alpn h2
    mode http
frontend raw
    bind 10.0.0.1:22
    mode tcp
frontend prometheus
    bind 10.0.0.1:9100
    mode http
    default_backend prometheus-exporter-internal-9:prometheus
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:9101
    mode http
backend crt-list
    mode tcp
    server crt-list 10.0.0.2:80
"""


def test_listeners_are_the_frontends_in_order_with_their_types() -> None:
    assert list_listeners(parse_config(CONFIG)) == (
        ListenerType("web", "HTTP"),
        ListenerType("secure", "TERMINATED_HTTPS"),
        ListenerType("raw", "TCP"),
        ListenerType("prometheus", "HTTP"),
    )


def test_a_configuration_without_frontends_has_no_listeners() -> None:
    assert list_listeners(parse_config("global\nbackend b\n")) == ()


def test_a_crt_list_in_a_comment_does_not_terminate_tls() -> None:
    config = parse_config("frontend f\n bind :80 # ssl crt-list x\n mode tcp # mode http\n")
    assert list_listeners(config) == (ListenerType("f", "TCP"),)
