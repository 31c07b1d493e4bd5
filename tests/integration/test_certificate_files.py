"""What is stored for a load balancer is what haproxy loads, whichever came first: the file or the
configuration that names it."""

import hashlib
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.http import Tls
from lab.pki import Authority, Credentials
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer
from tests.integration.history import rollback
from tests.integration.site import Site

AUTHORITY = Authority.create("tenant", key="ec")
SITE = AUTHORITY.intermediate("middle", key="ec").issue("site", dns=["site"], key="ec")
OTHER = AUTHORITY.issue("other", dns=["other"], key="ec")


@pytest.fixture
def tls(amphora: Amphora) -> Iterator[LoadBalancer]:
    """One that terminates TLS, and is not there yet."""
    made = amphora.new_balancer(kind="TERMINATED_HTTPS")
    made.crt_list = str(amphora.agent.cert_path / made.id / "list.pem")
    yield made
    made.delete()


def path(balancer: LoadBalancer, name: str) -> str:
    return str(balancer.amphora.agent.cert_path / balancer.id / name)


def put(balancer: LoadBalancer, name: str, data: bytes) -> None:
    balancer.amphora.api.upload_certificate(balancer.id, name, data)


def put_list(balancer: LoadBalancer, *lines: str) -> None:
    put(balancer, "list.pem", "".join(f"{line}\n" for line in lines).encode())


def refusal(balancer: LoadBalancer, name: str, data: bytes) -> str:
    """Why a file is refused; it stays as it was."""
    file = balancer.amphora.agent.cert_path / balancer.id / name
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(AmphoraError) as raised:
        put(balancer, name, data)
    assert raised.value.status == 400
    assert (file.read_bytes() if file.exists() else None) == before
    return str(raised.value)


def shown(balancer: LoadBalancer, name: str) -> int:
    with balancer.client(tls=Tls(server_name=name)) as client:
        peer = client.get("/").peer
    assert peer is not None
    return peer.serial


def glued(credentials: Credentials) -> bytes:
    return credentials.pem.replace(b"-----\n-----", b"----------")


def test_c1_a_file_without_a_line_break_survives_the_next_start(tls: LoadBalancer) -> None:
    put(tls, "site.pem", SITE.pem)
    put_list(tls, path(tls, "site.pem"))
    tls.push()
    put(tls, "sni.pem", glued(OTHER))
    put_list(tls, path(tls, "site.pem"), path(tls, "sni.pem"))
    tls.push()
    assert shown(tls, "other") == OTHER.serial
    tls.amphora.api.stop(tls.id)
    tls.amphora.api.start(tls.id)
    assert shown(tls, "other") == OTHER.serial
    assert shown(tls, "site") == SITE.serial


def test_c1_the_controller_knows_a_file_by_what_it_sent(tls: LoadBalancer) -> None:
    """Also one that a rollback has brought back."""
    sent = SITE.key + b"\n" + SITE.certificate + b"\n" + SITE.chain
    target = f"/1.0/loadbalancer/{tls.id}/certificates/site.pem"
    put(tls, "site.pem", sent)
    put_list(tls, path(tls, "site.pem"))
    tls.push()
    put(tls, "site.pem", OTHER.pem)
    tls.push()
    assert tls.amphora.request("GET", target).json()["md5sum"] == hashlib.md5(OTHER.pem).hexdigest()
    rollback(tls)
    assert tls.amphora.request("GET", target).json()["md5sum"] == hashlib.md5(sent).hexdigest()
    assert shown(tls, "site") == SITE.serial


ROLES = {
    "a certificate is no authority": ("site.pem", AUTHORITY.certificate, "is named as"),
    "nor revocations": ("site.pem", AUTHORITY.revocation_list(), "is named as"),
    "no key": ("site.pem", SITE.certificate, "is named as"),
    "a foreign key": ("site.pem", SITE.certificate + OTHER.key, "not that of"),
    "a list is no certificate": ("list.pem", SITE.pem, "is named as a crt-list"),
}


