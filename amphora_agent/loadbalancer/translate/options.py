"""Options that frontends and backends share: addresses and TLS."""

from typing import NamedTuple

from amphora_agent.model.addressing import Address, with_brackets
from amphora_agent.model.loadbalancer.types import (
    Listener,
    ListenerProtocol,
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


def translate_tls(thing: Listener | Pool) -> Tls:
    """Return what a listener says to clients, a pool to members."""
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
