"""Which of the controllers' certificates are served: their use, and what has been revoked."""

import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab.http import Tls
from lab.pki import Authority, Credentials
from lab.waiting import until
from tests.integration.amphora import Amphora, read_answer, request_bytes

GONE = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected, EOFError)


def identity(amphora: Amphora, credentials: Credentials) -> Tls:
    return Tls(
        server_name=amphora.agent.amphora_id,
        ca=amphora.agent.pki.server_authority.certificate,
        credentials=credentials,
    )


def ask(connection: ssl.SSLSocket) -> int:
    connection.sendall(request_bytes("GET", "/1.0/info"))
    return read_answer(connection).status


def is_served(amphora: Amphora, credentials: Credentials) -> bool:
    """Whether a client gets an answer on a new connection."""
    try:
        with amphora.connect(identity(amphora, credentials)) as connection:
            return ask(connection) == 200
    except GONE:
        return False


def alarm_lines(amphora: Amphora, kind: str) -> list[str]:
    text = amphora.request("GET", "/metrics").body.decode()
    return re.findall(rf'amphora_agent_alarm\{{[^}}]*kind="{kind}"[^\n]*', text)


# Revocation


@pytest.fixture(scope="module")
def client_authority(authorities: tuple[Authority, Authority]) -> Authority:
    return authorities[1]


@pytest.fixture
def crl(tmp_path: Path, client_authority: Authority) -> Path:
    """A good list, which revokes nobody."""
    path = tmp_path / "crl.pem"
    path.write_bytes(client_authority.revocation_list())
    return path


@pytest.fixture
def amphora(boot: Callable[..., Amphora], crl: Path) -> Iterator[Amphora]:
    """One with a file of revocation lists."""
    with ExitStack() as ending:
        yield boot(ending, options=("--memory-limit", "1024", "--client-crl", str(crl)))


def issue(authority: Authority, **options: Any) -> Credentials:
    return authority.issue("another-controller", key="ec", **options)


def test_b8_a_revoked_client_is_refused_once_the_file_is_replaced(
    amphora: Amphora, crl: Path, client_authority: Authority
) -> None:
    revoked, other = issue(client_authority), issue(client_authority)
    assert is_served(amphora, revoked)
    crl.write_bytes(client_authority.revocation_list([revoked]))
    assert not is_served(amphora, revoked)
    assert is_served(amphora, other)
    crl.write_bytes(client_authority.revocation_list([other]))
    assert is_served(amphora, revoked)
    assert not is_served(amphora, other)


def test_b8_a_kept_connection_ends_when_its_certificate_is_revoked(
    amphora: Amphora, crl: Path, client_authority: Authority
) -> None:
    revoked = issue(client_authority)
    with amphora.connect(identity(amphora, revoked)) as connection:
        assert ask(connection) == 200
        crl.write_bytes(client_authority.revocation_list([revoked]))
        with pytest.raises(GONE):
            ask(connection)


def unusable(kind: str, authority: Authority, nobody: Credentials) -> bytes | None:
    """A file that must not take the place of the good one; it would revoke `nobody`."""
    stranger = Authority.create("stranger", key="ec")
    same_name = Authority.create("controller client CA", key="ec")
    good = authority.revocation_list([nobody])
    return {
        "missing": None,
        "empty": b"",
        "nonsense": b"\0\xff" * 99,
        "a certificate": authority.certificate,
        "cut off": good[:-40],
        "cut off after a good one": good + good[:-40],
        "expired": authority.revocation_list([nobody], days=-0.001),
        "by another authority": stranger.revocation_list([nobody]),
        "by another one of the same name": same_name.revocation_list([nobody]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "empty", "nonsense", "a certificate", "cut off", "cut off after a good one"),
        *("expired", "by another authority", "by another one of the same name"),
    ],
)
def test_b8_a_list_that_cannot_be_used_leaves_the_last_good_one_in_force(
    amphora: Amphora, crl: Path, client_authority: Authority, kind: str
) -> None:
    revoked, other = issue(client_authority), issue(client_authority)
    crl.write_bytes(client_authority.revocation_list([revoked]))
    assert not is_served(amphora, revoked)
    bad = unusable(kind, client_authority, other)
    crl.unlink()
    if bad is not None:
        crl.write_bytes(bad)
    for _ in range(2):  # as it is, and after a restart
        assert not is_served(amphora, revoked)
        assert is_served(amphora, other)
        assert len(alarm_lines(amphora, "revocation-list")) == 1
        assert re.search(rf"ERROR .*{crl}: the revocation list cannot be used", amphora.agent.log)
        amphora.agent.restart()
    crl.write_bytes(client_authority.revocation_list([other]))
    assert is_served(amphora, revoked)
    assert not is_served(amphora, other)
    assert alarm_lines(amphora, "revocation-list") == []


