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
from cryptography.x509.oid import ExtendedKeyUsageOID

from amphora_agent import examination
from amphora_agent.examination import Unfit

_EXIT_UNFIT = 3


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
    chain = examination.certificates(pem)
    key = examination.private_key(pem)
    examination.require_whole(pem)
    leaf = chain[0]
    if not examination.belongs(leaf, key):
        raise Unfit("the private key is not that of the certificate")
    examination.require_valid(leaf, now)
    names = examination.names(leaf)
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
    examination.require_chain(chain, now)
    examination.require_usable(leaf)
    return leaf


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
