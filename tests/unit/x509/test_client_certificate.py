"""The fields of a client's certificate, beside what the library that knows all of X.509 reads."""

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from amphora_agent.x509.pem import identify, read_list_issuer
from lab.pki import Authority

ROOT = Authority.create("the authority", key="ec")
BETWEEN = ROOT.intermediate("between", key="ec")


def encoded(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


@pytest.mark.parametrize(
    ("server", "client", "says"),
    [(True, True, True), (False, True, True), (True, False, True), (False, False, False)],
)
def test_a_use_is_seen_where_there_is_one(server: bool, client: bool, says: bool) -> None:
    issued = ROOT.issue("x", dns=["x"], server=server, client=client, key="ec")
    found = identify(encoded(issued.certificate))
    assert (found.says_use, found.serial) == (says, issued.serial)


def test_an_issuer_is_the_same_in_certificates_and_lists() -> None:
    for authority in (ROOT, BETWEEN):
        revocations = x509.load_pem_x509_crl(authority.revocation_list())
        issuer = read_list_issuer(revocations.public_bytes(Encoding.DER))
        assert identify(encoded(authority.issue("x", key="ec").certificate)).issuer == issuer
    assert (
        identify(encoded(BETWEEN.certificate)).issuer == identify(encoded(ROOT.certificate)).issuer
    )


@pytest.mark.parametrize("length", [0, 1, 2, 10, 100, 200])
def test_refuses_a_certificate_that_is_cut_off(length: int) -> None:
    with pytest.raises(ValueError, match=r"cut off|not DER|no certificate"):
        identify(encoded(ROOT.certificate)[:length])
