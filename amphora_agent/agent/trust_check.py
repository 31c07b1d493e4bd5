"""Check certificates and revocation lists: `python -m amphora_agent.agent.trust_check`.

The libraries for X.509 take 10 MB, so a program that ends does this. It prints its answer and exits
with 0, or prints why it refuses and exits with 3.

* `own FILE AMPHORA_ID`: may this be the agent's certificate? Prints when it expires. A controller
  that does not accept it could not reach the agent any more, so everything that the controller
  looks at must be in order.
* `authority FILE`: have the authorities in FILE signed the client's certificate that comes on
  standard input, with its chain?
* `revocations`: what do revocation lists say? Reads a `RevocationQuestion` and prints a
  `RevocationAnswer`, both as JSON.
"""

import ssl
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from OpenSSL import crypto

from amphora_agent import entry
from amphora_agent.agent.trust import EXIT_REFUSED, RevocationAnswer, RevocationQuestion
from amphora_agent.x509 import checks, pem
from amphora_agent.x509.checks import Unfit
from amphora_agent.x509.pem import read_list_issuer

_HARMLESS = {ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER}


def main(arguments: Sequence[str]) -> int:
    """Run one of the three checks; return the exit status."""
    try:
        match arguments:
            case ("own", path, amphora_id):
                leaf = require_own(Path(path).read_bytes(), amphora_id, datetime.now(UTC))
                # The same call that the next connection depends on.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
                answer = leaf.not_valid_after_utc.isoformat().encode()
            case ("authority", path):
                require_signed(Path(path), sys.stdin.buffer.read())
                answer = b""
            case _:
                question = msgspec.json.decode(sys.stdin.buffer.read(), type=RevocationQuestion)
                answer = msgspec.json.encode(judge_revocations(question, datetime.now(UTC)))
    except Unfit as reason:
        print(reason)
        return EXIT_REFUSED
    except ssl.SSLError as error:
        print(f"the certificate cannot be used: {error}")
        return EXIT_REFUSED
    sys.stdout.buffer.write(answer)
    return 0


def require_own(pem: bytes, amphora_id: str, now: datetime) -> x509.Certificate:
    """Return the leaf certificate of a PEM that is fit for this amphora at `now`.

    Raises:
        Unfit: no certificate or key, they do not belong together, it is not valid now,
            it names another amphora, it may not serve TLS, or its chain is broken or cut off.
    """
    chain = checks.load_certificates(pem)
    key = checks.load_private_key(pem)
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


def require_signed(path: Path, client_pem: bytes) -> None:
    """Check that the authorities of a file have signed a client's certificate.

    Raises:
        Unfit: there are none, they have not, or one of them or the certificate has expired.
        ssl.SSLError: OpenSSL does not take the file.
    """
    checks.load_certificates(path.read_bytes())
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    leaf, *between = map(crypto.X509.from_cryptography, checks.load_certificates(client_pem))
    store = crypto.X509Store()
    store.load_locations(str(path))
    try:
        crypto.X509StoreContext(store, leaf, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise Unfit(f"it has not signed your certificate: {error}") from None


def judge_revocations(question: RevocationQuestion, now: datetime) -> RevocationAnswer:
    """Check all lists of a file, and return what those of known authorities say.

    Raises:
        Unfit: a list cannot be read, has not been signed by its issuer, is incomplete by its own
            words, or has expired; or no list is by an authority that the agent knows.
    """
    issuers = checks.load_certificates(Path(question.authorities).read_bytes())
    issuers += map(x509.load_der_x509_certificate, question.between)
    known = [crl for crl in _read_lists(question.lists) if _is_known(crl, issuers)]
    if not known:
        raise Unfit("no list in it is by the controllers' authority")
    for crl in known:
        _require_usable(crl, now, expired_too=question.expired_too)
    times = [crl.next_update_utc.timestamp() for crl in known if crl.next_update_utc]
    revoked = tuple(
        (
            read_list_issuer(crl.public_bytes(Encoding.DER)),
            tuple(str(entry.serial_number) for entry in crl),
        )
        for crl in known
    )
    return RevocationAnswer(revoked, min(times, default=None))


def _read_lists(data: bytes) -> list[x509.CertificateRevocationList]:
    try:
        if b"-----BEGIN " not in data:
            return [x509.load_der_x509_crl(data)]
        blocks = pem.find_blocks(data, pem.REVOCATIONS)
        if pem.count_blocks(data, pem.REVOCATIONS) != len(blocks):
            raise Unfit("it is cut off: a list in it has no end")
        lists = [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError:
        raise Unfit("there is no usable revocation list in it") from None
    if not lists:
        raise Unfit("there is no revocation list in it")
    return lists


def _is_known(revocations: x509.CertificateRevocationList, issuers: list[x509.Certificate]) -> bool:
    """Return whether one of the issuers has signed a list.

    Raises:
        Unfit: one has its issuer's name, and none has signed it.
    """
    named = [issuer for issuer in issuers if issuer.subject == revocations.issuer]
    for issuer in named:
        try:
            if revocations.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type]
                return True
        except (TypeError, ValueError):
            continue  # a key of a kind that signs nothing
    if named:
        raise Unfit("a list in it has the name of an authority that has not signed it")
    return False


def _require_usable(
    revocations: x509.CertificateRevocationList, now: datetime, *, expired_too: bool
) -> None:
    for extension in revocations.extensions:
        if extension.critical and extension.oid not in _HARMLESS:
            raise Unfit("a list in it does not tell everything: it is partial, or of others")
    if revocations.last_update_utc > now:
        raise Unfit(f"a list in it is valid from {revocations.last_update_utc:%Y-%m-%dT%H:%M:%SZ}")
    until = revocations.next_update_utc
    if until is not None and until <= now and not expired_too:
        raise Unfit(f"a list in it has expired at {until:%Y-%m-%dT%H:%M:%SZ}")


if __name__ == "__main__":
    sys.exit(entry.run("certificate check", lambda: main(sys.argv[1:])))
