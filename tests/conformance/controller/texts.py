"""Configurations for haproxy of all kinds, rendered by the controller's own templates.

The load balancers are made up, by chance but (save their ids) the same for the same seed. Whatever
there is to choose from is dealt like a deck of cards: every card is played before one comes again.
"""

import inspect
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

from octavia.common import constants, data_models

from controller import loadbalancers
from controller.release import ONLY_LISTENERS, known_to

#: Where the controller's own settings have the amphora's files.
BASE_PATH = "/var/lib/octavia"
CERTIFICATES = f"{BASE_PATH}/certs"

_HAPROXIES = ("1.5.18", "1.8.30", "2.0.13", "2.6.12", "2.8.25", "3.0.11")
_DETAILS = (
    {},
    {"active_tuned_profiles": "", "cpu_count": "2", "memory": None},
    {
        "active_tuned_profiles": "virtual-guest optimize-serial-console amphora",
        "cpu_count": "4",
        "memory": {"free": 1_500_000, "buffers": 20_000, "cached": 100_000},
    },
)
_VIPS = ("10.1.0.5", "203.0.113.7", "2001:db8:1::5")
_ADDRESSES = ("10.2.0.11", "10.2.0.12", "192.0.2.33", "2001:db8:2::11", "fe80::1")
_HEADERS = (
    "X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-SSL-Client-Verify",
    "X-SSL-Client-Has-Cert", "X-SSL-Client-DN", "X-SSL-Client-CN", "X-SSL-Issuer",
    "X-SSL-Client-SHA1", "X-SSL-Client-Not-Before", "X-SSL-Client-Not-After",
)  # fmt: skip
_COMPARISONS = ("REGEX", "STARTS_WITH", "ENDS_WITH", "CONTAINS", "EQUAL_TO")
_RULES = (
    *itertools.product(
        ("HOST_NAME", "PATH", "FILE_TYPE", "HEADER", "COOKIE", "SSL_DN_FIELD"),
        _COMPARISONS,
        (False, True),
    ),
    *itertools.product(("SSL_CONN_HAS_CERT", "SSL_VERIFY_RESULT"), ("EQUAL_TO",), (False, True)),
)
#: What the API lets users compare with; the templates escape some of it, for better or worse.
_VALUES = (
    "www.example.com", "/api/v1", "png", "two words", " ", "back\\slash", "\\\\", 'quo"te', "it's",
    "a#b", "^/(a|b)[0-9]+\\.php$", "\\d{2,4}\\s+", "été", "$HOME", "${HOME}", "%[env(HOME)]",
    "{a}", "a&b<c>", "a,b;c", "frontend", "-i", "\\x41", "100%", "a" * 255,
)  # fmt: skip
_KEYS = {"HEADER": "X-Tenant", "COOKIE": "session_id", "SSL_DN_FIELD": "O"}
_TLS_VERSIONS = (
    None,
    ["TLSv1.2", "TLSv1.3"],
    ["TLSv1.3"],
    ["TLSv1.2"],
    ["SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
)
_CIPHERS = (
    None,
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
)
_ALPN = (None, ["http/1.1"], ["h2", "http/1.1"], ["h2", "http/1.1", "http/1.0"])


def rendered(seed: int = 0, balancers: int = 300) -> Iterator[tuple[str, str]]:
    """The texts for so many load balancers, each with a name that says what it is of."""
    made_up = _MadeUp(seed)
    for number in range(balancers):
        balancer = made_up.load_balancer()
        for renderer in _renderers():
            for what, text in renderer(balancer, made_up):
                yield f"{number} {what}", text


class _MadeUp:
    """Load balancers by chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._decks: dict[str, list[Any]] = {}
        #: Files of certificates, as the controller's driver passes them on to the templates.
        self.certificates: dict[str, Any] = {}

    def one_of(self, name: str, choices: Sequence[Any]) -> Any:
        """The next card of the deck with this name."""
        deck = self._decks.setdefault(name, [])
        if not deck:
            deck.extend(choices)
            self._chance.shuffle(deck)
        return deck.pop()

    def some(self, name: str, choices: Sequence[Any]) -> list[Any]:
        taken = self.one_of(f"{name} number", range(len(choices) + 1))
        return self._chance.sample(choices, taken)

    def often(self, name: str) -> bool:
        """Mostly true; for what would leave nothing to look at when it is not."""
        return bool(self.one_of(name, (True,) * 7 + (False,)))

    def load_balancer(self) -> data_models.LoadBalancer:
        self.certificates = {}
        host = _amphora("10.1.0.11")
        topology = self.one_of(
            "topology", (constants.TOPOLOGY_SINGLE, constants.TOPOLOGY_ACTIVE_STANDBY)
        )
        more = self.one_of("more VIPs", ((), ("10.3.0.5",), ("10.3.0.5", "2001:db8:3::5")))
        balancer = loadbalancers.load_balancer(
            host,
            self.one_of("vip", _VIPS),
            additional_vips=more if hasattr(data_models, "AdditionalVip") else (),
            topology=topology,
        )
        balancer.enabled = self.often("load balancer enabled")
        if topology == constants.TOPOLOGY_ACTIVE_STANDBY:
            other = _amphora("10.1.0.12")
            other.load_balancer_id = balancer.id
            balancer.amphorae.append(other)
        for port in range(80, 80 + self.one_of("listeners", (1, 1, 2, 3))):
            self._listener(balancer, port)
        return balancer

    def _listener(self, balancer: data_models.LoadBalancer, port: int) -> None:
        protocol = self.one_of("protocol", _protocols())
        encrypted = protocol == "TERMINATED_HTTPS"
        fields = {
            "enabled": self.often("listener enabled"),
            "connection_limit": self.one_of("limit", (None, -1, 1, 2000, 1_000_000)),
            "insert_headers": dict.fromkeys(self.some("headers", _HEADERS), "true"),
            "timeout_client_data": self.one_of("timeout", (None, 1, 50000, 86_400_000)),
            "timeout_member_connect": self.one_of("timeout", (None, 1, 50000, 86_400_000)),
            "timeout_member_data": self.one_of("timeout", (None, 1, 50000, 86_400_000)),
            "timeout_tcp_inspect": self.one_of("inspect", (None, 0, 5000)),
            "allowed_cidrs": [],
        }
        if hasattr(data_models, "ListenerCidr"):
            fields["allowed_cidrs"] = [
                data_models.ListenerCidr(cidr=cidr)
                for cidr in self.some("cidrs", ("10.0.0.0/8", "2001:db8::/32"))
            ]
        if encrypted:
            fields |= self._listener_tls()
        sni = self.some("sni", ("sni 1", "sni 2")) if encrypted else ()
        listener = loadbalancers.listener(
            balancer, protocol, port, sni=sni, **known_to(data_models.Listener, fields)
        )
        if protocol in ("UDP", "SCTP", "PROMETHEUS"):
            return
        if self.one_of("default pool", (True, True, True, False)):
            self._pool(listener, default=True)
        others = [pool for pool in balancer.pools if pool not in listener.pools]
        if others and self.one_of("shared", (True, False)):
            loadbalancers.attach(listener, others[0], default=listener.default_pool is None)
        if protocol in ("HTTP", "TERMINATED_HTTPS"):
            for _ in range(self.one_of("policies", (0, 1, 2, 4))):
                self._policy(listener)

    def _listener_tls(self) -> dict[str, Any]:
        ca = self.one_of("client CA", (None, "client CA"))
        crl = self.one_of("client CRL", (None, "client CRL")) if ca else None
        for reference in filter(None, (ca, crl)):
            self.certificates[reference] = f"{loadbalancers.new_id()}.pem"
        return {
            "tls_certificate_id": "certificate",
            "client_ca_tls_certificate_id": ca,
            "client_crl_container_id": crl,
            "client_authentication": self.one_of("auth", ("NONE", "OPTIONAL", "MANDATORY")),
            "hsts_max_age": self.one_of("HSTS", (None, 0, 31_536_000)),
            "hsts_include_subdomains": self.one_of("HSTS subdomains", (True, False)),
            "hsts_preload": self.one_of("HSTS preload", (True, False)),
            **self._tls("listener"),
        }

    def _tls(self, of: str) -> dict[str, Any]:
        versions = self.one_of(f"{of} TLS versions", _TLS_VERSIONS)
        ciphers = self.one_of(f"{of} ciphers", _CIPHERS)
        return {
            "tls_versions": versions,
            # Versions without ciphers are more than the templates can take.
            "tls_ciphers": ciphers or (_CIPHERS[1] if versions else None),
            "alpn_protocols": self.one_of(f"{of} ALPN", _ALPN),
        }

    def _pool(self, listener: data_models.Listener, *, default: bool) -> data_models.Pool:
        choices = {
            "TCP": ("TCP", "PROXY", "PROXYV2"),
            "HTTPS": ("HTTPS", "TCP", "PROXY", "PROXYV2"),
        }.get(listener.protocol, ("HTTP", "PROXY", "PROXYV2"))
        known = [each for each in choices if each in _protocol_map()]
        fields: dict[str, Any] = {
            "lb_algorithm": self.one_of(
                "algorithm", ("ROUND_ROBIN", "LEAST_CONNECTIONS", "SOURCE_IP")
            ),
            "enabled": self.often("pool enabled"),
            "tls_enabled": self.one_of("pool TLS", (False, False, True)),
        }
        references = {}
        if fields["tls_enabled"]:
            fields |= self._tls("pool")
            for field, file in (
                ("tls_certificate_id", "client_cert"),
                ("ca_tls_certificate_id", "ca_cert"),
                ("crl_container_id", "crl"),
            ):
                if self.one_of(field, (True, False)):
                    fields[field] = file
                    references[file] = (
                        f"{CERTIFICATES}/{listener.load_balancer_id}/{loadbalancers.new_id()}.pem"
                    )
        pool = loadbalancers.pool(
            listener,
            self.one_of(f"{listener.protocol} pool", known),
            default=default,
            **known_to(data_models.Pool, fields),
        )
        self.certificates[pool.id] = references
        if not self.often("pool stays"):
            pool.provisioning_status = constants.PENDING_DELETE
        for number in range(self.one_of("members", (0, 1, 2, 5))):
            self._member(pool, number)
        if kind := self.one_of("persistence", (None, "SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE")):
            loadbalancers.persistence(pool, kind, "JSESSIONID" if kind == "APP_COOKIE" else None)
        kind = self.one_of("monitor", (None, "PING", "TCP", "HTTP", "HTTPS", "TLS-HELLO"))
        if kind is not None:
            self._monitor(pool, kind)
        return pool

    def _member(self, pool: data_models.Pool, number: int) -> None:
        fields = {
            "weight": self.one_of("weight", (0, 1, 10, 256)),
            "backup": self.one_of("backup", (False, False, True)),
            "enabled": self.often("member enabled"),
            "monitor_address": self.one_of("monitor address", (None, None, *_ADDRESSES)),
            "monitor_port": self.one_of("monitor port", (None, None, 8080)),
        }
        member = loadbalancers.member(
            pool,
            self.one_of("address", _ADDRESSES),
            8000 + number,
            **known_to(data_models.Member, fields),
        )
        if not self.often("member stays"):
            member.provisioning_status = constants.PENDING_DELETE

    def _monitor(self, pool: data_models.Pool, kind: str) -> None:
        fields: dict[str, Any] = {
            "delay": self.one_of("delay", (1, 5, 3600)),
            "timeout": self.one_of("monitor timeout", (1, 3)),
            "rise_threshold": self.one_of("rise", (1, 10)),
            "fall_threshold": self.one_of("fall", (1, 10)),
            "enabled": self.often("monitor enabled"),
        }
        if kind in ("HTTP", "HTTPS"):
            fields |= {
                "http_method": self.one_of(
                    "method",
                    ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH",
                     "CONNECT"),
                ),
                "url_path": self.one_of("path", ("/", "/health?a=b&c=d", "/a/b~c;d%20e")),
                "expected_codes": self.one_of("codes", ("200", "200,202", "200-204")),
                "http_version": self.one_of("version", (None, 1.0, 1.1)),
                "domain_name": self.one_of("domain", (None, "www.example.com")),
            }  # fmt: skip
        loadbalancers.monitor(pool, kind, **known_to(data_models.HealthMonitor, fields))

    def _policy(self, listener: data_models.Listener) -> None:
        known = inspect.signature(data_models.L7Policy.__init__).parameters
        prefix = ("REDIRECT_PREFIX",) if "redirect_prefix" in known else ()
        action = self.one_of("action", ("REJECT", "REDIRECT_TO_URL", "REDIRECT_TO_POOL", *prefix))
        fields: dict[str, Any] = {
            "enabled": self.often("policy enabled"),
            "redirect_http_code": self.one_of("code", (None, 301, 302, 303, 307, 308)),
        }
        if action == "REDIRECT_TO_POOL":
            fields["redirect_pool"] = self._pool(listener, default=False)
        elif action == "REDIRECT_TO_URL":
            fields["redirect_url"] = "https://www.example.com/a?b=c&d=%20e"
        elif action == "REDIRECT_PREFIX":
            fields["redirect_prefix"] = "https://www.example.com:8443"
        policy = loadbalancers.policy(
            listener, action, (), **known_to(data_models.L7Policy, fields)
        )
        for _ in range(self.one_of("rules", (0, 1, 2, 3))):
            kind, comparison, invert = self.one_of("rule", _RULES)
            value = {"SSL_CONN_HAS_CERT": "True", "SSL_VERIFY_RESULT": "0"}.get(kind)
            loadbalancers.rule(
                policy,
                kind,
                comparison,
                value or self.one_of("value", _VALUES),
                key=_KEYS.get(kind),
                invert=invert,
                enabled=self.often("rule enabled"),
            )


def _amphora(vrrp_ip: str) -> data_models.Amphora:
    made = loadbalancers.amphora(loadbalancers.new_id(), api_version="1.0")
    made.vrrp_ip = vrrp_ip
    return made


def _jinja_cfg() -> list[ModuleType]:
    """The modules of this release that render; release 10 has one for each version of the API."""
    base = "octavia.common.jinja.haproxy"
    names = (f"{base}.jinja_cfg", f"{base}.combined_listeners", f"{base}.split_listeners")
    return [
        import_module(name if name.endswith("jinja_cfg") else f"{name}.jinja_cfg")
        for name in names
        if find_spec(name) is not None
    ]


def _protocol_map() -> Mapping[str, str]:
    protocols: Mapping[str, str] = _jinja_cfg()[0].PROTOCOL_MAP
    return protocols


def _protocols() -> list[str]:
    """What listeners can speak in this release."""
    known = [each for each in _protocol_map() if not each.startswith("PROXY")]
    return known if ONLY_LISTENERS else [*known, "UDP"]


def _renderers() -> list[Any]:
    return [
        _by_listener(module) if _one_listener(module) else _by_balancer(module)
        for module in _jinja_cfg()
    ]


def _one_listener(module: ModuleType) -> bool:
    return "listener" in inspect.signature(module.JinjaTemplater.build_config).parameters


def _by_balancer(module: ModuleType) -> Any:
    def render(balancer: data_models.LoadBalancer, made_up: _MadeUp) -> Iterator[tuple[str, str]]:
        yield (
            f"load balancer of {_protocols_of(balancer.listeners)}",
            _build(
                module,
                made_up,
                host_amphora=balancer.amphorae[0],
                listeners=balancer.listeners,
                tls_certs=made_up.certificates,
            ),
        )

    return render


def _by_listener(module: ModuleType) -> Any:
    def render(balancer: data_models.LoadBalancer, made_up: _MadeUp) -> Iterator[tuple[str, str]]:
        for listener in balancer.listeners:
            protocols = {listener.protocol, *(pool.protocol for pool in listener.pools)}
            # What came later than API 1.0 these templates do not know; UDP has others.
            if not protocols <= module.PROTOCOL_MAP.keys():
                continue
            certificates = made_up.certificates
            yield (
                f"listener of {_protocols_of([listener])}",
                _build(
                    module,
                    made_up,
                    host_amphora=balancer.amphorae[0],
                    listener=listener,
                    tls_cert=SimpleNamespace(id=loadbalancers.new_id()),
                    client_ca_filename=certificates.get(
                        getattr(listener, "client_ca_tls_certificate_id", None)
                    ),
                    client_crl=certificates.get(getattr(listener, "client_crl_container_id", None)),
                    pool_tls_certs=certificates,
                ),
            )

    return render


def _protocols_of(listeners: Sequence[data_models.Listener]) -> str:
    return ", ".join(listener.protocol for listener in listeners)


def _build(module: ModuleType, made_up: _MadeUp, **arguments: Any) -> str:
    """Build a configuration as the controller does, with those arguments that it knows here."""
    settings = {
        "base_amp_path": BASE_PATH,
        "base_crt_dir": CERTIFICATES,
        "connection_logging": made_up.often("connection logging"),
    }
    arguments |= {
        "haproxy_versions": made_up.one_of("haproxy", _HAPROXIES).split("."),
        "amp_details": made_up.one_of("details", _DETAILS),
    }
    templater = module.JinjaTemplater(**_known(module.JinjaTemplater.__init__, settings))
    text: str = templater.build_config(**_known(templater.build_config, arguments))
    return text


def _known(callee: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    names = inspect.signature(callee).parameters
    return {name: value for name, value in arguments.items() if name in names}
