"""What load balancers can do, by the ids of docs/features.md: requests and their answers.

A row adds to one load balancer what it is about, and yields each request with the answer that is
expected, whichever way the load balancer came to the amphora.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from octavia.common import data_models

from controller import loadbalancers, secrets
from controller.amphora import SECOND_VIP, VIP_V6, WEB1, WEB1_V6, WEB2, WEB3
from controller.application import CHECKED, Application
from controller.release import HAS_ADDITIONAL_VIPS, MAJOR, known_to
from controller.visits import (
    Called,
    Eventually,
    Get,
    Handshake,
    Idle,
    Line,
    OneTooMany,
    Session,
    Spread,
    Together,
    Visit,
)
from lab.backend import Backend
from lab.http import Tls
from lab.network import Namespace
from lab.pki import Authority, Credentials, write_private

#: Whose texts have faults that later releases do not have.
OLD = MAJOR <= 14

#: Two addresses of clients.
ONE, OTHER = "10.1.0.1", "10.1.0.9"
#: An address of the members' segment that nobody has, and a port at which nobody listens.
NOBODY, CLOSED = "10.2.0.200", 9

#: The name of a member that speaks no TLS where TLS is asked of it.
PLAIN = "plain"

WEBS = ((WEB1, 80), (WEB2, 80))
PROXY_WEB, PROXY_LINE = (WEB1, 8080), (WEB1, 7001)
LINES = ((WEB1, 7000), (WEB2, 7000))
TLS_WEB, CAREFUL_TLS_WEB = (WEB1, 443), (WEB2, 443)
STRANGE_TLS_WEB, REVOKED_TLS_WEB = (WEB3, 443), (WEB3, 8443)

_TLS12 = {"minimum": ssl.TLSVersion.TLSv1_2, "maximum": ssl.TLSVersion.TLSv1_2}
_TLS13 = {"minimum": ssl.TLSVersion.TLSv1_3, "maximum": ssl.TLSVersion.TLSv1_3}


class Differs(NamedTuple):
    """What the controller's text makes of a request, and what the model does: a difference that
    docs/features.md names."""

    text: str
    model: str


Cases = Iterator[tuple[Visit, str | Differs]]


@dataclass
class Site:
    """The load balancer that the rows add to, its members and its certificates."""

    balancer: data_models.LoadBalancer
    servers: Namespace
    directory: Path
    ending: ExitStack
    #: The authority of listeners and members, and that of clients.
    tenant: Authority = field(default_factory=lambda: Authority.create("tenant CA", key="ec"))
    clients: Authority = field(default_factory=lambda: Authority.create("client CA", key="ec"))
    applications: list[Application] = field(default_factory=list)
    _certificates: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        strange = Authority.create("another CA", key="ec")
        self.stranger = strange.issue("stranger", server=False, key="ec")
        revoked = self.issue("revoked.example.com")
        self.tenant_revocations = self.tenant.revocation_list([revoked])
        trusted = self.directory / "client-ca.pem"
        trusted.write_bytes(self.clients.certificate)
        own, other, bad = (
            self._file(name, credentials)
            for name, credentials in (
                ("member", self.issue("member.example.com")),
                ("strange", strange.issue("member.example.com", key="ec")),
                ("revoked", revoked),
            )
        )
        self.member_certificate = own
        for name, binds, options in (
            ("web1", [*WEBS[:1], (f"[{WEB1_V6}]", 80)], {}),
            ("web2", WEBS[1:], {}),
            ("web3", [(WEB3, 80)], {}),
            ("proxied", [PROXY_WEB], {"proxy": True}),
            ("line1", LINES[:1], {"mode": "tcp"}),
            ("line2", LINES[1:], {"mode": "tcp"}),
            ("proxied line", [PROXY_LINE], {"mode": "tcp", "proxy": True}),
            ("tls", [TLS_WEB], {"tls": own}),
            ("careful", [CAREFUL_TLS_WEB], {"tls": own, "client_ca": trusted}),
            ("strange", [STRANGE_TLS_WEB], {"tls": other}),
            ("revoked", [REVOKED_TLS_WEB], {"tls": bad}),
        ):
            at = [f"{address}:{port}" for address, port in binds]
            self.ending.enter_context(Backend(self.servers, name, at, **options))

    def begin_again(self) -> None:
        for application in self.applications:
            application.begin_again()

    # Parts of the load balancer

    def listener(self, protocol: str = "HTTP", **fields: Any) -> data_models.Listener:
        """On a port of its own."""
        port = 8000 + len(self.balancer.listeners)
        # The default is too much for a machine with many of them.
        fields = {"connection_limit": 50, **fields}
        made = loadbalancers.listener(self.balancer, protocol, port, **fields)
        made.name = f"{protocol} {port}"
        return made

    def serving(
        self, members: Iterable[tuple[str, int]] = WEBS[:1], kind: str = "HTTP", **fields: Any
    ) -> data_models.Listener:
        """A listener with a pool of the same protocol."""
        made = self.listener(kind, **fields)
        protocol = "HTTP" if kind == "TERMINATED_HTTPS" else kind
        loadbalancers.pool(made, protocol, members)
        return made

    def behind(
        self, protocol: str = "HTTP", kind: str = "HTTP", **fields: Any
    ) -> tuple[data_models.Listener, data_models.Pool]:
        """A listener and its pool, without members."""
        made = self.listener(kind)
        return made, loadbalancers.pool(made, protocol, **fields)

    def encrypted(self, name: str = "www.example.com", **fields: Any) -> dict[str, Any]:
        """What makes a listener one that speaks TLS with a certificate for a name."""
        return {"kind": "TERMINATED_HTTPS", "tls_certificate_id": self.stored(name), **fields}

    def application(self, name: str, **options: Any) -> Application:
        """On a port of its own."""
        port = 9000 + len(self.applications)
        made = Application(self.servers, name, WEB3, port, **options)
        self.applications.append(self.ending.enter_context(made))
        return made

    # Certificates

    def issue(self, name: str) -> Credentials:
        return self.tenant.issue(name, dns=[name], key="ec")

    def of_client(self, name: str) -> Credentials:
        return self.clients.issue(name, server=False, key="ec")

    def stored(self, name: str) -> str:
        """The reference to a certificate for a name."""
        if name not in self._certificates:
            # Not of elliptic curves: some releases have ciphers for RSA alone.
            self._certificates[name] = secrets.store(self.tenant.issue(name, dns=[name]))
        return self._certificates[name]

    def tls(self, name: str = "www.example.com", **options: Any) -> Tls:
        """A client that wants to see a certificate of the tenant's for a name."""
        return Tls(server_name=name, ca=self.tenant.certificate, **options)

    def _file(self, name: str, credentials: Credentials) -> Path:
        file = self.directory / f"{name}.pem"
        write_private(file, credentials.pem)
        return file


