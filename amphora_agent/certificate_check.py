"""Whether a certificate can be the agent's own: `python -m amphora_agent.certificate_check`.

An agent whose certificate the controller does not accept is out of reach for good, so a new one
is refused unless everything that the controller will look at is in order.

`… FILE AMPHORA_ID` prints when the certificate expires and exits with 0, or prints what is wrong
with it and exits with 3.
"""

import ssl
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

_EXIT_UNFIT = 3


class Unfit(Exception):
    """The certificate could not serve; the text says why."""


def main(arguments: Sequence[str]) -> int:
    path, amphora_id = arguments
    try:
        leaf = check(Path(path).read_bytes(), amphora_id, datetime.now(UTC))
        try:
            # The same call that the next connection depends on.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        except ssl.SSLError as error:
            raise Unfit(f"the certificate cannot be used: {error}") from None
    except Unfit as reason:
        print(reason)
        return _EXIT_UNFIT
    print(leaf.not_valid_after_utc.isoformat())
    return 0


def check(pem: bytes, amphora_id: str, now: datetime) -> x509.Certificate:
    """The leaf certificate of a PEM that is fit for this amphora at `now`.

    Raises:
        Unfit: no certificate or key, they do not belong together, it is not valid now,
            it names another amphora, it may not serve TLS, or its chain is broken or cut off.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Unfit("there is no usable certificate in it") from None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise Unfit("there is no usable private key in it") from None
    if pem.count(b"-----BEGIN ") != pem.count(b"-----END "):
        # What is whole of it might do, but not for a controller that needs the rest of the chain.
        raise Unfit("it is cut off: something in it has no end")
    leaf = chain[0]
    public_form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*public_form) != key.public_key().public_bytes(*public_form):
        raise Unfit("the private key is not that of the certificate")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Unfit(
            f"the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}",
        )
    names = _names(leaf)
    if amphora_id not in names:
        raise Unfit(
            f"the certificate names {', '.join(sorted(names)) or 'nobody'}, "
            f"not this amphora, {amphora_id}",
        )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        pass
    else:
        if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
            raise Unfit("the certificate may not be used by a server")
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
            raise Unfit(f"the certificate's chain is broken: {error}") from None
    try:
        # Strength too is OpenSSL's to judge, by the policy of this system.
        SSL.Context(SSL.TLS_SERVER_METHOD).use_certificate(leaf)
    except SSL.Error as error:
        raise Unfit(f"OpenSSL does not take the certificate: {error}") from None
    return leaf


def _names(leaf: x509.Certificate) -> set[str]:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return {str(attribute.value) for attribute in common}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
