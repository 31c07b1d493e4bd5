"""Options that frontends and backends share: addresses, TLS, health checks."""

from typing import NamedTuple

from amphora_agent.model.addressing import Address, with_brackets
from amphora_agent.model.loadbalancer.accessors import is_up
from amphora_agent.model.loadbalancer.types import (
    HttpMethod,
    Listener,
    ListenerProtocol,
    MonitorType,
    Pool,
    TlsVersion,
)

_TLS13 = "TLS_"

_HTTP = frozenset(
    {ListenerProtocol.HTTP, ListenerProtocol.PROMETHEUS, ListenerProtocol.TERMINATED_HTTPS}
)
_VERSION_OPTIONS = {
    TlsVersion.SSLV3: "no-sslv3",
    TlsVersion.TLSV1: "no-tlsv10",
    TlsVersion.TLSV1_1: "no-tlsv11",
    TlsVersion.TLSV1_2: "no-tlsv12",
    TlsVersion.TLSV1_3: "no-tlsv13",
}


class Tls(NamedTuple):
    """What both ends of TLS can be told."""

    ciphers: str
    ciphersuites: str
    without: tuple[str, ...]
    alpn: str


def reads_http(listener: Listener) -> bool:
    """Whether haproxy understands what clients say to it."""
    return listener.protocol in _HTTP


def endpoint(address: Address, port: int) -> str:
    """Return an address and port as haproxy reads them."""
    return f"{with_brackets(address)}:{port}"


def tls(thing: Listener | Pool) -> Tls:
    """What a listener says to clients, a pool to members."""
    suites = (thing.tls_ciphers or "").split(":")
    versions = thing.tls_versions
    without = (
        ()
        if versions is None
        else tuple(
            option for version, option in _VERSION_OPTIONS.items() if version not in versions
        )
    )
    return Tls(
        ciphers=":".join(name for name in suites if not name.startswith(_TLS13)),
        ciphersuites=":".join(name for name in suites if name.startswith(_TLS13)),
        without=without,
        alpn=",".join(thing.alpn_protocols or ()),
    )


#: Octavia's default (`max_retries_down`).
_FALL = 3


class Check(NamedTuple):
    """Times in seconds, `rise` and `fall` in checks. `method`, `path` and `expected` are "" for
    what is not of HTTP."""

    type: MonitorType
    timeout: int
    delay: int
    rise: int
    fall: int
    method: str
    path: str
    version: str
    host: str
    expected: str


def of(pool: Pool) -> Check | None:
    """None for members that nobody checks."""
    monitor = pool.healthmonitor
    if not monitor or not is_up(monitor):
        return None
    http = monitor.type in (MonitorType.HTTP, MonitorType.HTTPS)
    return Check(
        type=monitor.type,
        timeout=monitor.timeout,
        delay=monitor.delay,
        rise=monitor.max_retries,
        fall=monitor.max_retries_down or _FALL,
        method=str(monitor.http_method or HttpMethod.GET) if http else "",
        path=(monitor.url_path or "/") if http else "",
        version=f"{monitor.http_version:.1f}" if monitor.http_version else "1.0",
        host=monitor.domain_name or "",
        expected=(monitor.expected_codes or "200") if http else "",
    )
