"""The files of load balancers that expire: which ones count, and what is reported when."""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.certificate_expiry import ExpiryWatch
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import Layout
from amphora_agent.settings.reader import Settings
from amphora_agent.x509.validity import Stage, find_stage
from lab.pki import Authority

DAY = timedelta(days=1)
NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
AUTHORITY = Authority.create("tenant", key="ec", days=20000)
TEXT = """
frontend f
    bind 10.0.0.5:443 ssl crt-list {c}/list.pem ca-file {c}/ca.pem crl-file {c}/crl.pem
    bind 10.0.0.5:444 ssl "crt" {c}/single\\x2epem
backend p
    server a 10.0.0.1:443 ssl crt {c}/client.pem ca-file /etc/ssl/certs/ca-certificates.crt
"""


def until(days: float) -> bytes:
    """A certificate with its key that expires so long after NOW."""
    before, after = NOW - 400 * DAY, NOW + days * DAY
    return AUTHORITY.issue("site", key="ec", not_before=before, not_after=after).pem


@dataclass
class Amphora:
    directory: Path
    now: float = NOW.timestamp()
    watch: ExpiryWatch = field(init=False)
    alarms: Alarms = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings(
            amphora_id="a",
            base_path=str(self.directory),
            base_cert_dir=str(self.directory / "certs"),
        )
        layout = Layout.of(settings, run=self.directory / "run", namespace="none")
        self.alarms = Alarms(layout.alarms)
        self.watch = ExpiryWatch(layout, self.alarms, lambda: self.now)
        (self.directory / "lb").mkdir()
        self.certificates = self.directory / "certs" / "lb"
        self.certificates.mkdir(parents=True)
        self.put("list.pem", f"{self.certificates}/a.pem\n{self.certificates}/b.pem x.y\n".encode())
        text = TEXT.format(c=self.certificates)
        (self.directory / "lb" / "haproxy.cfg").write_text(text)

    def put(self, name: str, data: bytes) -> None:
        (self.certificates / name).write_bytes(data)

    def reported(self, days: float = 0) -> str:
        """The alarm so many days after NOW."""
        self.now = (NOW + days * DAY).timestamp()
        self.watch.look()
        return "".join(alarm.text for alarm in self.alarms.current("lb"))


@pytest.fixture
def amphora(tmp_path: Path) -> Amphora:
    return Amphora(tmp_path)


@pytest.mark.parametrize(
    ("left", "expected"),
    [(31, Stage.VALID), (30, Stage.MONTH), (8, Stage.MONTH), (7, Stage.WEEK), (1, Stage.DAY),
     (0.01, Stage.DAY), (0, Stage.EXPIRED), (-5, Stage.EXPIRED)],
)  # fmt: skip
def test_stages(left: float, expected: Stage) -> None:
    assert find_stage(NOW.timestamp() + left * 86400, NOW.timestamp()) is expected


def test_operator_8_each_stage_is_logged_once(
    amphora: Amphora, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    amphora.put("a.pem", until(40))
    levels = []
    for days, words in (
        (0, ""),
        (11, "within 30 days"),
        (20, "within 30 days"),
        (34, "within 7 days"),
        (39.5, "within a day"),
        (41, "has expired"),
        (50, "has expired"),
    ):
        said = amphora.reported(days)
        assert words in said
        assert bool(said) == bool(words)
        levels += [record.levelname for record in caplog.records]
        caplog.clear()
    assert levels == ["WARNING", "WARNING", "ERROR", "ERROR"]
    amphora.put("a.pem", until(400))
    assert amphora.reported(50) == ""


def test_files_in_use_count_whatever_they_are_for(amphora: Amphora) -> None:
    # The lab's revocation lists begin now, whenever that is.
    for name in ("a.pem", "b.pem", "single.pem", "client.pem", "ca.pem"):
        amphora.put(name, until(5))
        assert f"{name} expires within 7 days" in amphora.reported()
        amphora.put(name, until(100))
        assert amphora.reported() == ""
    amphora.put("crl.pem", AUTHORITY.revocation_list())
    assert "CRL file crl.pem has expired" in amphora.reported()


def test_files_that_nothing_names_any_more_do_not_count(amphora: Amphora) -> None:
    amphora.put("renewed.pem", until(-1))
    amphora.put("a.pem", b"nonsense")
    assert amphora.reported() == ""
    assert amphora.watch.soonest() == []


def test_the_first_certificate_of_a_chain_to_expire_counts(amphora: Amphora) -> None:
    short = until(3).partition(b"-----BEGIN PRIVATE")[0]
    amphora.put("a.pem", until(300) + short)
    assert "a.pem expires within 7 days, at 2030-05-04T12:00:00Z" in amphora.reported()
    (found,) = amphora.watch.soonest()
    assert (found.loadbalancer, found.file, found.what) == ("lb", "a.pem", "certificate")
    assert found.expires == (NOW + 3 * DAY).timestamp()


def test_an_alarm_ends_with_its_load_balancer_and_others_stay(amphora: Amphora) -> None:
    amphora.put("a.pem", until(3))
    amphora.alarms.set_alarm(AlarmKind.EXPIRY, "agent", "the agent's own")
    assert amphora.reported()
    (amphora.directory / "lb" / "haproxy.cfg").unlink()
    assert amphora.reported() == ""
    assert len(amphora.alarms.current("agent")) == 1
