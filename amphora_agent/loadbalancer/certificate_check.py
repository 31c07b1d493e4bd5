"""Check whether certificates can serve: `python -m amphora_agent.loadbalancer.certificate_check`.

A JSON list of `Given` on standard input, a JSON list of `Checked` on standard output. It is a
program because it needs libraries that the agent does not keep, and because a key that is read by
a process that ends stays in no memory.
"""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from amphora_agent import entry
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.certificate_content import Content, FileKind
from amphora_agent.haproxy.validate import openssl
from amphora_agent.model.responses import About, Checked, Given, Purpose
from amphora_agent.x509 import checks, pem
from amphora_agent.x509.checks import Unfit
from amphora_agent.x509.pem import Block

#: The purpose of a file that names none.
#: Partial: a crt-list is no PEM file, and is refused before.
_PURPOSES = {
    FileKind.CERTIFICATE: Purpose.CERTIFICATE,
    FileKind.AUTHORITIES: Purpose.AUTHORITIES,
    FileKind.REVOCATIONS: Purpose.REVOCATIONS,
    FileKind.PARAMETERS: Purpose.CERTIFICATE,
}


T = TypeVar("T")


def main() -> int:
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Given])
    sys.stdout.buffer.write(msgspec.json.encode([check_file(file) for file in given]))
    return 0


def check_file(given: Given) -> Checked:
    """Check one file, and return what it says.

    One that has expired serves: a load balancer must come back on another amphora in any case, and
    clients are told by their TLS libraries.
    """
    try:
        content = _parse_content(given.pem.encode(errors="replace"))
        match given.purpose or _PURPOSES[content.kind]:
            case Purpose.CERTIFICATE:
                return _check_certificate(given, content)
            case Purpose.AUTHORITIES:
                return _check_authorities(given, content)
            case Purpose.REVOCATIONS:
                return _check_revocations(given, content)
    except (checks.Unfit, certificate_content.UnusableFile) as reason:
        return Checked(given.name, problem=str(reason))


def _parse_content(data: bytes) -> Content:
    """Parse a PEM file that haproxy can use. Raises Unfit."""
    if not pem.is_pem(data):
        raise Unfit("there is no PEM in it")
    return openssl.require_usable(certificate_content.parse_pem_file(data))


def _check_certificate(given: Given, content: Content) -> Checked:
    if not content.certificates:
        raise Unfit("there is no certificate in it")
    if content.key is None:
        raise Unfit("it has no key")
    own, *others = [(block, _load_certificate(block)) for block in content.certificates]
    chain = _sort_chain(own, others)
    certificates = [certificate for _, certificate in chain]
    checks.require_chain(certificates)
    ordered = Content(content.key, tuple(block for block, _ in chain))
    text, about = ordered.text.decode(), _describe(Purpose.CERTIFICATE, certificates)
    return Checked(given.name, pem=text, about=about)


def _sort_chain(
    leaf: tuple[Block, x509.Certificate], others: list[tuple[Block, x509.Certificate]]
) -> list[tuple[Block, x509.Certificate]]:
    """Sort the chain from the leaf on; each certificate is issued by the next one.

    Raises:
        Unfit: one of them does not belong to it.
    """
    chain, left = [leaf], [other for other in others if other[1] != leaf[1]]
    while left:
        issuers = [other for other in left if _has_issued(chain[-1][1], other[1])]
        if not issuers:
            raise Unfit(
                "the chain is broken: "
                f"none of the others has issued {_name_subject(chain[-1][1])}; "
                f"left over: {', '.join(_name_subject(other[1]) for other in left)}"
            )
        chain.append(issuers[0])
        left = [other for other in left if other[1] != issuers[0][1]]
    return chain


def _has_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # of several kinds, from several libraries: each says no
        return False
    return True


def _check_authorities(given: Given, content: Content) -> Checked:
    if content != Content(certificates=content.certificates):
        raise Unfit("it must have certificates, and nothing else")
    certificates = [_load_certificate(block) for block in content.certificates]
    about = _describe(Purpose.AUTHORITIES, certificates)
    return Checked(given.name, pem=content.text.decode(), about=about)


def _check_revocations(given: Given, content: Content) -> Checked:
    if content != Content(revocations=content.revocations):
        raise Unfit("it must have revocation lists, and nothing else")
    what = "a revocation list"
    first, *_ = [_load(x509.load_der_x509_crl, block, what) for block in content.revocations]
    about = About(
        purpose=Purpose.REVOCATIONS,
        subject=first.issuer.rfc4514_string(),
        not_before=_format_time(first.last_update_utc),
        not_after=_format_time(first.next_update_utc) if first.next_update_utc else "",
        fingerprint=first.fingerprint(hashes.SHA256()).hex(),
    )
    return Checked(given.name, pem=content.text.decode(), about=about)


def _load(load: Callable[[bytes], T], block: Block, what: str) -> T:
    try:
        return load(block.content)
    except ValueError as error:
        raise Unfit(f"{what} cannot be read: {error}") from None


def _load_certificate(block: Block) -> x509.Certificate:
    return _load(x509.load_der_x509_certificate, block, "a certificate")


def _describe(purpose: Purpose, chain: list[x509.Certificate]) -> About:
    leaf = chain[0]
    return About(
        purpose=purpose,
        subject=_name_subject(leaf),
        issuer=leaf.issuer.rfc4514_string(),
        names=tuple(sorted(checks.names(leaf))),
        not_before=_format_time(leaf.not_valid_before_utc),
        not_after=_format_time(leaf.not_valid_after_utc),
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        chain=tuple(_name_subject(issuer) for issuer in chain[1:]),
    )


def _name_subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a subject"


def _format_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


if __name__ == "__main__":
    sys.exit(entry.run("certificate check", main))