# Listeners


def listener_http(site: Site) -> Cases:
    front = site.serving(WEBS)
    yield Spread(Get(front), 4), "web1 2, web2 2"
    yield Get(front, "/a?b=c", sees=("path",)), "web1 path=/a?b=c"
    without = site.listener()
    yield Get(without), "503"


def listener_tcp(site: Site) -> Cases:
    front = site.serving(LINES[:1], "TCP")
    yield Line(front, says="hello"), "line1 hello"
    yield Line(site.listener("TCP")), "closed"
    passing = site.serving([TLS_WEB], "HTTPS")
    yield Handshake(passing, Tls()), "CN=member.example.com TLSv1.3 None"
    yield Get(passing, tls=Tls()), "tls"
    to_tcp = site.listener("HTTPS")
    loadbalancers.pool(to_tcp, "TCP", [TLS_WEB])
    yield Get(to_tcp, tls=Tls()), "tls"


def listener_tls(site: Site) -> Cases:
    front = site.serving(**site.encrypted())
    yield Get(front, tls=site.tls(), host="www.example.com"), "web1"
    yield Get(front), "closed"


def listener_prometheus(site: Site) -> Cases:
    front = site.listener("PROMETHEUS")

    def metrics(client: Namespace) -> str:
        answer = Get(front, "/metrics").answer(client)
        names = {line.partition("{")[0].partition(" ")[0] for line in answer.text.splitlines()}
        found = {"octavia_loadbalancer_cpu", "octavia_listener_status"} & names
        return f"{answer.status} {sorted(found)}"

    yield (
        Eventually(Called("metrics", metrics)),
        "200 ['octavia_listener_status', 'octavia_loadbalancer_cpu']",
    )


def vips(site: Site) -> Cases:
    front = site.serving()
    yield Get(front), "web1"
    if HAS_ADDITIONAL_VIPS:
        yield Get(front, address=SECOND_VIP), "web1"
        yield Get(front, address=VIP_V6), "web1"


def connection_limit(site: Site) -> Cases:
    front = site.serving(LINES[:1], "TCP", connection_limit=2)
    yield OneTooMany(front, 2), "silent, then line1"


def timeouts(site: Site) -> Cases:
    yield Idle(site.serving(LINES[:1], "TCP", timeout_client_data=500)), "line1, then closed"
    hasty = site.serving(timeout_member_data=500)
    yield Get(hasty, "/slow?seconds=1"), "504"
    yield Get(site.serving(), "/slow?seconds=1"), "web1"
    yield Get(site.serving([(NOBODY, 80)], timeout_member_connect=200)), "503"
    # A delay without a rule that waits for something delays nothing.
    yield Line(site.serving(LINES[:1], "TCP", timeout_tcp_inspect=5000)), "line1"


def allowed_cidrs(site: Site) -> Cases:
    front = site.serving()
    for network in (f"{OTHER}/32", "10.3.0.0/16"):
        front.allowed_cidrs.append(data_models.ListenerCidr(listener_id=front.id, cidr=network))
    yield Get(front, source=OTHER), "web1"
    # The text leaves that to the security group.
    yield Get(front, source=ONE), Differs("web1", "closed")


def insert_headers(site: Site) -> Cases:
    names = ("X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto")
    every = dict.fromkeys(names, "true")
    front = site.serving(insert_headers=every)
    told = f"X-Forwarded-For={ONE} X-Forwarded-Port={front.protocol_port} X-Forwarded-Proto=http"
    lies = {"X-Forwarded-Port": "1", "X-Forwarded-Proto": "gopher", "X-Forwarded-For": "6.6.6.6"}
    yield Get(front, sees=names), f"web1 {told}"
    yield Get(front, headers=lies, sees=names), f"web1 {told}"
    none = site.serving(insert_headers={**every, "X-Forwarded-For": "false"})
    yield Get(none, sees=names[:1]), "web1 X-Forwarded-For=None"
    tls = site.serving(insert_headers=every, **site.encrypted())
    yield Get(tls, tls=site.tls(), sees=names[2:]), "web1 X-Forwarded-Proto=https"

    to_proxy = site.listener(insert_headers=every)
    loadbalancers.pool(to_proxy, "PROXY", [PROXY_WEB])
    yield (
        Get(to_proxy, sees=names),
        Differs(
            "proxied X-Forwarded-For=None X-Forwarded-Port=None X-Forwarded-Proto=http",
            f"proxied X-Forwarded-For={ONE} X-Forwarded-Port={to_proxy.protocol_port}"
            " X-Forwarded-Proto=http",
        ),
    )
    newer = ("X-Forwarded-IP", "X-Client-IP", "X-Real-IP")
    extra = site.serving(insert_headers=dict.fromkeys(newer, "true"))
    yield (
        Get(extra, sees=newer),
        Differs(
            " ".join(["web1", *(f"{name}=None" for name in newer)]),
            " ".join(["web1", *(f"{name}={ONE}" for name in newer)]),
        ),
    )


