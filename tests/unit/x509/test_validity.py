"""The end of a certificate's validity, as the library that knows all of X.509 has it."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amphora_agent.x509.validity import read_expiries

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n" * 60)])


def pem(until: datetime, *, serial: int = 1, more: str = "") -> str:
    made = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(KEY.public_key())
        .serial_number(serial)
        .not_valid_before(datetime(1990, 1, 1, tzinfo=UTC))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{more}.test")]), False)
        .sign(KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 2999])
@pytest.mark.parametrize("serial", [1, 2**158])
def test_the_end_of_validity_is_read(year: int, serial: int) -> None:
    until = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    assert read_expiries(pem(until, serial=serial)) == (until,)


def test_the_first_certificate_counts_whatever_is_around_it() -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    key = KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    later = until + timedelta(days=9)
    assert read_expiries(f"words\n{key}{pem(until)}{pem(later)}") == (until, later)


def test_refuses_text_without_a_certificate() -> None:
    whole = pem(datetime(2030, 1, 1, tzinfo=UTC))
    lines = whole.splitlines()
    cut_off = "\n".join((*lines[:3], lines[-1]))
    for text in (
        "",
        "words",
        cut_off,
        whole.replace(lines[1], "A" * 64),
        f"{lines[0]}\n{lines[-1]}",
    ):
        with pytest.raises(ValueError, match="certificate"):
            read_expiries(text)
