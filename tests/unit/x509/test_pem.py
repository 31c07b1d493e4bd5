"""PEM files, against what the library that knows all of X.509 finds in them."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from amphora_agent.x509 import pem
from lab.pki import Authority, KeyKind

AUTHORITY = Authority.create("one", key="ec")
KEY = ec.generate_private_key(ec.SECP256R1())


def revocation_list(serials: list[int], made: datetime) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([]))
        .last_update(made)
        .next_update(made + timedelta(days=1))
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_parses_certificate_chain_and_key(kind: KeyKind) -> None:
    issued = AUTHORITY.intermediate("i", key="ec").issue("a", key=kind)
    blocks = pem.parse_pem(issued.pem).blocks
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    leaf = blocks[0]
    assert pem.read_serial(leaf.content) == issued.serial
    assert pem.read_expiry(leaf) == certificate.not_valid_after_utc
    assert leaf.fingerprint == certificate.fingerprint(hashes.SHA1()).hex()
    assert [block.label == pem.CERTIFICATE for block in blocks] == [True, False, True]
    assert "".join(block.text for block in blocks) == issued.pem.decode()


@pytest.mark.parametrize("serials", [[], [1], [255, 256, 2**150]])
@pytest.mark.parametrize(
    ("made", "printed"),
    [
        (datetime(2026, 11, 2, 3, 4, 5, tzinfo=UTC), "Nov 2 03:04:05 2026 GMT"),
        (datetime(1999, 1, 31, 23, 59, 59, tzinfo=UTC), "Jan 31 23:59:59 1999 GMT"),
        (datetime(2055, 12, 1, tzinfo=UTC), "Dec 1 00:00:00 2055 GMT"),
    ],
)
def test_reads_a_revocation_list(serials: list[int], made: datetime, printed: str) -> None:
    (block,) = pem.parse_pem(revocation_list(serials, made)).blocks
    assert block.label == pem.REVOCATIONS
    assert pem.read_expiry(block) == made + timedelta(days=1)
    assert pem.read_revocations(block.content) == pem.Revocations(printed, frozenset(serials))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("-----END CERTIFICATE-----", "", 1),
        lambda text: text.replace("-----BEGIN CERTIFICATE-----", "-----BEGIN X-----", 1),
        lambda text: text.replace("\n", "\n\n", 3),
        lambda text: text.replace("\n", "\n!\n", 1),
        lambda text: text.replace("=\n-----END", "\n-----END", 1),
        lambda text: text.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n", 1),
    ],
)
def test_refuses_a_file_that_is_not_whole(change: object) -> None:
    text = AUTHORITY.issue("a", key="ec").pem.decode()
    assert callable(change)
    changed = change(text)
    if changed != text:
        with pytest.raises(pem.Unreadable):
            pem.parse_pem(changed.encode())


@pytest.mark.parametrize("content", [b"", b"\x30", b"\x30\x05", b"\x02\x01\x01", b"\x30\x84\xff"])
def test_refuses_content_that_is_no_certificate(content: bytes) -> None:
    with pytest.raises(pem.Unreadable):
        pem.read_serial(content)
    with pytest.raises(pem.Unreadable):
        pem.read_revocations(content)


def test_any_cut_certificate_is_unreadable_or_has_its_number() -> None:
    (block,) = pem.parse_pem(AUTHORITY.certificate).blocks
    for length in range(len(block.content)):
        with pytest.raises(pem.Unreadable):
            pem.read_serial(block.content[:length])


def test_blocks_are_found_as_they_are_written() -> None:
    key = b"-----BEGIN EC PRIVATE KEY-----\r\nAA==\r\n-----END EC PRIVATE KEY-----"
    one, cut = (f"-----BEGIN CERTIFICATE-----\n{n}".encode() for n in ("AA==\n", "AB"))
    one += b"-----END CERTIFICATE-----"
    data = b"\n".join((b"words", key, one, one, cut))
    assert pem.find_blocks(data, pem.CERTIFICATE) == [one, one]
    assert pem.find_blocks(data, "[A-Z ]*PRIVATE KEY") == [key]
    assert pem.count_blocks(data, pem.CERTIFICATE) == 3
    assert pem.count_blocks(cut, pem.CERTIFICATE) == 1
    assert pem.count_blocks(data, pem.REVOCATIONS) == 0
