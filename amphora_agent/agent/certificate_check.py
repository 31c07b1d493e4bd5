"""Examine a certificate for the agent: `python -m amphora_agent.agent.certificate_check`.

An agent whose certificate the controller does not accept is out of reach for good, so a new one
is refused unless everything that the controller will look at is in order.

`… FILE AMPHORA_ID` prints when the certificate expires and exits with 0, or prints what is wrong
with it and exits with 3. `… --authority FILE` does so for authorities: they must have signed the
client's certificate that comes on standard input, with its chain.
"""

import ssl
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from amphora_agent import entry
from amphora_agent.x509 import checks
from amphora_agent.x509.checks import Unfit

_EXIT_UNFIT = 3


def main(arguments: Sequence[str]) -> int:
    try:
        if arguments[0] == "--authority":
            check_authority(Path(arguments[1]), sys.stdin.buffer.read())
        else:
            path, amphora_id = arguments
            leaf = check(Path(path).read_bytes(), amphora_id, datetime.now(UTC))
            # The same call that the next connection depends on.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
            print(leaf.not_valid_after_utc.isoformat())
    except Unfit as reason:
        print(reason)
        return _EXIT_UNFIT
    except ssl.SSLError as error:
        print(f"the certificate cannot be used: {error}")
        return _EXIT_UNFIT
    return 0


def check_authority(path: Path, client_pem: bytes) -> None:
    """See that the authorities of a file have signed a client's certificate.

    Raises:
        Unfit: there are none, they have not, or one of them or the certificate has expired.
        ssl.SSLError: OpenSSL does not take the file.
    """
    checks.certificates(path.read_bytes())
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    leaf, *between = [
        crypto.X509.from_cryptography(certificate)
        for certificate in checks.certificates(client_pem)
    ]
    store = crypto.X509Store()
    store.load_locations(str(path))
    try:
        crypto.X509StoreContext(store, leaf, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise Unfit(f"it has not signed your certificate: {error}") from None


def check(pem: bytes, amphora_id: str, now: datetime) -> x509.Certificate:
    """The leaf certificate of a PEM that is fit for this amphora at `now`.

    Raises:
        Unfit: no certificate or key, they do not belong together, it is not valid now,
            it names another amphora, it may not serve TLS, or its chain is broken or cut off.
    """
    chain = checks.certificates(pem)
    key = checks.private_key(pem)
    checks.require_whole(pem)
    leaf = chain[0]
    if not checks.belongs(leaf, key):
        raise Unfit("the private key is not that of the certificate")
    checks.require_valid(leaf, now)
    names = checks.names(leaf)
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
    checks.require_chain(chain, now)
    checks.require_usable(leaf)
    return leaf


if __name__ == "__main__":
    sys.exit(entry.run("certificate check", lambda: main(sys.argv[1:])))