def sni(site: Site) -> Cases:
    intermediate = site.tenant.intermediate("intermediate CA", key="ec")
    api = intermediate.issue("api.example.com", dns=["api.example.com"])
    front = site.serving(
        sni=[secrets.store(api), site.stored("img.example.com")], **site.encrypted()
    )
    for asked, given in (
        ("www.example.com", "www.example.com"),
        ("api.example.com", "api.example.com"),
        ("img.example.com", "img.example.com"),
        ("else.example.com", "www.example.com"),
        (None, "www.example.com"),
    ):
        for version in (_TLS12, _TLS13):
            met = Handshake(front, Tls(server_name=asked, alpn=("http/1.1",), **version))
            name = "TLSv1.2" if version is _TLS12 else "TLSv1.3"
            yield met, f"CN={given} {name} http/1.1"
    # The chain is presented: the root is all that this client knows.
    yield Get(front, tls=site.tls("api.example.com")), "web1"


def tls_versions(site: Site) -> Cases:
    suites = "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384"
    old, new, both = (
        site.serving(
            **site.encrypted(tls_versions=versions, tls_ciphers=suites, alpn_protocols=None)
        )
        for versions in (["TLSv1.2"], ["TLSv1.3"], ["TLSv1.2", "TLSv1.3"])
    )
    yield Handshake(old, Tls()), "CN=www.example.com TLSv1.2 None"
    yield Handshake(old, Tls(**_TLS13)), "closed"
    yield Handshake(new, Tls()), "CN=www.example.com TLSv1.3 None"
    yield Handshake(new, Tls(**_TLS12)), "closed"
    yield Handshake(both, Tls()), "CN=www.example.com TLSv1.3 None"
    yield Handshake(both, Tls(**_TLS12)), "CN=www.example.com TLSv1.2 None"


def tls_ciphers(site: Site) -> Cases:
    strong, weak = "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"
    front = site.serving(
        **site.encrypted(tls_versions=["TLSv1.2"], tls_ciphers=strong, alpn_protocols=None)
    )
    met = "CN=www.example.com TLSv1.2 None"
    yield Handshake(front, Tls(**_TLS12), strong), met
    yield Handshake(front, Tls(**_TLS12), weak), "closed"


def alpn(site: Site) -> Cases:
    versions = {"tls_versions": ["TLSv1.2", "TLSv1.3"]}
    suites = {"tls_ciphers": "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384"}
    newest, plain = (
        site.serving(**site.encrypted(alpn_protocols=protocols, **versions, **suites))
        for protocols in (["h2", "http/1.1"], ["http/1.1"])
    )
    met = "CN=www.example.com TLSv1.3"
    for front, offered, chosen in (
        (newest, ("http/1.1", "h2"), "h2"),
        (newest, ("http/1.1",), "http/1.1"),
        (plain, ("h2", "http/1.1"), "http/1.1"),
        (plain, (), "None"),
    ):
        yield Handshake(front, Tls(alpn=offered)), f"{met} {chosen}"
    yield Get(newest, tls=site.tls(alpn=("http/1.1",))), "web1"


def hsts(site: Site) -> Cases:
    shown = ("strict-transport-security",)
    whole = site.serving(
        **site.encrypted(hsts_max_age=3600, hsts_include_subdomains=True, hsts_preload=True)
    )
    short = site.serving(**site.encrypted(hsts_max_age=60))
    none = site.serving(**site.encrypted())
    said = "max-age=3600; includeSubDomains; preload;"
    yield Get(whole, tls=Tls(), shows=shown), f"web1 strict-transport-security={said}"
    yield Get(short, tls=Tls(), shows=shown), "web1 strict-transport-security=max-age=60;"
    yield Get(none, tls=Tls(), shows=shown), "web1 strict-transport-security=None"


