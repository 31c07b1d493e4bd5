"""What the end of certificates does to the status of listeners and pools."""

from datetime import UTC, datetime, timedelta

import pytest

from amphora_agent.loadbalancer.translate.status import Note, Times, find_notes
from amphora_agent.model.responses import OperatingStatus

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DEGRADED, ERROR, ONLINE = (
    OperatingStatus.DEGRADED,
    OperatingStatus.ERROR,
    OperatingStatus.ONLINE,
)


def times(days: float, begins: float = -100) -> Times:
    before, after = (f"{NOW + timedelta(days=each):%Y-%m-%dT%H:%M:%SZ}" for each in (begins, days))
    return Times(before, after)


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
def test_c3_what_expires_is_told(
    name: str, left: float, status: OperatingStatus, words: str
) -> None:
    found = find_notes({name: times(left)}, NOW)
    assert found.keys() == {"l"}
    assert found["l"].status is status
    assert words in found["l"].reason


def test_c4_what_is_not_valid_yet_is_told() -> None:
    (note,) = find_notes({"certificates/l.default.pem": times(9, begins=1)}, NOW).values()
    assert note == Note(DEGRADED, "its certificate is not valid before 2026-12-01T00:00:00Z")


def test_nothing_is_told_of_what_is_valid_for_long_or_for_ever() -> None:
    files = {
        "certificates/l.default.pem": times(31),
        "certificates/l.client-crl.pem": Times(times(1).not_before, ""),
    }
    assert find_notes(files, NOW) == {}


def test_the_worst_decides() -> None:
    files = {
        "certificates/l.default.pem": times(3),
        "certificates/l.client-crl.pem": times(-3),
    }
    (note,) = find_notes(files, NOW).values()
    assert note.status is ERROR
    assert note.reason.startswith("its revocation list has expired")
    assert "its certificate expires within 7 days" in note.reason