@pytest.mark.parametrize("kind", ["missing", "nonsense", "by another authority"])
def test_b8_a_start_that_never_had_a_good_list_serves_and_reports_it(
    boot: Callable[..., Amphora], crl: Path, client_authority: Authority, kind: str
) -> None:
    bad = unusable(kind, client_authority, issue(client_authority))
    crl.unlink()
    if bad is not None:
        crl.write_bytes(bad)
    with ExitStack() as ending:
        started = boot(ending, options=("--memory-limit", "1024", "--client-crl", str(crl)))
        assert is_served(started, started.agent.pki.controller)
        assert "clients are served without one" in started.agent.log
        assert len(alarm_lines(started, "revocation-list")) == 1


def test_b8_an_expired_list_counts_where_there_was_no_other(
    boot: Callable[..., Amphora], crl: Path, client_authority: Authority
) -> None:
    revoked = issue(client_authority)
    crl.write_bytes(client_authority.revocation_list([revoked], days=-0.001))
    with ExitStack() as ending:
        started = boot(ending, options=("--memory-limit", "1024", "--client-crl", str(crl)))
        assert not is_served(started, revoked)
        assert len(alarm_lines(started, "revocation-list")) == 1
        until(lambda: alarm_lines(started, "expiry") != [], "a report", timeout=30)


def test_b8_a_list_of_an_authority_between_counts_for_what_that_has_issued(
    amphora: Amphora, crl: Path, client_authority: Authority
) -> None:
    middle = client_authority.intermediate("between", key="ec")
    revoked, other = issue(middle), issue(middle)
    root_list = client_authority.revocation_list()
    # The agent's file has the root alone: who is between shows itself with the first client.
    crl.write_bytes(root_list + middle.revocation_list([revoked]))
    assert not is_served(amphora, revoked)
    assert is_served(amphora, other)
    crl.write_bytes(middle.revocation_list([other]))
    assert is_served(amphora, revoked)
    assert not is_served(amphora, other)
    assert alarm_lines(amphora, "revocation-list") == []


def test_b8_an_authority_between_can_be_revoked(
    amphora: Amphora, crl: Path, client_authority: Authority
) -> None:
    middle = client_authority.intermediate("between", key="ec")
    client, other = issue(middle), issue(client_authority)
    assert is_served(amphora, client)
    serial = Credentials(middle.certificate, b"").serial
    crl.write_bytes(client_authority.revocation_list([serial]))
    assert not is_served(amphora, client)
    assert is_served(amphora, other)


def test_b8_a_session_is_not_taken_up_again_by_a_revoked_client(
    amphora: Amphora, crl: Path, client_authority: Authority
) -> None:
    revoked = issue(client_authority)
    tls = identity(amphora, revoked)
    context = tls.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", amphora.agent.port), 30)
        return context.wrap_socket(raw, server_hostname=tls.server_name, session=session)

    with connect(None) as first:
        assert ask(first) == 200
        session = first.session
    crl.write_bytes(client_authority.revocation_list([revoked]))
    with connect(session) as second, pytest.raises(GONE):
        ask(second)


# Use


def test_b8_a_certificate_without_a_use_is_served_and_reported_once(
    amphora: Amphora, client_authority: Authority
) -> None:
    client = issue(client_authority, server=False, client=False)
    for _ in range(3):
        assert is_served(amphora, client)
    assert amphora.agent.log.count("has no extended key usage") == 1
    (line,) = alarm_lines(amphora, "client-certificate")
    assert "another-controller" in line
    assert 'level="WARNING"' in line


def test_b8_an_option_requires_a_use(
    boot: Callable[..., Amphora], client_authority: Authority
) -> None:
    with ExitStack() as ending:
        strict = boot(ending, options=("--memory-limit", "1024", "--require-client-eku"))
        assert is_served(strict, issue(client_authority))
        assert not is_served(strict, issue(client_authority, server=False, client=False))
        assert not is_served(strict, issue(client_authority, client=False))
        assert strict.api.info()


# The agent's own


def replace_certificate(amphora: Amphora, pem: bytes) -> None:
    """By hand: the API refuses what the controller would not accept."""
    amphora.agent.pki.server_pem.write_bytes(pem)


STAGES = [
    (29, "expires within 30 days"),
    (6, "expires within 7 days"),
    (0.9, "expires within a day"),
    (-0.001, "has expired"),
]


def other_alarms(amphora: Amphora) -> dict[str, tuple[str, str]]:
    """What `/2.0/instances` tells of files that expire, and how loudly."""
    told = amphora.request("GET", "/2.0/instances").json()["alarms"]
    return {
        alarm["subject"]: (alarm["text"], alarm["level"])
        for alarm in told
        if alarm["kind"] == "expiry"
    }