def client_authentication(site: Site) -> Cases:
    good, bad = site.of_client("good"), site.of_client("bad")
    names = ("Verify", "Has-Cert", "DN", "CN")
    headers = (*(f"X-SSL-Client-{name}" for name in names), "X-SSL-Issuer")
    known = {
        "client_ca_tls_certificate_id": secrets.store_text(site.clients.certificate),
        "insert_headers": dict.fromkeys(headers, "true"),
    }
    revoked = secrets.store_text(site.clients.revocation_list([bad]))
    required = site.serving(
        **site.encrypted(
            client_authentication="MANDATORY", client_crl_container_id=revoked, **known
        )
    )
    told = "Verify=0 {0}Has-Cert=1 {0}DN=/CN=good {0}CN=good X-SSL-Issuer=/CN=client CA"
    told = f"web1 X-SSL-Client-{told.format('X-SSL-Client-')}"
    seen = {"sees": headers}
    yield Get(required, tls=site.tls(credentials=good), **seen), told
    for nobody in (bad, site.stranger, None):
        yield Get(required, tls=site.tls(credentials=nobody)), "closed"

    optional = site.serving(**site.encrypted(client_authentication="OPTIONAL", **known))
    yield Get(optional, tls=site.tls(credentials=good), **seen), told
    yield Get(optional, tls=site.tls(), sees=headers[1:2]), "web1 X-SSL-Client-Has-Cert=0"
    yield Get(optional, tls=site.tls(credentials=site.stranger)), "closed"
    # Without a list of what is revoked, nothing is.
    yield Get(optional, tls=site.tls(credentials=bad)), "web1"

    times = ("X-SSL-Client-Not-Before", "X-SSL-Client-Not-After", "X-SSL-Client-SHA1")
    known["insert_headers"] = dict.fromkeys(times, "true")
    dated = site.serving(**site.encrypted(client_authentication="MANDATORY", **known))

    def shapes(client: Namespace) -> str:
        told = Get(dated, tls=site.tls(credentials=good)).answer(client).json()["headers"]
        values = [told.get(name.lower()) or "" for name in times]
        return f"{[len(value) for value in values]} {values[0][-1:]} {values[1][-1:]}"

    yield Called("dates and digest of the client's certificate", shapes), "[13, 13, 40] Z Z"


def admin_state(site: Site) -> Cases:
    yield Get(site.serving(enabled=False)), "refused"
    front, off = site.behind(enabled=False)
    loadbalancers.member(off, *WEBS[0])
    yield Get(front), "503"
    front = site.serving()
    reject = [("PATH", "EQUAL_TO", "/x")]
    loadbalancers.policy(front, "REJECT", reject, enabled=False)
    loadbalancers.policy(front, "REJECT", [])
    to_off = loadbalancers.pool(front, "HTTP", WEBS[1:], default=False, enabled=False)
    loadbalancers.policy(front, "REDIRECT_TO_POOL", reject, redirect_pool=to_off)
    yield Get(front, "/x"), "web1"


# Policies and rules


def l7_reject(site: Site) -> Cases:
    front = site.serving()
    rule = ("PATH", "STARTS_WITH", "/admin")
    loadbalancers.policy(front, "REJECT", [rule])
    yield Get(front, "/admin/x"), "403"
    yield Get(front, "/"), "web1"


def l7_redirect_url(site: Site) -> Cases:
    front = site.serving()
    target = "https://www.example.com/new?a=b&c=%20d"
    # The controller's templates write configurations as if they were HTML.
    escaped = target.replace("&", "&amp;")
    for code in (301, 302, 303, 307, 308):
        rule = ("PATH", "EQUAL_TO", f"/{code}")
        loadbalancers.policy(
            front, "REDIRECT_TO_URL", [rule], redirect_url=target, redirect_http_code=code
        )
        yield Get(front, f"/{code}"), Differs(f"{code} {escaped}", f"{code} {target}")
    loadbalancers.policy(
        front, "REDIRECT_TO_URL", [("PATH", "EQUAL_TO", "/usual")], redirect_url=target
    )
    yield Get(front, "/usual"), Differs(f"302 {escaped}", f"302 {target}")
    yield Get(front, "/"), "web1"


def l7_redirect_prefix(site: Site) -> Cases:
    front = site.serving()
    rule = ("HOST_NAME", "ENDS_WITH", ".example.org")
    loadbalancers.policy(
        front, "REDIRECT_PREFIX", [rule], redirect_prefix="https://x.example.com:8443/y"
    )
    moved = "302 https://x.example.com:8443/y/a?b=c"
    yield Get(front, "/a?b=c", host="www.example.org"), moved
    yield Get(front, "/a?b=c", host="www.example.com"), "web1"


def l7_redirect_pool(site: Site) -> Cases:
    front = site.serving()
    special = loadbalancers.pool(front, "HTTP", WEBS[1:], default=False)
    rules = [("PATH", "STARTS_WITH", "/special"), ("HOST_NAME", "EQUAL_TO", "www.example.com")]
    loadbalancers.policy(front, "REDIRECT_TO_POOL", rules, redirect_pool=special)
    yield Get(front, "/special", host="www.example.com"), "web2"
    yield Get(front, "/special", host="www.example.org"), "web1"
    yield Get(front, "/", host="www.example.com"), "web1"


def l7_position(site: Site) -> Cases:
    front = site.serving()
    pools = [loadbalancers.pool(front, "HTTP", [(web, 80)], default=False) for web in (WEB2, WEB3)]

    def policy(action: str, path: str, **fields: Any) -> None:
        loadbalancers.policy(front, action, [("PATH", "CONTAINS", path)], **fields)

    policy("REDIRECT_TO_POOL", "pool", redirect_pool=pools[0])
    policy("REDIRECT_TO_POOL", "pool", redirect_pool=pools[1])
    policy("REDIRECT_TO_URL", "url", redirect_url="http://example.com/1")
    policy("REDIRECT_TO_URL", "url", redirect_url="http://example.com/2")
    policy("REJECT", "reject")
    for path, answer in (
        ("/pool", "web2"),
        ("/url", "302 http://example.com/1"),
        ("/pool/url", "302 http://example.com/1"),
        ("/url/reject", "403"),
        ("/pool/url/reject", "403"),
    ):
        yield Get(front, path), answer


def _of_file_type(right: str, wrong: str) -> str | Differs:
    """FILE_TYPE compared by EQUAL_TO was never true in the texts of older releases."""
    return Differs(wrong, right) if OLD else right


