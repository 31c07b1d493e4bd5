"""Whether certificates can serve: `python -m amphora_agent.declarative.certificate_check`.

A JSON list of `Given` on standard input, a JSON list of `Checked` on standard output. It is a
program because it needs libraries that the agent does not keep, and because a key that is read by
a process that ends stays in no memory.
"""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from amphora_agent import examination
from amphora_agent.declarative.certificate_files import (
    About,
    Checked,
    Given,
    Purpose,
)
from amphora_agent.examination import Unfit
from amphora_agent.haproxy import pem
from amphora_agent.haproxy.pem import Block


def main() -> int:
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Given])
    now = datetime.now(UTC)
    sys.stdout.buffer.write(msgspec.json.encode([checked(each, now) for each in given]))
    return 0


def checked(given: Given, now: datetime) -> Checked:
    """What there is to say of one file at `now`."""
    try:
        examination.require_whole(given.pem.encode())
        blocks = pem.blocks(given.pem)
        match given.purpose or _purpose(blocks):
            case Purpose.CERTIFICATE:
                return _certificate(given, blocks, now)
            case Purpose.AUTHORITIES:
                return _authorities(given, blocks, now)
            case Purpose.REVOCATIONS:
                return _revocations(given, blocks)
    except (Unfit, pem.Unreadable) as reason:
        return Checked(given.name, problem=str(reason))


def _purpose(blocks: Iterable[Block]) -> Purpose:
    """What a file that does not say is for."""
    labels = {block.label for block in blocks}
    if any("PRIVATE KEY" in label for label in labels):
        return Purpose.CERTIFICATE
    return Purpose.REVOCATIONS if pem.REVOCATIONS in labels else Purpose.AUTHORITIES


def _certificate(given: Given, blocks: Iterable[Block], now: datetime) -> Checked:
    keys = [block for block in blocks if block.label.endswith("PRIVATE KEY")]
    certificates = [block for block in blocks if block.label == pem.CERTIFICATE]
    others = {b.label for b in blocks} - {b.label for b in (*keys, *certificates)}
    if others - {"EC PARAMETERS", "DH PARAMETERS"}:
        raise Unfit(f"there is something else in it: {', '.join(sorted(others))}")
    if not certificates:
        raise Unfit("there is no certificate in it")
    if len(keys) != 1:
        raise Unfit(f"there are {len(keys)} private keys in it" if keys else "it has no key")
    if "ENCRYPTED" in keys[0].label:
        raise Unfit("its private key needs a passphrase")
    key = examination.private_key(keys[0].text.encode())
    parsed = [(block, _parsed(block)) for block in certificates]
    own = [each for each in parsed if examination.belongs(each[1], key)]
    if not own:
        raise Unfit("the private key is not that of the certificate")
    chain = _in_order(own[0], [each for each in parsed if each is not own[0]])
    leaf = chain[0][1]
    for number, (_, certificate) in enumerate(chain):
        try:
            examination.require_valid(certificate, now)
        except Unfit as reason:
            raise Unfit(
                str(reason) if number == 0 else f"{_subject(certificate)}: {reason}"
            ) from None
    examination.require_chain([certificate for _, certificate in chain], now)
    examination.require_usable(leaf)
    text = chain[0][0].text + keys[0].text + "".join(block.text for block, _ in chain[1:])
    return Checked(given.name, pem=text, about=_about(Purpose.CERTIFICATE, [c for _, c in chain]))


def _in_order(
    leaf: tuple[Block, x509.Certificate], others: list[tuple[Block, x509.Certificate]]
) -> list[tuple[Block, x509.Certificate]]:
    """The chain from the leaf on; each certificate is issued by the next one.

    Raises:
        Unfit: one of them does not belong to it.
    """
    chain, left = [leaf], [each for each in others if each[1] != leaf[1]]
    while left:
        issuers = [each for each in left if _issued(chain[-1][1], each[1])]
        if not issuers:
            raise Unfit(
                "the chain is broken: "
                f"none of the others has issued {_subject(chain[-1][1])}; "
                f"left over: {', '.join(_subject(each[1]) for each in left)}"
            )
        chain.append(issuers[0])
        left = [each for each in left if each[1] != issuers[0][1]]
    return chain


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # of several kinds, from several libraries: each says no
        return False
    return True


def _authorities(given: Given, blocks: Iterable[Block], now: datetime) -> Checked:
    if any(block.label != pem.CERTIFICATE for block in blocks) or not blocks:
        raise Unfit("it must have certificates, and nothing else")
    certificates = [_parsed(block) for block in blocks]
    if all(certificate.not_valid_after_utc < now for certificate in certificates):
        examination.require_valid(certificates[0], now)
    return Checked(
        given.name,
        pem="".join(block.text for block in blocks),
        about=_about(Purpose.AUTHORITIES, certificates),
    )


def _revocations(given: Given, blocks: Iterable[Block]) -> Checked:
    if any(block.label != pem.REVOCATIONS for block in blocks) or not blocks:
        raise Unfit("it must have revocation lists, and nothing else")
    lists = []
    for block in blocks:
        try:
            lists.append(x509.load_der_x509_crl(block.content))
        except ValueError as error:
            raise Unfit(f"a revocation list cannot be read: {error}") from None
    first = lists[0]
    about = About(
        purpose=Purpose.REVOCATIONS,
        subject=first.issuer.rfc4514_string(),
        not_before=_time(first.last_update_utc),
        not_after=_time(first.next_update_utc) if first.next_update_utc else "",
        fingerprint=first.fingerprint(hashes.SHA256()).hex(),
    )
    return Checked(given.name, pem="".join(block.text for block in blocks), about=about)


def _parsed(block: Block) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(block.content)
    except ValueError as error:
        raise Unfit(f"a certificate cannot be read: {error}") from None


def _about(purpose: Purpose, chain: list[x509.Certificate]) -> About:
    leaf = chain[0]
    return About(
        purpose=purpose,
        subject=_subject(leaf),
        issuer=leaf.issuer.rfc4514_string(),
        names=tuple(sorted(examination.names(leaf))),
        not_before=_time(leaf.not_valid_before_utc),
        not_after=_time(leaf.not_valid_after_utc),
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        chain=tuple(_subject(each) for each in chain[1:]),
    )


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


if __name__ == "__main__":
    sys.exit(main())
