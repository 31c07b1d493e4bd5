"""Certificates as an Octavia deployment has them.

Two authorities that do not know each other: the server authority signs the certificates of
amphorae, the client authority signs the controller's. Built only with what ``cryptography`` has
offered since 3.4, because the tests that drive old controller releases use it as well.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KeyKind = Literal["rsa", "ec"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# Clocks of two machines differ a little; certificates are therefore valid from just before now.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True)
class Credentials:
    """A certificate, its private key and the intermediates above it, each as PEM."""

    certificate: bytes
    key: bytes
    chain: bytes = b""

    @property
    def pem(self) -> bytes:
        """One file with everything, in Octavia's order: certificate, key, intermediates."""
        return self.certificate + self.key + self.chain

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate).serial_number

    @property
    def subject(self) -> str:
        return x509.load_pem_x509_certificate(self.certificate).subject.rfc4514_string()


class Authority:
    """A certificate authority that lives in memory."""

    def __init__(self, certificate: x509.Certificate, key: PrivateKey, chain: bytes) -> None:
        self._certificate = certificate
        self._key = key
        self._chain = chain

    @classmethod
    def create(cls, common_name: str, *, key: KeyKind = "rsa", days: float = 90) -> Authority:
        """Make a self-signed root."""
        private = _private_key(key)
        name = _name(common_name)
        before, after = _validity(days, None, None)
        builder = _authority_extensions(
            _builder(name, name, private, before, after), private, path_length=None
        ).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()),
            critical=False,
        )
        return cls(builder.sign(private, hashes.SHA256()), private, b"")

    def intermediate(
        self, common_name: str, *, key: KeyKind = "rsa", days: float = 90
    ) -> Authority:
        """Make an authority signed by this one; what it issues carries it in its chain."""
        private = _private_key(key)
        before, after = _validity(days, None, None)
        builder = _authority_extensions(
            _builder(_name(common_name), self._certificate.subject, private, before, after),
            private,
            path_length=0,
        ).add_extension(self._issuer_identifier(), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Authority(certificate, private, _pem(certificate) + self._chain)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return _pem(self._certificate)

    def issue(
        self,
        common_name: str,
        *,
        dns: Sequence[str] = (),
        addresses: Sequence[str] = (),
        days: float = 90,
        key: KeyKind = "rsa",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        server: bool = True,
        client: bool = True,
        key_identifier: bool = True,
    ) -> Credentials:
        """Issue a certificate.

        ``not_before`` and ``not_after`` are aware datetimes; give both in the past for an expired
        certificate. ``server`` and ``client`` choose the extended key usages; with neither, the
        extension is left out. ``key_identifier`` is that of the authority, which controllers
        before 14.0.2 leave out.
        """
        private = _private_key(key)
        before, after = _validity(days, not_before, not_after)
        builder = (
            _builder(_name(common_name), self._certificate.subject, private, before, after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
            )
        )
        if key_identifier:
            builder = builder.add_extension(self._issuer_identifier(), critical=False)
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        if usages:
            # Octavia marks it critical.
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Credentials(_pem(certificate), _key_pem(private), self._chain)

    def revocation_list(
        self, revoked: Iterable[Credentials | int] = (), *, days: float = 90
    ) -> bytes:
        """A CRL, PEM, that revokes the given certificates (or serial numbers)."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - _BACKDATED)
            .next_update(now + timedelta(days=days))
            .add_extension(self._issuer_identifier(), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for item in revoked:
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(item.serial if isinstance(item, Credentials) else item)
                .revocation_date(now - _BACKDATED)
                .build()
            )
            builder = builder.add_revoked_certificate(entry)
        revocations = builder.sign(self._key, hashes.SHA256())
        return revocations.public_bytes(serialization.Encoding.PEM)

    def _issuer_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


@dataclass(frozen=True)
class AmphoraPki:
    """The files of one amphora and of the controller that talks to it, in one directory."""

    directory: Path
    amphora_id: str
    server_authority: Authority
    client_authority: Authority
    server: Credentials
    controller: Credentials

    @classmethod
    def create(
        cls,
        directory: Path,
        amphora_id: str,
        *,
        server_authority: Authority | None = None,
        client_authority: Authority | None = None,
        key: KeyKind = "rsa",
    ) -> AmphoraPki:
        """Make what is missing and write the four files, readable by their owner only.

        Give the authorities to let several amphorae share them, as they do in a deployment.
        """
        server_authority = server_authority or Authority.create("amphora server CA", key=key)
        client_authority = client_authority or Authority.create("controller client CA", key=key)
        pki = cls(
            directory=directory,
            amphora_id=amphora_id,
            server_authority=server_authority,
            client_authority=client_authority,
            # Not near its end, which would be reported.
            server=server_authority.issue(amphora_id, dns=[amphora_id], key=key, days=90),
            controller=client_authority.issue("octavia-controller", server=False, key=key),
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(pki.server_pem, pki.server.pem)
        write_private(pki.client_ca, client_authority.certificate)
        write_private(pki.server_ca, server_authority.certificate)
        write_private(pki.controller_pem, pki.controller.pem)
        return pki

    @property
    def server_pem(self) -> Path:
        """What the agent presents: certificate and key."""
        return self.directory / "server.pem"

    @property
    def client_ca(self) -> Path:
        """What the agent trusts."""
        return self.directory / "client_ca.pem"

    @property
    def server_ca(self) -> Path:
        """What the controller trusts."""
        return self.directory / "server_ca.pem"

    @property
    def controller_pem(self) -> Path:
        """What the controller presents: certificate and key."""
        return self.directory / "controller.pem"


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may ever read, not even for a moment otherwise."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)


def _private_key(kind: KeyKind) -> PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _validity(
    days: float, not_before: datetime | None, not_after: datetime | None
) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return not_before or now - _BACKDATED, not_after or now + timedelta(days=days)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, before: datetime, after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .not_valid_before(before)
        .not_valid_after(after)
    )


def _authority_extensions(
    builder: x509.CertificateBuilder, key: PrivateKey, *, path_length: int | None
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=not authority,
        key_agreement=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
