"""Verify revocation lists of controllers: `python -m amphora_agent.agent.revocation_check`.

A program that ends, for the libraries that it needs. Reads a `Question` on standard input, as JSON;
prints an `Answer` and exits with 0, or prints why the lists cannot be used and exits with 3.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from amphora_agent import entry
from amphora_agent.x509 import checks, pem
from amphora_agent.x509.checks import Unfit
from amphora_agent.x509.der import issuer_of_list

_EXIT_UNFIT = 3
_HARMLESS = {ExtensionOID.AUTHORITY_KEY_IDENTIFIER, ExtensionOID.CRL_NUMBER}


class Question(msgspec.Struct, frozen=True):
    """`lists` is the file's content (PEM with one list or more, or one list in DER), `authorities`
    the file of whom the agent trusts, `between` authorities (DER) that clients have shown in
    chains that were verified. `expired_too`: lists are used though they have expired."""

    lists: bytes
    authorities: str
    between: tuple[bytes, ...] = ()
    expired_too: bool = False


class Answer(msgspec.Struct, frozen=True):
    """Serial numbers (decimal: they are longer than JSON's numbers) by issuer. `until` is when the
    first of the lists expires, `unknown` how many are by issuers not known here."""

    revoked: tuple[tuple[bytes, tuple[str, ...]], ...]
    until: float | None
    unknown: int


def main() -> int:
    try:
        question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
        answer = examine(question, datetime.now(UTC))
    except Unfit as reason:
        print(reason)
        return _EXIT_UNFIT
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


def examine(question: Question, now: datetime) -> Answer:
    """Judge all lists of a file, and tell what they say.

    Raises:
        Unfit: one cannot be read, is not by its issuer, is incomplete by its own words, or has
            expired; or none is by an authority that the agent knows.
    """
    issuers = checks.certificates(Path(question.authorities).read_bytes())
    issuers += map(x509.load_der_x509_certificate, question.between)
    lists = _read(question.lists)
    known = [each for each in lists if _is_known(each, issuers)]
    if not known:
        raise Unfit("no list in it is by the controllers' authority")
    for each in known:
        _require_usable(each, now, expired_too=question.expired_too)
    times = [each.next_update_utc.timestamp() for each in known if each.next_update_utc]
    return Answer(
        tuple(
            (
                issuer_of_list(each.public_bytes(Encoding.DER)),
                tuple(str(entry.serial_number) for entry in each),
            )
            for each in known
        ),
        min(times, default=None),
        len(lists) - len(known),
    )


def _read(data: bytes) -> list[x509.CertificateRevocationList]:
    try:
        if b"-----BEGIN " not in data:
            return [x509.load_der_x509_crl(data)]
        found = pem.find_blocks(data, pem.REVOCATIONS)
        if pem.count_blocks(data, pem.REVOCATIONS) != len(found):
            raise Unfit("it is cut off: a list in it has no end")
        lists = [x509.load_pem_x509_crl(each) for each in found]
    except ValueError:
        raise Unfit("there is no usable revocation list in it") from None
    if not lists:
        raise Unfit("there is no revocation list in it")
    return lists


def _is_known(revocations: x509.CertificateRevocationList, issuers: list[x509.Certificate]) -> bool:
    """Whether one of the issuers has signed a list.

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
    sys.exit(entry.run("revocation check", main))
