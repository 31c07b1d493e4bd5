"""A load balancer as `octavia_lib`'s provider data model writes it: its fields, names, constants.

These are the bodies of API 2.0 (`LoadBalancer.to_dict(recurse=True)`). A field that is null says no
more than one that is missing. What one field alone may be is said here; what several fields must be
together is said in `validation.py`.
"""

import enum
import re
from typing import Annotated, Any

from msgspec import Meta, Struct

from amphora_agent.model.addressing import Address, Network
from amphora_agent.model.field_types import (
    Ciphers,
    ConnectionLimit,
    CookieName,
    DomainName,
    ExpectedCodes,
    HeaderName,
    Id,
    MaxAge,
    Milliseconds,
    Pem,
    Port,
    Position,
    Retries,
    RuleValue,
    Seconds,
    Text,
    Url,
    UrlPath,
    Weight,
)

#: The backend that asks the agent for metrics; no listener or pool may have its name.
METRICS_BACKEND = "prometheus-exporter-internal"


class ListenerProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    PROMETHEUS = "PROMETHEUS"
    SCTP = "SCTP"
    TCP = "TCP"
    TERMINATED_HTTPS = "TERMINATED_HTTPS"
    UDP = "UDP"


class PoolProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    PROXY = "PROXY"
    PROXYV2 = "PROXYV2"
    SCTP = "SCTP"
    TCP = "TCP"
    UDP = "UDP"


class Algorithm(enum.StrEnum):
    LEAST_CONNECTIONS = "LEAST_CONNECTIONS"
    ROUND_ROBIN = "ROUND_ROBIN"
    SOURCE_IP = "SOURCE_IP"
    SOURCE_IP_PORT = "SOURCE_IP_PORT"


class PersistenceType(enum.StrEnum):
    APP_COOKIE = "APP_COOKIE"
    HTTP_COOKIE = "HTTP_COOKIE"
    SOURCE_IP = "SOURCE_IP"