@pytest.mark.parametrize("what", ROLES)
def test_c2_a_file_in_use_stays_what_it_is_named_for(tls: LoadBalancer, what: str) -> None:
    put(tls, "site.pem", SITE.pem)
    put_list(tls, path(tls, "site.pem"))
    tls.push()
    name, data, why = ROLES[what]
    assert why in refusal(tls, name, data)
    assert "list" in refusal(tls, "site.pem", f"{path(tls, 'site.pem')}\n".encode())
    tls.amphora.api.stop(tls.id)
    tls.amphora.api.start(tls.id)
    assert shown(tls, "site") == SITE.serial


def test_b4_a_list_that_looks_like_pem_is_judged(amphora: Amphora, tls: LoadBalancer) -> None:
    put(tls, "site.pem", SITE.pem)
    own, agents = path(tls, "site.pem"), amphora.agent.pki.server_pem
    for listed in (
        f"# -----BEGIN CERTIFICATE-----\n{own}\n{agents}\n",
        f"{own}\n# -----BEGIN \n{agents}\n",
        f"{AUTHORITY.certificate.decode()}{agents}\n",
        f"{own}\r{agents}\n",
        f"{own} [ca-file {agents}]\n",
        f"{own} [key {agents}]\n",
    ):
        assert "list.pem: line" in refusal(tls, "list.pem", listed.encode())


def test_b4_a_list_from_before_is_judged_when_a_configuration_names_it(
    amphora: Amphora, tls: LoadBalancer
) -> None:
    """As an older agent may have stored it."""
    put(tls, "site.pem", SITE.pem)
    put_list(tls, path(tls, "site.pem"))
    stored = amphora.agent.cert_path / tls.id / "list.pem"
    agents = amphora.agent.pki.server_pem
    stored.write_text(f"# -----BEGIN \n{path(tls, 'site.pem')}\n{agents}\n")
    with pytest.raises(AmphoraError, match=r"list\.pem:3\] : crt-list: the path is not below"):
        tls.upload()
    stored.write_bytes(SITE.pem)
    with pytest.raises(AmphoraError, match=r"list\.pem:1\] : it is PEM") as raised:
        tls.upload()
    assert "MI" not in str(raised.value)
    stored.unlink()


def test_b4_a_list_in_use_names_what_is_there(tls: LoadBalancer) -> None:
    put(tls, "site.pem", SITE.pem)
    put(tls, "ca.pem", AUTHORITY.certificate)
    put_list(tls, path(tls, "site.pem"))
    tls.push()
    for name, why in (("none.pem", "not there"), ("ca.pem", "no certificate with its key")):
        listed = f"{path(tls, 'site.pem')}\n{path(tls, name)}\n"
        assert why in refusal(tls, "list.pem", listed.encode())


def test_b4_a_list_with_options_is_tried_where_it_is_in_use(tls: LoadBalancer) -> None:
    """What the `bind` line says decides with them."""
    put(tls, "site.pem", SITE.pem)
    put_list(tls, path(tls, "site.pem"))
    text = tls.text().replace(" crt-list ", " ssl-min-ver TLSv1.3 crt-list ")
    tls.amphora.api.upload_haproxy(tls.id, text)
    tls.reload()
    own = path(tls, "site.pem")
    assert "versions" in refusal(tls, "list.pem", f"{own} [ssl-max-ver TLSv1.2]\n".encode())
    put_list(tls, f"{own} [alpn h2] site")
    tls.reload()
    assert shown(tls, "site") == SITE.serial


def await_next_haproxy(balancer: LoadBalancer) -> None:
    """Have haproxy die, and wait until its successor serves."""
    before = balancer.processes()
    before[0].send(signal.SIGKILL)
    until(lambda: not any(process.alive for process in before), "it has died")
    until(balancer.accepts, "the next one serves")


