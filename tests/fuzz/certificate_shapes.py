"""Files as controllers, tenants and attackers send them: PEM in every shape, and crt-lists.

Strategies of hypothesis. What they make takes the directory of a load balancer's certificates,
where `site.pem` and `ca.pem` are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from lab.pki import Authority, Credentials

#: The bytes of a file, for a directory.
Shape = Callable[[bytes], bytes]

_PEM = serialization.Encoding.PEM
_PKCS8, _OLD = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
_PLAIN = serialization.NoEncryption()
_NOW, _DAY = datetime.now(UTC), timedelta(days=1)

ROOT = Authority.create("shapes", key="ec")
SITE = ROOT.intermediate("middle", key="ec").issue("site", dns=["site"], key="ec")
RSA = ROOT.issue("rsa", key="rsa")
EXPIRED = ROOT.issue("old", key="ec", not_before=_NOW - 2 * _DAY, not_after=_NOW - _DAY)
REVOKED = ROOT.revocation_list([RSA])


def _key(credentials: Credentials, form: serialization.PrivateFormat, passphrase: bytes) -> bytes:
    key = serialization.load_pem_private_key(credentials.key, None)
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else _PLAIN
    return key.private_bytes(_PEM, form, locked)


def _self_signed(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_NOW)
        .not_valid_after(_NOW + _DAY)
    )
    made = builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )
    return made.public_bytes(_PEM) + key.private_bytes(_PEM, _PKCS8, _PLAIN)


_EDWARDS = _self_signed(ed25519.Ed25519PrivateKey.generate())
_WEAK = _self_signed(rsa.generate_private_key(65537, 1024))
_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
#: ffdhe2048 (RFC 7919).
_GROUP = b"""\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
_NOT_DER = b"-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"
_NO_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"

_BLOCKS = [
    SITE.certificate, SITE.key, SITE.chain, RSA.certificate, RSA.key, EXPIRED.certificate,
    EXPIRED.key, ROOT.certificate, REVOKED, _PARAMETERS, _GROUP, _NOT_DER, _NO_CERTIFICATE,
    _EDWARDS, _WEAK,
    _key(SITE, _OLD, b""), _key(RSA, _OLD, b""), _key(RSA, _OLD, b"x"), _key(RSA, _PKCS8, b"x"),
    ROOT.certificate.replace(b"CERT", b"TRUSTED CERT"),
    SITE.certificate.replace(b"CERT", b"X509 CERT"),
]  # fmt: skip
_TEXTS = [
    b"Bag Attributes\n    friendlyName: caf\xc3\xa9\n", b"subject=/CN=site\n", b"# -----BEGIN \n",
    b"\n", b" \n\n", b"\xef\xbb\xbf", b"\0", b"@/site.pem\n", b"/etc/octavia/certs/server.pem\n",
    b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"#amphora-agent: md5\n",
]  # fmt: skip
#: What is sent most.
_USUAL = [
    SITE.pem, RSA.pem, EXPIRED.pem, _EDWARDS, ROOT.certificate + SITE.chain, REVOKED, REVOKED * 2,
    SITE.key + b"\n" + SITE.certificate + b"\n" + SITE.chain,
    SITE.chain + SITE.key + SITE.certificate,
    _PARAMETERS + SITE.pem, SITE.pem * 2, REVOKED + ROOT.certificate,
    SITE.pem + _GROUP, _GROUP + RSA.pem, RSA.pem + _PARAMETERS + _GROUP * 2,
    # The key of another one, none, and one that is locked.
    SITE.certificate + RSA.key, RSA.key + SITE.chain, SITE.certificate + SITE.chain, SITE.key,
    RSA.certificate + _key(RSA, _PKCS8, b"x"), _key(RSA, _OLD, b"x") + RSA.certificate,
]  # fmt: skip


def _long_lines(data: bytes) -> bytes:
    return b"".join(
        line if line.startswith(b"-----") else line.rstrip(b"\n") for line in data.splitlines(True)
    ).replace(b"-----END", b"\n-----END")


_CHANGES: list[Callable[[bytes], bytes]] = [
    lambda data: data,
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: data.replace(b"\n", b"\r"),
    lambda data: data.replace(b"\n", b"\r\r\n"),
    lambda data: data.replace(b"\n", b"\r\n", len(data) // 100),
    lambda data: data.replace(b"\n", b" \t\n"),
    lambda data: data.replace(b"\n", b"\n  "),
    lambda data: data.replace(b"\n", b"\n\n"),
    lambda data: data.replace(b"-----\n-----", b"----------"),
    lambda data: data.replace(b"-----\n", b"-----\n\n", 1),
    lambda data: data.replace(b"-----\n", b"-----\nProc-Type: 4,MIC-CLEAR\n\n", 1),
    lambda data: data.replace(b"=", b"", 1),
    lambda data: data.rstrip(b"\n"),
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.lower(),
    lambda data: data.replace(b"-----BEGIN", b"----- BEGIN", 1),
    lambda data: data.decode("latin-1").encode("utf-16"),
    _long_lines,
]


@st.composite
def _damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """With a byte another one, or cut off."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    return data[:at] + draw(st.sampled_from([b"", b"A" + data[at + 1 :], b"\n" + data[at:]]))


_joined = st.lists(st.sampled_from([*_BLOCKS, *_TEXTS]), min_size=1, max_size=5).flatmap(
    lambda pieces: st.sampled_from([b"", b"\n", b"\r\n"]).map(lambda between: between.join(pieces))
)
_changed = st.builds(
    lambda data, change: change(data),
    st.one_of(st.sampled_from(_USUAL), _joined),
    st.sampled_from(_CHANGES),
)
_any = st.one_of(_changed, _changed, _changed.flatmap(_damaged), st.binary(max_size=200))


def _in_directory(data: bytes, directory: bytes) -> bytes:
    return data.replace(b"@", directory)


FILES: st.SearchStrategy[Shape] = _any.map(lambda data: partial(_in_directory, data))

_WORDS = [
    "@/site.pem", "@/site.pem[", "@/../x/site.pem", "/etc/octavia/certs/server.pem", "[", "]",
    "[alpn h2]", "[alpn", "h2,http/1.1", "[verify none]", "[verify required ca-file @/ca.pem]",
    "[ca-file /etc/shadow]", "[key @/site.pem]", "[ssl-min-ver TLSv1.0 ssl-max-ver TLSv1.2]",
    "[ciphers ECDHE-RSA-AES128-GCM-SHA256 curves X25519:P-256 ecdhe prime256v1 no-ca-names]",
    "[ciphersuites TLS_AES_128_GCM_SHA256 allow-0rtt]", "[sigalgs RSA+SHA256]", "*.site", "!a.site",
    "#", "# -----BEGIN ", "\\", '"', "\x0b", "é",
]  # fmt: skip
_line = st.one_of(
    st.just("@/site.pem"),
    st.lists(st.sampled_from(_WORDS), max_size=3).map(
        lambda words: " ".join(["@/site.pem", *words])
    ),
    st.lists(st.sampled_from(_WORDS), max_size=4).map("".join),
)
LISTS: st.SearchStrategy[Shape] = st.builds(
    lambda lines, end, last: partial(_in_directory, (end.join(lines) + last).encode()),
    st.lists(_line, min_size=1, max_size=3),
    st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    st.sampled_from(["\n", ""]),
)