@pytest.mark.parametrize(("days", "words"), STAGES)
def test_op8_whom_the_agent_trusts_is_reported_when_that_expires(
    amphora: Amphora, days: float, words: str
) -> None:
    agent = amphora.agent
    path, level = str(agent.pki.client_ca), "ERROR" if days < 1 else "WARNING"
    near = Authority.create("another authority of controllers", key="ec", days=days).certificate
    # The new authority lets this client in no more, but on the connection that it has.
    with amphora.connect() as connection:
        assert ask(connection) == 200
        agent.pki.client_ca.write_bytes(near)
        words = f"the controllers' authority {words}"
        until(lambda: f"{path}: {words}" in agent.log, "a report", timeout=30)
        assert re.search(rf"{level} .*{path}: {words}", agent.log)
        connection.sendall(request_bytes("GET", "/metrics"))
        told = read_answer(connection).body.decode()
        assert re.search(rf'kind="expiry",subject="{path}",level="{level}"', told)
        assert "amphora_agent_authority_expiry_timestamp_seconds " in told


def test_op8_an_authority_that_another_one_follows_is_a_warning(amphora: Amphora) -> None:
    agent = amphora.agent
    path, good = agent.pki.client_ca, agent.pki.client_ca.read_bytes()
    near = Authority.create("the one before", key="ec", days=-0.001).certificate
    path.write_bytes(near + good)
    until(lambda: str(path) in other_alarms(amphora), "a report", timeout=30)
    text, level = other_alarms(amphora)[str(path)]
    assert text.startswith("one of the 2 authorities of the controllers has expired, at ")
    assert level == "WARNING"
    path.write_bytes(good)
    until(lambda: other_alarms(amphora) == {}, "its end", timeout=30)


@pytest.mark.parametrize(("days", "words"), STAGES[:-1])
def test_op8_a_revocation_list_is_reported_before_it_expires(
    amphora: Amphora, crl: Path, client_authority: Authority, days: float, words: str
) -> None:
    crl.write_bytes(client_authority.revocation_list(days=days))
    level = "ERROR" if days < 1 else "WARNING"
    until(lambda: str(crl) in other_alarms(amphora), "a report", timeout=30)
    text, its_level = other_alarms(amphora)[str(crl)]
    assert (text.partition(",")[0], its_level) == (f"the revocation list {words}", level)


def test_op8_what_is_above_the_agents_certificate_is_reported(amphora: Amphora) -> None:
    agent = amphora.agent
    middle = agent.pki.server_authority.intermediate("below", key="ec", days=6)
    below = middle.issue(agent.amphora_id, dns=[agent.amphora_id], key="ec")
    replace_certificate(amphora, below.pem)
    path = str(agent.pki.server_pem)
    until(lambda: path in other_alarms(amphora), "a report", timeout=30)
    assert "has one above it that expires within 7 days" in other_alarms(amphora)[path][0]


@pytest.mark.parametrize(("days", "words"), STAGES)
def test_op8_an_agents_certificate_that_expires_is_reported(
    amphora: Amphora, days: float, words: str
) -> None:
    agent, path = amphora.agent, str(amphora.agent.pki.server_pem)
    issued = agent.pki.server_authority.issue(
        agent.amphora_id, dns=[agent.amphora_id], key="ec", days=days
    )
    replace_certificate(amphora, issued.pem)
    until(lambda: f"{path}: the agent's certificate {words}" in agent.log, "a report", timeout=30)
    level = "ERROR" if days < 1 else "WARNING"
    assert re.search(rf"{level} .*{path}: the agent's certificate {words}", agent.log)


def test_op8_a_certificate_of_another_amphora_is_an_error_that_names_the_file(
    amphora: Amphora,
) -> None:
    agent, path = amphora.agent, str(amphora.agent.pki.server_pem)
    replace_certificate(amphora, agent.pki.server_authority.issue("x", dns=["x"], key="ec").pem)
    until(lambda: "does not accept the agent's certificate" in agent.log, "a report", timeout=30)
    assert re.search(rf"ERROR .*{path}: the controller does not accept", agent.log)


def test_op8_all_is_well_again_with_a_good_one(amphora: Amphora) -> None:
    agent = amphora.agent
    name = agent.amphora_id
    soon = agent.pki.server_authority.issue(name, dns=[name], key="ec", days=6)
    replace_certificate(amphora, soon.pem)
    # A test's own certificate is not near its end.
    until(lambda: alarm_lines(amphora, "expiry") != [], "a report", timeout=30)
    good = agent.pki.server_authority.issue(name, dns=[name], key="ec", days=60)
    amphora.api.upload_agent_certificate(good.pem)
    until(lambda: alarm_lines(amphora, "expiry") == [], "a report", timeout=30)
