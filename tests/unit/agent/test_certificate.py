"""Which agent certificate may replace the one that works: certificates of a real authority."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from amphora_agent.agent import trust_check
from amphora_agent.agent.trust import AgentCertificate
from amphora_agent.agent.trust_check import require_own
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.x509.checks import Unfit
from lab.pki import Authority

AMPHORA = "0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)

ROOT = Authority.create("amphora server CA", key="ec")
MIDDLE = ROOT.intermediate("below", key="ec")
GOOD = ROOT.issue(AMPHORA, dns=[AMPHORA], key="ec")
OTHER = ROOT.issue(AMPHORA, dns=[AMPHORA], key="ec")
BELOW = MIDDLE.issue(AMPHORA, dns=[AMPHORA], key="ec")


def encrypted_key() -> bytes:
    key = serialization.load_pem_private_key(GOOD.key, password=None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


GOOD_ONES: dict[str, bytes] = {
    "certificate and key": GOOD.pem,
    "key first": GOOD.key + GOOD.certificate,
    "RSA": ROOT.issue(AMPHORA, dns=[AMPHORA], key="rsa").pem,
    "more names": ROOT.issue("x", dns=["x", AMPHORA], addresses=["192.0.2.1"], key="ec").pem,
    "common name alone": ROOT.issue(AMPHORA, key="ec").pem,
    "no extended key usage": ROOT.issue(
        AMPHORA, dns=[AMPHORA], key="ec", server=False, client=False
    ).pem,
    "server only": ROOT.issue(AMPHORA, dns=[AMPHORA], key="ec", client=False).pem,
    "with its intermediate": BELOW.pem,
    "with its whole chain": BELOW.pem + ROOT.certificate,
    "with the root alone": GOOD.pem + ROOT.certificate,
    "chain before the key": BELOW.certificate + BELOW.chain + BELOW.key,
    # OpenSSL, on either side, puts a chain in order.
    "chain upside down": BELOW.certificate + BELOW.key + ROOT.certificate + MIDDLE.certificate,
    "text around": b"subject=amphora\n" + GOOD.pem + b"\n# end\n",
    "CRLF": GOOD.pem.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("name", GOOD_ONES)
def test_a_certificate_that_will_do_is_taken(name: str) -> None:
    leaf = require_own(GOOD_ONES[name], AMPHORA, NOW)
    assert isinstance(leaf, x509.Certificate)


def test_the_leaf_is_the_first_certificate() -> None:
    assert require_own(BELOW.pem, AMPHORA, NOW).serial_number == BELOW.serial


BAD_ONES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no usable certificate"),
    "garbage": (b"\0\xff" * 100, "no usable certificate"),
    "no certificate": (GOOD.key, "no usable certificate"),
    "no key": (GOOD.certificate, "no usable private key"),
    "an encrypted key": (GOOD.certificate + encrypted_key(), "no usable private key"),
    "another key": (GOOD.certificate + OTHER.key, "not that of the certificate"),
    "cut off in the certificate": (GOOD.pem[:300], "no usable certificate"),
    "cut off in the key": (GOOD.pem[:-60], "no usable private key"),
    "cut off in the chain": (BELOW.pem[:-60], "is cut off"),
    "cut off at the start of the chain": (BELOW.pem[: -len(BELOW.chain) + 40], "is cut off"),
    "a broken certificate": (
        GOOD.certificate.replace(b"M", b"N", 1) + GOOD.key,
        "no usable certificate",
    ),
    "expired": (
        ROOT.issue(
            AMPHORA, dns=[AMPHORA], key="ec", not_before=NOW - 2 * DAY, not_after=NOW - DAY
        ).pem,
        "is valid from",
    ),
    "not yet valid": (
        ROOT.issue(
            AMPHORA, dns=[AMPHORA], key="ec", not_before=NOW + DAY, not_after=NOW + 2 * DAY
        ).pem,
        "is valid from",
    ),
    "of another amphora": (ROOT.issue("other", dns=["other"], key="ec").pem, "names other"),
    "the name only as common name": (
        ROOT.issue(AMPHORA, dns=["other"], key="ec").pem,
        "names other",
    ),
    "no serverAuth": (
        ROOT.issue(AMPHORA, dns=[AMPHORA], key="ec", server=False).pem,
        "not be used by a server",
    ),
    "its intermediate first": (
        MIDDLE.certificate + BELOW.certificate + BELOW.key,
        "not that of the certificate",
    ),
    "a foreign chain": (
        GOOD.pem + Authority.create("other", key="ec").certificate,
        "chain is broken",
    ),
    "a gap in the chain": (BELOW.certificate + BELOW.key + ROOT.certificate, "chain is broken"),
}


@pytest.mark.parametrize("name", BAD_ONES)
def test_a_certificate_that_would_lock_the_controller_out_is_refused(name: str) -> None:
    pem, reason = BAD_ONES[name]
    with pytest.raises(Unfit, match=reason):
        require_own(pem, AMPHORA, NOW)


def test_an_expiry_between_now_and_then_counts_at_the_time_given() -> None:
    require_own(GOOD.pem, AMPHORA, NOW + 89 * DAY)
    with pytest.raises(Unfit, match="is valid from"):
        require_own(GOOD.pem, AMPHORA, NOW + 91 * DAY)


def test_no_refusal_quotes_the_key() -> None:
    body = GOOD.key.splitlines()[1]
    for pem, _ in BAD_ONES.values():
        with pytest.raises(Unfit) as raised:
            require_own(pem, AMPHORA, NOW)
        assert body.decode() not in str(raised.value)


@pytest.fixture
def installed(tmp_path: Path) -> AgentCertificate:
    path = tmp_path / "server.pem"
    path.write_bytes(GOOD.pem)
    return AgentCertificate(lambda: path, AMPHORA)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_one_before_is_kept(installed: AgentCertificate) -> None:
    installed.replace(OTHER.pem)
    assert contents(installed.path.parent) == {
        "server.pem": OTHER.pem,
        "server.pem.previous": GOOD.pem,
    }


def test_the_one_before_stays_when_the_same_comes_again(installed: AgentCertificate) -> None:
    for _ in range(2):
        installed.replace(OTHER.pem)
    assert contents(installed.path.parent)["server.pem.previous"] == GOOD.pem


def test_keys_are_for_the_agent_alone(installed: AgentCertificate) -> None:
    installed.replace(OTHER.pem)
    assert stat.S_IMODE(installed.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["nothing", "another key", "cut off in the chain", "expired"])
def test_a_refused_one_changes_nothing(name: str, installed: AgentCertificate) -> None:
    pem, reason = BAD_ONES[name]
    with pytest.raises(InvalidRequest, match=reason):
        installed.replace(pem)
    assert contents(installed.path.parent) == {"server.pem": GOOD.pem}


def test_refuses_a_certificate_that_could_not_be_checked(
    installed: AgentCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No interpreter in its place: the one fault that has nothing to do with the certificate."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(OperationFailed):
        installed.replace(OTHER.pem)
    assert contents(installed.path.parent) == {"server.pem": GOOD.pem}


@pytest.mark.parametrize("name", GOOD_ONES)
def test_accepts_only_a_certificate_that_tls_can_serve_with(name: str, tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    path.write_bytes(GOOD_ONES[name])
    assert trust_check.main(["own", str(path), AMPHORA]) == 0
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
