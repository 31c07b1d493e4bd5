"""What the end of certificates does to the status of listeners and pools."""

from datetime import UTC, datetime, timedelta

import pytest

from amphora_agent.loadbalancer.translate.status import Note, find_notes
from amphora_agent.model.responses import About, OperatingStatus, Purpose

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DEGRADED, ERROR, ONLINE = (
    OperatingStatus.DEGRADED,
    OperatingStatus.ERROR,
    OperatingStatus.ONLINE,
)


def certificate(days: float | None, begins: float = -100) -> About:
    before, after = (
        "" if each is None else f"{NOW + timedelta(days=each):%Y-%m-%dT%H:%M:%SZ}"
        for each in (begins, days)
    )
    return About(
        purpose=Purpose.CERTIFICATE,
        subject="",
        not_before=before,
        not_after=after,
        fingerprint="",
    )


@pytest.mark.parametrize(
    ("name", "left", "status", "words"),
    [
        ("certificates/l.default.pem", 20, ONLINE, "its certificate expires within 30 days"),
        ("certificates/l.default.pem", -1, DEGRADED, "its certificate has expired"),
        ("l/certificates/l.sni-0123456789abcdef.pem", -1, DEGRADED, "certificate has expired"),
        ("certificates/l.client-ca.pem", -1, ERROR, "its CA has expired"),
        ("certificates/l.client-crl.pem", 0.5, ONLINE, "revocation list expires within a day"),
        ("certificates/l.client-crl.pem", -1, ERROR, "its revocation list has expired"),
        ("certificates/l.crl.pem", -1, DEGRADED, "its revocation list has expired"),
    ],
)
def test_certificate_that_expires_has_a_note(
    name: str, left: float, status: OperatingStatus, words: str
) -> None:
    found = find_notes({name: certificate(left)}, NOW)
    assert found.keys() == {"l"}
    assert found["l"].status is status
    assert words in found["l"].reason


def test_certificate_that_is_not_valid_yet_has_a_note() -> None:
    (note,) = find_notes({"certificates/l.default.pem": certificate(9, begins=1)}, NOW).values()
    assert note == Note(DEGRADED, "its certificate is not valid before 2026-12-01T00:00:00Z")


def test_certificate_that_is_valid_for_long_has_no_note() -> None:
    files = {
        "certificates/l.default.pem": certificate(31),
        "certificates/l.client-crl.pem": certificate(None),
    }
    assert find_notes(files, NOW) == {}


def test_worst_certificate_decides() -> None:
    files = {
        "certificates/l.default.pem": certificate(3),
        "certificates/l.client-crl.pem": certificate(-3),
    }
    (note,) = find_notes(files, NOW).values()
    assert note.status is ERROR
    assert note.reason.startswith("its revocation list has expired")
    assert "its certificate expires within 7 days" in note.reason
