"""The agent's own certificate: checked before it replaces the one that works.

An agent whose certificate the controller does not accept is out of reach for good, so a new one
is refused unless everything that the controller will look at is in order.
"""

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from amphora_agent import files
from amphora_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

_REFUSED = "Invalid request"


class AgentCertificate:
    """The certificate and key at `path` (one PEM, any intermediate certificates after)."""

    def __init__(
        self, path: Path, amphora_id: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path = path
        self._amphora_id = amphora_id
        self._now = now

    def replace(self, pem: bytes) -> None:
        """Check and install a certificate; the one before is kept beside it as `.previous`.

        Raises:
            InvalidRequest: it could not serve; the details say why. The file is as before.
        """
        leaf = check(pem, self._amphora_id, self._now())
        with files.Staged(self.path, pem, files.PRIVATE) as staged:
            try:
                # The same call that the next connection depends on.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(staged.path)
            except ssl.SSLError as error:
                raise InvalidRequest(_REFUSED, f"the certificate cannot be used: {error}") from None
            files.keep_as(self.path, self.path.with_name(f"{self.path.name}.previous"))
            staged.commit()
        logger.info("change=agent-certificate expires=%s", leaf.not_valid_after_utc.isoformat())


def check(pem: bytes, amphora_id: str, now: datetime) -> "x509.Certificate":
    """The leaf certificate of a PEM that is fit for this amphora at `now`.

    Raises:
        InvalidRequest: no certificate or key, they do not belong together, it is not valid now,
            it names another amphora, it may not serve TLS, or its chain does not lead upwards.
    """
    # 8 MB for what happens once in the life of a certificate: loaded then, not before.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from OpenSSL import SSL, crypto

    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidRequest(_REFUSED, "there is no usable certificate in it") from None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise InvalidRequest(_REFUSED, "there is no usable private key in it") from None
    if pem.count(b"-----BEGIN ") != pem.count(b"-----END "):
        # What is whole of it might do, but not for a controller that needs the rest of the chain.
        raise InvalidRequest(_REFUSED, "it is cut off: something in it has no end")
    leaf = chain[0]
    public_form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*public_form) != key.public_key().public_bytes(*public_form):
        raise InvalidRequest(_REFUSED, "the private key is not that of the certificate")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise InvalidRequest(
            _REFUSED,
            f"the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}",
        )
    names = _names(leaf)
    if amphora_id not in names:
        raise InvalidRequest(
            _REFUSED,
            f"the certificate names {', '.join(sorted(names)) or 'nobody'}, "
            f"not this amphora, {amphora_id}",
        )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            raise InvalidRequest(_REFUSED, "the certificate may not be used by a server")
    if len(chain) > 1:
        # Each certificate must lead to the next: the last one is taken for the anchor.
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        store.set_time(now)
        store.add_cert(crypto.X509.from_cryptography(chain[-1]))
        between = [crypto.X509.from_cryptography(c) for c in chain[1:-1]]
        try:
            crypto.X509StoreContext(
                store, crypto.X509.from_cryptography(leaf), between
            ).verify_certificate()
        except crypto.X509StoreContextError as error:
            raise InvalidRequest(_REFUSED, f"the certificate's chain is broken: {error}") from None
    try:
        # Strength too is OpenSSL's to judge, by the policy of this system.
        SSL.Context(SSL.TLS_SERVER_METHOD).use_certificate(leaf)
    except SSL.Error as error:
        raise InvalidRequest(_REFUSED, f"OpenSSL does not take the certificate: {error}") from None
    return leaf


def _names(leaf: "x509.Certificate") -> set[str]:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return {str(attribute.value) for attribute in common}