def _rejects(site: Site, *rules: tuple[str, ...], **fields: Any) -> data_models.Listener:
    """A listener that rejects what any of these rules is true of."""
    front = site.serving(**fields)
    for rule in rules:
        loadbalancers.policy(front, "REJECT", [rule])
    return front


def l7_rules(site: Site) -> Cases:
    front = _rejects(
        site,
        ("HOST_NAME", "EQUAL_TO", "Www.Example.com"),
        ("PATH", "EQUAL_TO", "/exactly"),
        ("FILE_TYPE", "EQUAL_TO", "png"),
        ("HEADER", "EQUAL_TO", "gold", "X-Tenant"),
        ("COOKIE", "EQUAL_TO", "yes", "moved"),
    )
    yield from (
        (Get(front), "web1"),
        (Get(front, host="www.EXAMPLE.com"), "403"),
        (Get(front, host="www.example.com.evil"), "web1"),
        (Get(front, "/exactly"), "403"),
        (Get(front, "/exactly?but=more"), "403"),
        (Get(front, "/Exactly"), "web1"),
        (Get(front, "/exactly/not"), "web1"),
        (Get(front, "/a/b.png"), _of_file_type("403", "web1")),
        (Get(front, "/a/b.png?x=y"), _of_file_type("403", "web1")),
        (Get(front, "/a.png/b"), "web1"),
        (Get(front, headers={"x-tenant": "gold"}), "403"),
        (Get(front, headers={"x-tenant": "silver, gold"}), "403"),
        (Get(front, headers={"x-tenant": "Gold"}), "web1"),
        (Get(front, headers={"Cookie": "a=b; moved=yes"}), "403"),
        (Get(front, headers={"Cookie": "moved=no"}), "web1"),
    )
    both = site.serving()
    policy = loadbalancers.policy(both, "REJECT", [("PATH", "STARTS_WITH", "/a")])
    loadbalancers.rule(policy, "HEADER", "EQUAL_TO", "1", key="X-One")
    loadbalancers.rule(policy, "HEADER", "EQUAL_TO", "2", key="X-Two", enabled=False)
    yield Get(both, "/a"), "web1"
    yield Get(both, "/a", headers={"X-One": "1"}), "403"


def l7_rules_tls(site: Site) -> Cases:
    authority = secrets.store_text(site.clients.certificate)
    front = site.serving(
        **site.encrypted(client_authentication="OPTIONAL", client_ca_tls_certificate_id=authority)
    )
    rules = [
        ("SSL_CONN_HAS_CERT", "EQUAL_TO", "True"),
        ("SSL_VERIFY_RESULT", "EQUAL_TO", "0"),
        ("SSL_DN_FIELD", "EQUAL_TO", "evil one", "CN"),
    ]
    loadbalancers.policy(front, "REJECT", rules)
    yield Get(front, tls=site.tls()), "web1"
    for name, answer in (("evil one", "403"), ("good one", "web1")):
        yield Get(front, tls=site.tls(credentials=site.of_client(name))), answer


def l7_compare(site: Site) -> Cases:
    front = _rejects(
        site,
        ("PATH", "STARTS_WITH", "/begin"),
        ("PATH", "ENDS_WITH", "/end"),
        ("PATH", "CONTAINS", "middle"),
        ("HOST_NAME", "STARTS_WITH", "Begin."),
        ("HOST_NAME", "CONTAINS", "Middle"),
        ("HEADER", "CONTAINS", "two words", "X-A"),
        ("HEADER", "STARTS_WITH", "back\\slash", "X-A"),
        ("HEADER", "ENDS_WITH", "a, b", "X-B"),
        ("COOKIE", "STARTS_WITH", "begin", "c"),
    )
    yield from (
        (Get(front, "/begin/x"), "403"),
        (Get(front, "/x/begin"), "web1"),
        (Get(front, "/x/end"), "403"),
        (Get(front, "/end/x"), "web1"),
        (Get(front, "/x-middle-x"), "403"),
        (Get(front, host="begin.example.com"), "403"),
        (Get(front, host="x.mIDDle.com"), "403"),
        (Get(front, host="not.begin.com"), "web1"),
        (Get(front, headers={"X-A": "one two words three"}), "403"),
        (Get(front, headers={"X-A": "two  words"}), "web1"),
        (Get(front, headers={"X-A": "back\\slash and more"}), "403"),
        (Get(front, headers={"X-A": "backslash"}), "web1"),
        # In the text commas divide a header, and each part is compared.
        (Get(front, headers={"X-B": "a, b"}), Differs("web1", "403")),
        (Get(front, headers={"Cookie": "c=beginning"}), "403"),
    )


def l7_regex(site: Site) -> Cases:
    front = _rejects(
        site,
        ("PATH", "REGEX", r"^/(admin|\.git)(/.*)?$"),
        ("PATH", "REGEX", r"^/u/\d{2,4}$"),
        ("HOST_NAME", "REGEX", r"^(www|api)\.example\."),
        ("HEADER", "REGEX", r"^a\s+b$", "X-A"),
        ("FILE_TYPE", "REGEX", "jp.?g$"),
    )
    yield from (
        (Get(front, "/admin"), "403"),
        (Get(front, "/.git/config"), "403"),
        (Get(front, "/xgit"), "web1"),
        (Get(front, "/u/123"), "403"),
        (Get(front, "/u/1"), "web1"),
        (Get(front, host="API.example.net"), "403"),
        (Get(front, host="api-example.net"), "web1"),
        (Get(front, headers={"X-A": "a   b"}), "403"),
        (Get(front, headers={"X-A": "ab"}), "web1"),
        (Get(front, "/x.jpeg"), "403"),
        (Get(front, "/x.gif"), "web1"),
    )