class MonitorType(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    PING = "PING"
    SCTP = "SCTP"
    TCP = "TCP"
    TLS_HELLO = "TLS-HELLO"
    UDP_CONNECT = "UDP-CONNECT"


class HttpMethod(enum.StrEnum):
    CONNECT = "CONNECT"
    DELETE = "DELETE"
    GET = "GET"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"
    PATCH = "PATCH"
    POST = "POST"
    PUT = "PUT"
    TRACE = "TRACE"


class Action(enum.StrEnum):
    REDIRECT_PREFIX = "REDIRECT_PREFIX"
    REDIRECT_TO_POOL = "REDIRECT_TO_POOL"
    REDIRECT_TO_URL = "REDIRECT_TO_URL"
    REJECT = "REJECT"


class RuleType(enum.StrEnum):
    COOKIE = "COOKIE"
    FILE_TYPE = "FILE_TYPE"
    HEADER = "HEADER"
    HOST_NAME = "HOST_NAME"
    PATH = "PATH"
    SSL_CONN_HAS_CERT = "SSL_CONN_HAS_CERT"
    SSL_DN_FIELD = "SSL_DN_FIELD"
    SSL_VERIFY_RESULT = "SSL_VERIFY_RESULT"


class CompareType(enum.StrEnum):
    CONTAINS = "CONTAINS"
    ENDS_WITH = "ENDS_WITH"
    EQUAL_TO = "EQUAL_TO"
    REGEX = "REGEX"
    STARTS_WITH = "STARTS_WITH"


class ClientAuthentication(enum.StrEnum):
    MANDATORY = "MANDATORY"
    NONE = "NONE"
    OPTIONAL = "OPTIONAL"


class TlsVersion(enum.StrEnum):
    SSLV3 = "SSLv3"
    TLSV1 = "TLSv1"
    TLSV1_1 = "TLSv1.1"
    TLSV1_2 = "TLSv1.2"
    TLSV1_3 = "TLSv1.3"


class AlpnProtocol(enum.StrEnum):
    HTTP_1_0 = "http/1.0"
    HTTP_1_1 = "http/1.1"
    HTTP_2 = "h2"


class InsertHeader(enum.StrEnum):
    """The headers that a listener can add to requests."""

    CLIENT_IP = "X-Client-IP"
    FORWARDED_FOR = "X-Forwarded-For"
    FORWARDED_IP = "X-Forwarded-IP"
    FORWARDED_PORT = "X-Forwarded-Port"
    FORWARDED_PROTO = "X-Forwarded-Proto"
    REAL_IP = "X-Real-IP"
    SSL_CLIENT_CN = "X-SSL-Client-CN"
    SSL_CLIENT_DN = "X-SSL-Client-DN"
    SSL_CLIENT_HAS_CERT = "X-SSL-Client-Has-Cert"
    SSL_CLIENT_NOT_AFTER = "X-SSL-Client-Not-After"
    SSL_CLIENT_NOT_BEFORE = "X-SSL-Client-Not-Before"
    SSL_CLIENT_SHA1 = "X-SSL-Client-SHA1"
    SSL_CLIENT_VERIFY = "X-SSL-Client-Verify"
    SSL_ISSUER = "X-SSL-Issuer"


class Truth(enum.StrEnum):
    """Octavia writes the values of `insert_headers` as words."""

    FALSE = "false"
    FALSE_CAPITAL = "False"
    TRUE = "true"
    TRUE_CAPITAL = "True"


_TRUE = (True, Truth.TRUE, Truth.TRUE_CAPITAL)


class _Object(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name is never ignored: one that is misspelt would change what a load balancer does."""


class TlsContainer(_Object, frozen=True, kw_only=True):
    """A certificate with its key, as Octavia has it from its certificate manager."""

    id: Text | None = None
    primary_cn: Text | None = None
    certificate: Pem
    #: It can be left out where the amphora has it already: it is never given back.
    private_key: Pem | None = None
    #: Keys come decrypted.
    passphrase: None = None
    intermediates: tuple[Pem, ...] | None = None


class SessionPersistence(_Object, frozen=True, kw_only=True):
    type: PersistenceType
    cookie_name: CookieName | None = None
    persistence_timeout: Seconds | None = None
    persistence_granularity: Address | None = None


class HealthMonitor(_Object, frozen=True, kw_only=True):
    healthmonitor_id: Id
    type: MonitorType
    delay: Seconds
    timeout: Seconds
    #: How many checks must pass until a member is up.
    max_retries: Retries
    #: How many must fail until it is down; 3.
    max_retries_down: Retries | None = None
    admin_state_up: bool | None = None
    expected_codes: ExpectedCodes | None = None
    http_method: HttpMethod | None = None
    http_version: Annotated[float, Meta(ge=1.0, le=1.1)] | None = None
    url_path: UrlPath | None = None
    domain_name: DomainName | None = None
    name: Text | None = None
    pool_id: Id | None = None
    project_id: Id | None = None


class Member(_Object, frozen=True, kw_only=True):
    member_id: Id
    address: Address
    protocol_port: Port
    weight: Weight | None = None
    backup: bool | None = None
    admin_state_up: bool | None = None
    monitor_address: Address | None = None
    monitor_port: Port | None = None
    name: Text | None = None
    pool_id: Id | None = None
    project_id: Id | None = None
    subnet_id: Text | None = None
    vnic_type: Text | None = None


class Pool(_Object, frozen=True, kw_only=True):
    pool_id: Id
    protocol: PoolProtocol
    lb_algorithm: Algorithm
    members: tuple[Member, ...] | None = None
    healthmonitor: HealthMonitor | None = None
    session_persistence: SessionPersistence | None = None
    admin_state_up: bool | None = None
    tls_enabled: bool | None = None
    tls_container_ref: Text | None = None
    tls_container_data: TlsContainer | None = None
    ca_tls_container_ref: Text | None = None
    ca_tls_container_data: Pem | None = None
    crl_container_ref: Text | None = None
    crl_container_data: Pem | None = None
    tls_versions: tuple[TlsVersion, ...] | None = None
    tls_ciphers: Ciphers | None = None
    alpn_protocols: tuple[AlpnProtocol, ...] | None = None
    name: Text | None = None
    description: Text | None = None
    listener_id: Id | None = None
    loadbalancer_id: Id | None = None
    project_id: Id | None = None

    @property
    def has_ca(self) -> bool:
        return bool(self.ca_tls_container_data or self.ca_tls_container_ref)

    @property
    def has_crl(self) -> bool:
        return bool(self.crl_container_data or self.crl_container_ref)


class L7Rule(_Object, frozen=True, kw_only=True):
    l7rule_id: Id
    type: RuleType
    compare_type: CompareType
    value: RuleValue
    key: HeaderName | None = None
    invert: bool | None = None
    admin_state_up: bool | None = None
    l7policy_id: Id | None = None
    project_id: Id | None = None

    @property
    def compared_value(self) -> str:
        """What a request must have. RFC 9110 has a way to quote the value of a header: the quotes
        are not part of it."""
        if self.compare_type is not CompareType.REGEX and re.fullmatch('".*"', self.value):
            return self.value[1:-1]
        return self.value


class L7Policy(_Object, frozen=True, kw_only=True):
    l7policy_id: Id
    action: Action
    position: Position | None = None
    rules: tuple[L7Rule, ...] | None = None
    redirect_pool_id: Id | None = None
    redirect_pool: Pool | None = None
    redirect_url: Url | None = None
    redirect_prefix: Url | None = None
    redirect_http_code: Annotated[int, Meta(ge=301, le=308)] | None = None
    admin_state_up: bool | None = None
    name: Text | None = None
    description: Text | None = None
    listener_id: Id | None = None
    project_id: Id | None = None

    @property
    def target_pool_id(self) -> str | None:
        """The id of the pool that the policy redirects to, in whichever field it is."""
        if self.redirect_pool_id is None and self.redirect_pool:
            return self.redirect_pool.pool_id
        return self.redirect_pool_id


class Listener(_Object, frozen=True, kw_only=True):
    listener_id: Id
    protocol: ListenerProtocol
    protocol_port: Port
    default_pool_id: Id | None = None
    default_pool: Pool | None = None
    l7policies: tuple[L7Policy, ...] | None = None
    admin_state_up: bool | None = None
    connection_limit: ConnectionLimit | None = None
    insert_headers: dict[InsertHeader, Truth | bool] | None = None
    timeout_client_data: Milliseconds | None = None
    timeout_member_connect: Milliseconds | None = None
    timeout_member_data: Milliseconds | None = None
    timeout_tcp_inspect: Milliseconds | None = None
    allowed_cidrs: tuple[Network, ...] | None = None
    default_tls_container_ref: Text | None = None
    default_tls_container_data: TlsContainer | None = None
    sni_container_refs: tuple[Text, ...] | None = None
    sni_container_data: tuple[TlsContainer, ...] | None = None
    client_authentication: ClientAuthentication | None = None
    client_ca_tls_container_ref: Text | None = None
    client_ca_tls_container_data: Pem | None = None
    client_crl_container_ref: Text | None = None
    client_crl_container_data: Pem | None = None
    tls_versions: tuple[TlsVersion, ...] | None = None
    tls_ciphers: Ciphers | None = None
    alpn_protocols: tuple[AlpnProtocol, ...] | None = None
    hsts_max_age: MaxAge | None = None
    hsts_include_subdomains: bool | None = None
    hsts_preload: bool | None = None
    name: Text | None = None
    description: Text | None = None
    loadbalancer_id: Id | None = None
    project_id: Id | None = None

    @property
    def target_pool_id(self) -> str | None:
        """The id of the default pool, in whichever field it is."""
        if self.default_pool_id is None and self.default_pool:
            return self.default_pool.pool_id
        return self.default_pool_id

    @property
    def is_layer4(self) -> bool:
        """Return whether keepalived serves the listener, and not haproxy."""
        return self.protocol in (ListenerProtocol.UDP, ListenerProtocol.SCTP)

    @property
    def reads_http(self) -> bool:
        """Return whether haproxy reads what clients say to the listener as HTTP."""
        return self.protocol in (
            ListenerProtocol.HTTP,
            ListenerProtocol.PROMETHEUS,
            ListenerProtocol.TERMINATED_HTTPS,
        )

    @property
    def transport(self) -> ListenerProtocol:
        """TCP, UDP or SCTP."""
        return self.protocol if self.is_layer4 else ListenerProtocol.TCP

    @property
    def has_certificate(self) -> bool:
        return bool(
            self.default_tls_container_data
            or self.default_tls_container_ref
            or self.sni_container_data
            or self.sni_container_refs
        )

    @property
    def terminates_tls(self) -> bool:
        """A PROMETHEUS listener does so when it has a certificate."""
        if self.protocol is ListenerProtocol.PROMETHEUS:
            return self.has_certificate
        return self.protocol is ListenerProtocol.TERMINATED_HTTPS

    @property
    def has_client_ca(self) -> bool:
        return bool(self.client_ca_tls_container_data or self.client_ca_tls_container_ref)

    @property
    def has_client_crl(self) -> bool:
        return bool(self.client_crl_container_data or self.client_crl_container_ref)

    @property
    def added_headers(self) -> tuple[InsertHeader, ...]:
        """The headers that the listener adds to requests."""
        headers = self.insert_headers or {}
        return tuple(name for name, value in headers.items() if value in _TRUE)


class AdditionalVip(_Object, frozen=True, kw_only=True):
    """`load_balancer…` is what Octavia's own conversion leaves in of its database's objects."""

    ip_address: Address
    load_balancer: dict[str, Any] | None = None
    load_balancer_id: Id | None = None
    network_id: Text | None = None
    port_id: Text | None = None
    subnet_id: Text | None = None


class LoadBalancer(_Object, frozen=True, kw_only=True):
    loadbalancer_id: Id
    vip_address: Address
    additional_vips: tuple[AdditionalVip, ...] | None = None
    listeners: tuple[Listener, ...] | None = None
    pools: tuple[Pool, ...] | None = None
    admin_state_up: bool | None = None
    name: Text | None = None
    description: Text | None = None
    #: Whatever the operator has put into it. It is stored and given back.
    flavor: Any = None
    #: The same of the availability zone.
    availability_zone: Any = None
    project_id: Id | None = None
    vip_network_id: Text | None = None
    vip_port_id: Text | None = None
    vip_qos_policy_id: Text | None = None
    vip_sg_ids: tuple[Text, ...] | None = None
    vip_subnet_id: Text | None = None
