"""Validation of the TLS options of listeners and pools."""

import functools
import ssl
from collections.abc import Iterator

from amphora_agent.model.decode import Problem, either
from amphora_agent.model.loadbalancer.types import ClientAuthentication, Listener, Pool, TlsVersion

#: What haproxy does not speak any more: to members, and to clients, unless one that is newer is
#: among them.
_DEAD_VERSIONS = frozenset({TlsVersion.SSLV3})
_DEAD_TO_CLIENTS = _DEAD_VERSIONS | {TlsVersion.TLSV1, TlsVersion.TLSV1_1}
#: The suites of TLS 1.3, which OpenSSL names apart from all others.
_TLS13_SUITES = frozenset(
    {
        "TLS_AES_128_CCM_8_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    }
)
_CONTAINERS = (
    "client_ca_tls_container_data",
    "client_ca_tls_container_ref",
    "client_crl_container_data",
    "client_crl_container_ref",
    "default_tls_container_data",
    "default_tls_container_ref",
    "sni_container_data",
    "sni_container_refs",
)


def of_listener(path: str, listener: Listener) -> Iterator[Problem]:
    """What is wrong with the TLS of the listener at `path`, or with what it says of it without
    having any."""
    if not listener.terminates_tls:
        for name in _CONTAINERS:
            if getattr(listener, name):
                words = f"a {listener.protocol} listener does not use it; TERMINATED_HTTPS does"
                yield Problem(f"{path}.{name}", words)
        return
    if not listener.has_certificate:
        words = "TERMINATED_HTTPS needs it, or a certificate in sni_container_data"
        yield Problem(f"{path}.default_tls_container_data", words)
    yield from of_either(path, listener)
    asks = listener.client_authentication not in (None, ClientAuthentication.NONE)
    if asks and not listener.has_client_ca:
        words = f"{listener.client_authentication} client_authentication needs it"
        yield Problem(f"{path}.client_ca_tls_container_data", words)
    if listener.has_client_crl and not listener.has_client_ca:
        yield Problem(f"{path}.client_crl_container_data", "a CRL needs a client CA")


def of_either(path: str, thing: Listener | Pool) -> Iterator[Problem]:
    """What is wrong with that which listeners and pools say alike."""
    dead = _DEAD_TO_CLIENTS if isinstance(thing, Listener) else _DEAD_VERSIONS
    if thing.tls_versions == ():
        yield Problem(f"{path}.tls_versions", "is empty; leave it out for the default")
    elif thing.tls_versions and dead.issuperset(thing.tls_versions):
        words = f"nothing but {either(thing.tls_versions)}, which haproxy does not speak"
        yield Problem(f"{path}.tls_versions", words)
    if thing.alpn_protocols == ():
        yield Problem(f"{path}.alpn_protocols", "is empty; leave it out for the default")
    yield from _ciphers(f"{path}.tls_ciphers", thing.tls_ciphers)


def _ciphers(path: str, ciphers: str | None) -> Iterator[Problem]:
    names = ciphers.split(":") if ciphers else []
    suites = [name for name in names if name.startswith("TLS_")]
    for name in suites:
        if name not in _TLS13_SUITES:
            allowed = ", ".join(sorted(_TLS13_SUITES))
            yield Problem(path, f"{name} is no suite of TLS 1.3; allowed: {allowed}")
    if len(suites) < len(names):
        rest = ":".join(name for name in names if name not in suites)
        if not _is_known_to_openssl(rest):
            yield Problem(path, "OpenSSL knows none of these")


@functools.lru_cache(maxsize=256)  # most listeners have the same
def _is_known_to_openssl(ciphers: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
    except ssl.SSLError:
        return False
    return True
