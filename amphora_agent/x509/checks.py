"""X.509 checks, run in a short-lived process: the libraries take 10 MB."""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

_DER = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Unfit(Exception):
    """The certificate could not serve; the text says why."""


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM, at least one.

    Raises:
        Unfit
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unfit("there is no usable certificate in it") from None


def load_private_key(pem: bytes) -> PrivateKeyTypes:
    """Return the key of a PEM: PKCS#8, PKCS#1 or SEC 1 (EC), without a passphrase.

    Raises:
        Unfit
    """
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise Unfit("there is no usable private key in it") from None


def require_whole(pem: bytes) -> None:
    """Check that nothing is cut off. The rest might do for this host, and not for a client that
    needs the whole chain.

    Raises:
        Unfit
    """
    if pem.count(b"-----BEGIN ") != pem.count(b"-----END "):
        raise Unfit("it is cut off: something in it has no end")


def belongs(leaf: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Return whether a key is that of a certificate."""
    return leaf.public_key().public_bytes(*_DER) == key.public_key().public_bytes(*_DER)


def require_valid(leaf: x509.Certificate, now: datetime) -> None:
    """Check that a certificate is valid at `now`.

    Raises:
        Unfit
    """
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Unfit(
            f"the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}",
        )


def names(leaf: x509.Certificate) -> set[str]:
    """Return the host names that a certificate is for."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return {str(attribute.value) for attribute in common}


#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME.
_ANY_TIME = 0x200000


def require_chain(chain: Sequence[x509.Certificate], now: datetime | None = None) -> None:
    """Check that the first certificate leads to the last, which is the anchor, over those between
    in any order. Without `now`, they may be valid at any time.

    Raises:
        Unfit
    """
    if len(chain) < 2:
        return
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    if now is None:
        store.set_flags(_ANY_TIME)
    else:
        store.set_time(now)
    store.add_cert(crypto.X509.from_cryptography(chain[-1]))
    between = [crypto.X509.from_cryptography(certificate) for certificate in chain[1:-1]]
    try:
        crypto.X509StoreContext(
            store, crypto.X509.from_cryptography(chain[0]), between
        ).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise Unfit(f"the certificate's chain is broken: {error}") from None


def require_usable(leaf: x509.Certificate) -> None:
    """Check that OpenSSL takes a certificate: it judges the strength, by the policy of this system.

    Raises:
        Unfit
    """
    try:
        SSL.Context(SSL.TLS_SERVER_METHOD).use_certificate(leaf)
    except SSL.Error as error:
        raise Unfit(f"OpenSSL does not take the certificate: {error}") from None
