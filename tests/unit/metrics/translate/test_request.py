"""What a scrape asks for."""

import pytest

from amphora_agent.metrics.translate.exposition import ScrapeRefused, parse_scrape
from amphora_agent.model.status import Scope


def header(target: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return f"{method} {target} {version}\r\nHost: amphora\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("query", "scopes"),
    [
        ("", set(Scope)),
        ("?", set(Scope)),
        ("?other=1", set(Scope)),
        ("?scope=*", set(Scope)),
        ("?scope=listener", {Scope.LISTENER}),
        ("?scope=listener&scope=pool", {Scope.LISTENER, Scope.POOL}),
        ("?scope=memory_pool", {Scope.MEMORY_POOL}),
        # As haproxy's own exporter has them.
        ("?scope=global", {Scope.LOADBALANCER, Scope.MEMORY_POOL}),
        ("?scope=frontend&scope=server", {Scope.LISTENER, Scope.MEMBER}),
        ("?scope=%66rontend", {Scope.LISTENER}),
    ],
)
def test_a_scrape_can_be_narrowed(query: str, scopes: set[Scope]) -> None:
    assert parse_scrape(header(f"/metrics{query}")).scopes == scopes


def test_only_http_1_1_takes_chunks_and_only_head_no_body() -> None:
    assert parse_scrape(header("/metrics"))[1:] == (True, True)
    assert parse_scrape(header("/metrics", version="HTTP/1.0"))[1:] == (True, False)
    assert parse_scrape(header("/metrics", method="HEAD"))[1:] == (False, True)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (header("/"), "404"),
        (header("/metrics/"), "404"),
        (header("/metrics", method="POST"), "405"),
        (header("/metrics?scope="), "400"),
        (header("/metrics?scope=listener&scope=everything"), "400"),
        (header("/metrics", version="HTTP/2.0"), "400"),
        (b"GET /metrics HTTP/1.1\r\n", "400"),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "400"),
        (b"", "400"),
    ],
)
def test_anything_else_is_refused(data: bytes, status: str) -> None:
    with pytest.raises(ScrapeRefused) as refused:
        parse_scrape(data)
    assert refused.value.status.startswith(f"{status} ")