def l7_invert(site: Site) -> Cases:
    front = site.serving()
    policy = loadbalancers.policy(front, "REJECT", [("PATH", "STARTS_WITH", "/static")])
    loadbalancers.rule(policy, "FILE_TYPE", "EQUAL_TO", "png", invert=True)
    yield Get(front, "/static/a.png"), _of_file_type("web1", "403")
    yield Get(front, "/static/a.php"), "403"
    yield Get(front, "/a.php"), "web1"


# Pools and members


def pool_http(site: Site) -> Cases:
    # TCP that turns into HTTP: the pool decides.
    front = site.listener("TCP")
    loadbalancers.pool(front, "HTTP", WEBS[:1])
    yield Get(front), "web1"
    empty, _ = site.behind()
    yield Get(empty), "503"


def pool_tcp(site: Site) -> Cases:
    yield Spread(Line(site.serving(LINES, "TCP")), 4), "line1 2, line2 2"


def pool_proxy(site: Site) -> Cases:
    for protocol, version in (("PROXY", 1), ("PROXYV2", 2)):
        line = site.listener("TCP")
        loadbalancers.pool(line, protocol, [PROXY_LINE])
        yield Line(line), "proxied line me"
        told = site.application(f"told {version}", proxy=True)
        for tls in (False, True):
            front = (
                site.listener("TERMINATED_HTTPS", tls_certificate_id=site.stored("www.example.com"))
                if tls
                else site.listener()
            )
            loadbalancers.pool(front, protocol, [told.at])
            expected = f"{told.name} proxy={version} tells_tls={tls and version == 2}"
            yield Get(front, tls=Tls() if tls else None, sees=("proxy", "tells_tls")), expected


def pool_sharing(site: Site) -> Cases:
    shared = loadbalancers.pool(site.balancer, "HTTP", WEBS)
    loadbalancers.monitor(shared, "HTTP", url_path="/health")
    fronts = [site.listener() for _ in range(2)]
    for front in fronts:
        loadbalancers.attach(front, shared)
    hasty = site.listener(timeout_member_data=500)
    loadbalancers.attach(hasty, shared)
    by_policy = site.serving([(WEB3, 80)])
    rules = [("PATH", "STARTS_WITH", "/shared")]
    loadbalancers.policy(by_policy, "REDIRECT_TO_POOL", rules, redirect_pool=shared)
    for front in (*fronts, hasty):
        yield Spread(Get(front), 2), "web1 1, web2 1"
    yield Spread(Get(by_policy, "/shared"), 2), "web1 1, web2 1"
    yield Get(by_policy), "web3"
    yield Get(hasty, "/slow?seconds=1"), "504"
    yield Get(fronts[0], "/slow?seconds=1"), "web1"


def algorithm(site: Site) -> Cases:
    by_turns, _ = site.behind(lb_algorithm="ROUND_ROBIN")
    for web in WEBS:
        loadbalancers.member(by_turns.default_pool, *web)
    yield Spread(Get(by_turns), 6), "web1 3, web2 3"
    least = site.listener("TCP")
    loadbalancers.pool(least, "TCP", LINES, lb_algorithm="LEAST_CONNECTIONS")
    yield Together(least, 4), "line1 2, line2 2"
    source, _ = site.behind(lb_algorithm="SOURCE_IP")
    for web in WEBS:
        loadbalancers.member(source.default_pool, *web)
    for address in (ONE, OTHER):
        yield Session(Get(source, source=address)), "same"
    port, _ = site.behind(lb_algorithm="SOURCE_IP_PORT")
    for web in WEBS:
        loadbalancers.member(port.default_pool, *web)
    yield (
        Session(Get(port, source=ONE, source_port=40001), count=3),
        Differs("web1 1, web2 2", "same"),
    )


def persistence_source(site: Site) -> Cases:
    front = site.serving(WEBS)
    loadbalancers.persistence(front.default_pool, "SOURCE_IP")
    for address in (ONE, OTHER):
        yield Session(Get(front, source=address)), "same"
    line = site.serving(LINES, "TCP")
    loadbalancers.persistence(line.default_pool, "SOURCE_IP")
    yield Called("TCP sessions", lambda client: len({Line(line)(client) for _ in range(5)})), "1"


def persistence_http_cookie(site: Site) -> Cases:
    front = site.serving(WEBS)
    loadbalancers.persistence(front.default_pool, "HTTP_COOKIE")
    first, second = front.default_pool.members
    for name, member in (("web1", first), ("web2", second)):
        given = f"SRV={member.id}; path=/"
        yield Get(front, shows=("set-cookie",)), f"{name} set-cookie={given}"
        sent = Get(front, headers={"Cookie": f"SRV={member.id}"})
        yield Spread(sent, 3), f"{name} 3"
    yield Session(Get(front)), "same"


def persistence_app_cookie(site: Site) -> Cases:
    applications = [site.application(name, cookie="sid") for name in ("app1", "app2")]
    front = site.serving([each.at for each in applications])
    loadbalancers.persistence(front.default_pool, "APP_COOKIE", "sid")
    for _ in range(3):
        yield Session(Get(front)), "same"
    yield Spread(Get(front), 4), "app1 2, app2 2"