@pytest.mark.parametrize("name", ["site.pem", "list.pem", "ca.pem"])
def test_c2_a_file_in_use_that_is_deleted_is_there_for_the_next_start(
    tls: LoadBalancer, name: str
) -> None:
    """A controller deletes the files of a listener before it sends what names them no more."""
    put(tls, "site.pem", SITE.pem)
    put(tls, "ca.pem", AUTHORITY.certificate)
    put_list(tls, path(tls, "site.pem"))
    text = tls.text().replace(
        " crt-list ", f" ca-file {path(tls, 'ca.pem')} verify optional crt-list "
    )
    tls.amphora.api.upload_haproxy(tls.id, text)
    tls.reload()
    target = f"/1.0/loadbalancer/{tls.id}/certificates/{name}"
    assert tls.amphora.request("DELETE", target).status == 200
    assert tls.amphora.request("GET", target).status == 404
    await_next_haproxy(tls)
    assert shown(tls, "site") == SITE.serial
    until(lambda: "went-back" in kinds(tls), "it is told")
    # And then comes what names it no more.
    assert tls.amphora.request("DELETE", target).status == 200
    plain = replace(tls, kind="HTTP", crt_list="")
    plain.push()
    assert plain.get() in ("web1", "web2")
    assert not Path(path(tls, name)).exists()
    assert "went-back" not in kinds(tls)


def kinds(balancer: LoadBalancer) -> set[str]:
    """Of its alarms."""
    told = balancer.amphora.request("GET", f"/2.0/instances/{balancer.id}").json()["alarms"]
    return {alarm["kind"] for alarm in told}


def test_c1_what_an_older_agent_has_kept_otherwise_is_written_anew(
    own_amphora: Amphora,
) -> None:
    """It stored what was sent, and kept its last good files as links."""
    made = own_amphora.new_balancer(kind="TERMINATED_HTTPS")
    made.crt_list = path(made, "list.pem")
    put(made, "site.pem", SITE.pem)
    put(made, "sni.pem", OTHER.pem)
    put_list(made, path(made, "site.pem"), path(made, "sni.pem"))
    made.push()
    directory = own_amphora.agent.base_path / made.id
    certificates = own_amphora.agent.cert_path / made.id
    own_amphora.agent.stop()
    shutil.rmtree(directory / "revisions")
    for kept in (directory / "last-good", directory / "generations" / "1"):
        (kept / "certificates").mkdir(parents=True, exist_ok=True)
        for name in ("haproxy.cfg", "agent.cfg"):
            (kept / name).hardlink_to(directory / name)
        for file in certificates.iterdir():
            (kept / "certificates" / file.name).hardlink_to(file)
    (certificates / "sni.pem").unlink()
    (certificates / "sni.pem").write_bytes(glued(OTHER))
    own_amphora.agent.start()
    target = f"/1.0/loadbalancer/{made.id}/certificates/sni.pem"

    def is_written_anew() -> bool:
        return b"----------" not in (certificates / "sni.pem").read_bytes()

    until(is_written_anew, "haproxy can load it")
    md5 = hashlib.md5(glued(OTHER)).hexdigest()
    assert own_amphora.request("GET", target).json()["md5sum"] == md5
    await_next_haproxy(made)
    assert shown(made, "other") == OTHER.serial
    assert "went-back" not in kinds(made)
    made.delete()


def test_a_refused_file_of_nobody_leaves_nothing(amphora: Amphora, tls: LoadBalancer) -> None:
    before = amphora.files()
    refusal(tls, "site.pem", b"nonsense")
    assert amphora.files() == before


def test_c1_a_controller_with_blank_lines_in_its_files_changes_at_run_time(site: Site) -> None:
    site.put()
    site.balancer.push()
    worker = site.balancer.workers().current
    new = site.authority.issue("site", dns=["site"], key="ec")
    sent = b"text\r\n" + (new.key + b"\n" + new.certificate).replace(b"\n", b"\r\n")
    site.amphora.api.upload_certificate(site.balancer.id, "site.pem", sent)
    site.balancer.reload()
    assert site.presented() == new.serial
    assert site.balancer.workers().current == worker


def put_days(balancer: LoadBalancer, name: str, days: float) -> Credentials:
    """A certificate that was issued yesterday and expires after so many days."""
    now, day = datetime.now(UTC), timedelta(days=1)
    made = AUTHORITY.issue(
        "site", dns=["site"], key="ec", not_before=now - 90 * day, not_after=now + days * day
    )
    put(balancer, name, made.pem)
    return made


def alarms(balancer: LoadBalancer) -> str:
    target = f"/2.0/instances/{balancer.id}"
    told = balancer.amphora.request("GET", target).json()["alarms"]
    return "; ".join(alarm["text"] for alarm in told if alarm["kind"] == "expiry")


def test_operator_8_certificates_that_expire_are_reported(tls: LoadBalancer) -> None:
    amphora = tls.amphora
    put_days(tls, "site.pem", 5)
    put_days(tls, "unused.pem", 2)
    put_list(tls, path(tls, "site.pem"))
    tls.push()
    until(lambda: alarms(tls).startswith("certificate site.pem expires within 7 days"), "told")
    until(lambda: f"alarms: {tls.id}: certificate site.pem expires" in amphora.agent.log, "logged")
    metrics = amphora.request("GET", "/metrics").body.decode()
    label = f'loadbalancer="{tls.id}"'
    told = [line for line in metrics.splitlines() if label in line and "expiry_timestamp" in line]
    assert len(told) == 1
    assert 'file="site.pem"' in told[0]
    put_days(tls, "site.pem", -1)
    tls.reload()
    until(lambda: "site.pem has expired" in alarms(tls), "told")
    until(lambda: f"alarms: {tls.id}: certificate site.pem has" in amphora.agent.log, "logged")
    put_days(tls, "site.pem", 90)
    tls.reload()
    until(lambda: alarms(tls) == "", "no alarm is left")


def test_operator_8_every_kind_of_file_is_reported_in_each_step(tls: LoadBalancer) -> None:
    put_days(tls, "site.pem", 90)
    put_list(tls, path(tls, "site.pem"))
    put(tls, "crl.pem", AUTHORITY.revocation_list())
    put(tls, "ca.pem", AUTHORITY.certificate)
    text = tls.text().replace(
        " crt-list ",
        f" ca-file {path(tls, 'ca.pem')} verify required crl-file {path(tls, 'crl.pem')} crt-list ",
    )
    tls.amphora.api.upload_haproxy(tls.id, text)
    tls.reload()
    for days, words in (
        (29, "expires within 30 days"),
        (6, "expires within 7 days"),
        (0.9, "expires within a day"),
        (-0.001, "has expired"),
    ):
        put_days(tls, "site.pem", days)
        put(tls, "crl.pem", AUTHORITY.revocation_list(days=days))
        near = Authority.create("near its end", key="ec", days=days).certificate
        put(tls, "ca.pem", AUTHORITY.certificate + near)
        tls.reload()
        files = ("certificate site.pem", "CA file ca.pem", "CRL file crl.pem")
        expected = {f"{file} {words}" for file in files}
        until(partial(are_told, tls, expected), f"{expected} are told")


def are_told(balancer: LoadBalancer, expected: set[str]) -> bool:
    return expected == {text.partition(",")[0] for text in alarms(balancer).split("; ")}


def test_c3_a_revocation_list_that_has_expired_is_reported(tls: LoadBalancer) -> None:
    put(tls, "site.pem", SITE.pem)
    put_list(tls, path(tls, "site.pem"))
    put(tls, "ca.pem", AUTHORITY.certificate)
    put(tls, "crl.pem", AUTHORITY.revocation_list(days=-0.001))
    text = tls.text().replace(
        " crt-list ",
        f" ca-file {path(tls, 'ca.pem')} verify required crl-file {path(tls, 'crl.pem')} crt-list ",
    )
    tls.amphora.api.upload_haproxy(tls.id, text)
    tls.reload()
    until(lambda: "CRL file crl.pem has expired" in alarms(tls), "it is told")