def pool_tls(site: Site) -> Cases:
    told = site.application("told", tls=site.member_certificate)
    suites = ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_AES_128_GCM_SHA256")

    def front(version: str) -> data_models.Listener:
        front, pool = site.behind(
            tls_enabled=True,
            tls_versions=[version],
            tls_ciphers=":".join(suites),
            alpn_protocols=["http/1.1"],
        )
        loadbalancers.member(pool, *told.at)
        return front

    def met(version: str, suite: str) -> str:
        return f"told tls_version={version} alpn=http/1.1 cipher={suite}"

    facts = ("tls_version", "alpn", "cipher")
    yield Get(front("TLSv1.2"), sees=facts), met("TLSv1.2", suites[0])
    newest = met("TLSv1.3", suites[1])
    # Texts of older releases say nothing to haproxy of the suites of TLS 1.3.
    usual = met("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    yield Get(front("TLSv1.3"), sees=facts), Differs(usual, newest) if OLD else newest
    again = site.listener("TERMINATED_HTTPS", tls_certificate_id=site.stored("www.example.com"))
    loadbalancers.pool(again, "HTTP", [told.at], tls_enabled=True)
    yield Get(again, tls=site.tls(), sees=("sni",)), "told sni=www.example.com"


def pool_tls_ca(site: Site) -> Cases:
    authority = secrets.store_text(site.tenant.certificate)
    revoked = secrets.store_text(site.tenant_revocations)
    own = secrets.store(site.of_client("pool.example.com"))
    for fields, member, answer in (
        ({}, STRANGE_TLS_WEB, "strange"),
        ({}, REVOKED_TLS_WEB, "revoked"),
        ({"ca_tls_certificate_id": authority}, TLS_WEB, "tls"),
        ({"ca_tls_certificate_id": authority}, REVOKED_TLS_WEB, "revoked"),
        ({"ca_tls_certificate_id": authority, "crl_container_id": revoked}, TLS_WEB, "tls"),
        ({}, CAREFUL_TLS_WEB, "502"),
    ):
        front, pool = site.behind(tls_enabled=True, **fields)
        loadbalancers.member(pool, *member)
        yield Get(front), answer
    # haproxy tries again for some seconds: two refused members at once.
    front, pool = site.behind(
        tls_enabled=True, ca_tls_certificate_id=authority, crl_container_id=revoked
    )
    for member in (STRANGE_TLS_WEB, REVOKED_TLS_WEB):
        loadbalancers.member(pool, *member)
    yield Get(front), "503"
    front, pool = site.behind(tls_enabled=True, tls_certificate_id=own)
    loadbalancers.member(pool, *CAREFUL_TLS_WEB)
    met = "careful client_certificate=pool.example.com"
    yield Get(front, sees=("client_certificate",)), met


def member_weight(site: Site) -> Cases:
    front, pool = site.behind()
    for number, weight in ((1, 3), (2, 1), (3, 0)):
        loadbalancers.member(pool, f"10.2.0.1{number}", 80, weight=weight)
    yield Spread(Get(front), 8), "web1 6, web2 2"


def member_backup(site: Site) -> Cases:
    front, pool = site.behind()
    main = loadbalancers.member(pool, WEB1, 80)
    for web in (WEB2, WEB3):
        loadbalancers.member(pool, web, 80, backup=True)
    yield Spread(Get(front), 4), "web1 4"
    without, pool = site.behind()
    loadbalancers.member(pool, main.ip_address, 80, enabled=False)
    for web in (WEB2, WEB3):
        loadbalancers.member(pool, web, 80, backup=True)
    yield Spread(Get(without), 4), "web2 2, web3 2"


def member_disabled(site: Site) -> Cases:
    front, pool = site.behind()
    loadbalancers.member(pool, WEB1, 80, enabled=False)
    yield Get(front), "503"
    front, pool = site.behind()
    loadbalancers.member(pool, WEB1, 80, enabled=False)
    loadbalancers.member(pool, WEB2, 80)
    yield Spread(Get(front), 4), "web2 4"
    by_ipv6, pool = site.behind()
    loadbalancers.member(pool, WEB1_V6, 80)
    yield Get(by_ipv6), "web1"


def member_monitor(site: Site) -> Cases:
    """Each member serves; the checks go elsewhere."""
    front = site.serving()
    loadbalancers.member(front.default_pool, WEB2, 80, monitor_port=CLOSED)
    loadbalancers.member(front.default_pool, WEB3, 80, monitor_address=NOBODY)
    loadbalancers.monitor(front.default_pool, "TCP")
    yield Eventually(Spread(Get(front), 4)), "web1 4"


# Health monitors


def monitored(site: Site, kind: str, *members: Application, **fields: Any) -> Any:
    """A listener with a pool of these members, and a monitor."""
    front = site.serving([each.at for each in members])
    path = {"url_path": CHECKED} if kind in ("HTTP", "HTTPS") else {}
    loadbalancers.monitor(front.default_pool, kind, **{**path, **fields})
    return front


def monitor_tcp(site: Site) -> Cases:
    front = site.serving()
    loadbalancers.member(front.default_pool, WEB2, 80, monitor_port=CLOSED)
    loadbalancers.monitor(front.default_pool, "TCP")
    yield Eventually(Spread(Get(front), 4)), "web1 4"


def monitor_http(site: Site) -> Cases:
    def answering(*statuses: int) -> list[Application]:
        return [site.application(f"app{each}", check_status=each) for each in statuses]

    for codes, good, bad in (
        ("200", (200,), (204, 404)),
        ("200,202", (200, 202), (204, 500)),
        ("202-204", (202, 204), (200, 404)),
    ):
        members = answering(*good, *bad)
        front = monitored(site, "HTTP", *members, expected_codes=codes)
        served = ", ".join(f"app{each} {6 // len(good)}" for each in good)
        yield Eventually(Spread(Get(front), 6)), served
    for fields, heard in (
        ({}, "GET /check HTTP/1.0 Host=None"),
        ({"http_method": "HEAD"}, "HEAD /check HTTP/1.0 Host=None"),
        ({"http_method": "OPTIONS"}, "OPTIONS /check HTTP/1.0 Host=None"),
        (
            {"url_path": "/check/a?b=c&d=%20e"},
            "GET /check/a?b=c&d=%20e HTTP/1.0 Host=None",
        ),
    ):
        member = site.application("heard")
        monitored(site, "HTTP", member, **fields)
        yield Eventually(_heard(member)), Differs(heard.replace("&", "&amp;"), heard)
    newer = {"http_version": 1.1, "domain_name": "www.example.com"}
    if known_to(data_models.HealthMonitor, newer) == newer:
        member = site.application("heard 1.1")
        monitored(site, "HTTP", member, **newer)
        yield Eventually(_heard(member)), "GET /check HTTP/1.1 Host=www.example.com"


def _heard(member: Application) -> Called:
    return Called(f"checks of {member.name}", lambda _: member.heard())


def monitor_https(site: Site) -> Cases:
    certificate = site.member_certificate
    good = site.application("good", tls=certificate)
    bad = site.application("bad", tls=certificate, check_status=500)
    plain = site.application("plain")
    front = site.listener("HTTPS")
    loadbalancers.pool(front, "HTTPS", [each.at for each in (good, bad, plain)])
    loadbalancers.monitor(front.default_pool, "HTTPS", url_path=CHECKED)
    yield Eventually(Spread(Get(front, tls=Tls()), 4)), "good 4"

    front, pool = site.behind(tls_enabled=True)
    for each in (good, bad):
        loadbalancers.member(pool, *each.at)
    loadbalancers.monitor(pool, "HTTPS", url_path=CHECKED)
    yield Eventually(Spread(Get(front), 4)), "good 4"


def monitor_tls_hello(site: Site) -> Cases:
    front = site.serving()
    # Where it is checked, a port speaks TLS and another one does not.
    speaks, does_not = TLS_WEB[1], WEBS[0][1]
    pool = front.default_pool
    pool.members[0].monitor_port = speaks
    loadbalancers.member(pool, WEB2, 80, monitor_port=does_not, name=PLAIN)
    loadbalancers.member(pool, WEB3, 80, monitor_port=CLOSED)
    loadbalancers.monitor(pool, "TLS-HELLO")
    yield Eventually(Spread(Get(front), 4)), Differs("web1 2, web2 2", "web1 4")


def monitor_ping(site: Site) -> Cases:
    # Another member of the same rank would be tried for one that is not there.
    absent, present = site.serving([(NOBODY, 80)]), site.serving()
    for front in (absent, present):
        loadbalancers.member(front.default_pool, WEB2, 80, backup=True)
        loadbalancers.monitor(front.default_pool, "PING", timeout=2)
    yield Eventually(Get(absent)), "web2"
    yield Get(present), "web1"


def monitor_times(site: Site) -> Cases:
    def backed_up(member: Application, **fields: Any) -> data_models.Listener:
        front = monitored(site, "HTTP", member, **fields)
        loadbalancers.member(front.default_pool, WEB2, 80, backup=True)
        return front

    failing = site.application("failing", check_status=500)
    front = backed_up(failing, fall_threshold=3)
    yield Eventually(Get(front)), "web2"
    yield Called("checks that failed", lambda _: failing.at_least(3)), "at least 3"

    slow = site.application("slow", check_delay=2.5)
    yield Eventually(Get(backed_up(slow, timeout=1))), "web2"

    mending = site.application("mending", check_status=500)
    front = backed_up(mending, rise_threshold=3)
    yield Eventually(Get(front)), "web2"

    def mend(_: Namespace) -> str:
        mending.begin_again(200)
        return "done"

    yield Called("mend", mend), "done"
    yield Eventually(Get(front)), "mending"
    yield Called("checks that passed", lambda _: mending.at_least(3)), "at least 3"

    unchecked = site.application("unchecked", check_status=500)
    front = monitored(site, "HTTP", unchecked, enabled=False)
    # All others have been checked meanwhile.
    yield Called("checks", lambda _: unchecked.heard()), ""
    yield Get(front), "unchecked"


#: Those that wait for something come last: it happens while the others are asked.
ROWS: tuple[Callable[[Site], Cases], ...] = (
    listener_http, listener_tcp, listener_tls, listener_prometheus, vips, connection_limit,
    timeouts, allowed_cidrs, insert_headers, sni, tls_versions, tls_ciphers, alpn, hsts,
    client_authentication, admin_state,
    l7_reject, l7_redirect_url, l7_redirect_prefix, l7_redirect_pool, l7_position, l7_rules,
    l7_rules_tls, l7_compare, l7_regex, l7_invert,
    pool_http, pool_tcp, pool_proxy, pool_sharing, algorithm, persistence_source,
    persistence_http_cookie, persistence_app_cookie, pool_tls, pool_tls_ca, member_weight,
    member_backup, member_disabled, member_monitor,
    monitor_tcp, monitor_http, monitor_https, monitor_tls_hello, monitor_ping,
    monitor_times,
)  # fmt: skip


def row_id(row: Callable[[Site], Cases]) -> str:
    """As in docs/features.md."""
    return row.__name__.replace("_", "-")
