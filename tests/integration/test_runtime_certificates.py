"""Certificates change while haproxy runs, with every version of it."""

import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.backend import Backend
from lab.http import Client, Tls
from lab.listeners import Listener, crt_list, http_listener
from lab.pki import Authority, Credentials
from lab.waiting import until
from tests.integration.amphora import Amphora, differences, taken
from tests.integration.runtime import Changing, amphora

__all__ = ["amphora"]  # of each version of haproxy


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("sites", key="ec")


@dataclass
class Site(Changing):
    """One listener with TLS. `clients` is the file of the authority of its clients, `crl` that of
    what it has revoked."""

    clients: str = ""
    crl: str = ""

    @property
    def listener(self) -> Listener:
        return replace(super().listener, client_ca=self.clients, client_crl=self.crl)

    def path(self, name: str) -> str:
        return str(self.amphora.agent.cert_path / self.id / name)

    def put(self, name: str, data: bytes) -> None:
        self.amphora.api.upload_certificate(self.id, name, data)

    def list(self, *names: str) -> None:
        """What the crt-list has, the default one first."""
        self.put("listener.pem", crt_list([self.path(name) for name in names]).encode())

    def tls(self, name: str, credentials: Credentials | None = None) -> Client:
        """A client that asks for the site of this name."""
        tls = Tls(server_name=name, credentials=credentials)
        return self.client(keep_alive=True, tls=tls)

    def serial(self, name: str) -> int:
        """That of the certificate shown for a name."""
        with self.tls(name) as client:
            peer = client.get("/").peer
        assert peer is not None
        return peer.serial

    def changed_at_runtime(self, worker: int) -> None:
        assert self.done() == "runtime"
        assert self.current() == worker
        assert self.workers().leaving == ()


def issue(authority: Authority, name: str) -> Credentials:
    return authority.issue(name, dns=[name], key="ec")


@pytest.fixture
def site(
    amphora: Amphora, webs: dict[str, Backend], authority: Authority
) -> Iterator[tuple[Site, Credentials]]:
    """One that serves with the certificate `first.pem`, and that."""
    made = Site(amphora, 10950, kind="TERMINATED_HTTPS")
    made.crt_list = made.path("listener.pem")
    first = issue(authority, "first.test")
    made.put("first.pem", first.pem)
    made.list("first.pem")
    made.push()
    yield made, first
    made.delete()


def test_a_certificate_is_replaced_and_connections_live_on(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, first = site
    worker = made.current()
    with made.tls("first.test") as kept:
        assert kept.get("/").status == 200
        renewed = issue(authority, "first.test")
        made.put("first.pem", renewed.pem)
        made.reload()
        made.changed_at_runtime(worker)
        assert made.serial("first.test") == renewed.serial != first.serial
        assert kept.get("/").status == 200
        assert kept.reconnects == 0


def test_a_file_that_is_sent_again_as_it_was_changes_nothing(
    site: tuple[Site, Credentials],
) -> None:
    made, first = site
    processes = made.processes()
    made.put("first.pem", first.pem)
    before = made.amphora.files()
    made.reload()
    assert made.done() == "nothing"
    assert made.processes() == processes
    assert differences(before, made.amphora.files()) == set()


def test_another_site_comes_and_goes(site: tuple[Site, Credentials], authority: Authority) -> None:
    made, first = site
    worker = made.current()
    second = issue(authority, "second.test")
    made.put("second.pem", second.pem)
    made.list("first.pem", "second.pem")
    made.push()
    made.changed_at_runtime(worker)
    assert made.serial("second.test") == second.serial
    assert made.serial("first.test") == first.serial

    made.list("first.pem")
    made.amphora.api.delete_certificate(made.id, "second.pem")
    made.push()
    made.changed_at_runtime(worker)
    assert made.serial("second.test") == first.serial


def test_a_file_that_haproxy_had_no_use_for_yet_is_found_when_it_has(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    """It comes with one change, and is needed with another."""
    made, _ = site
    second = issue(authority, "second.test")
    made.put("second.pem", second.pem)
    made.limit -= 1
    made.push()
    assert made.done() == "runtime"
    made.list("first.pem", "second.pem")
    made.push()
    assert made.serial("second.test") == second.serial


def test_c2_a_certificate_with_a_foreign_key_or_none_is_refused_at_once(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, first = site
    worker = made.current()
    broken = replace(issue(authority, "first.test"), key=issue(authority, "other.test").key)
    for wrong in (broken.pem, broken.certificate, broken.key, authority.certificate):
        with pytest.raises(AmphoraError, match=r"first\.pem") as refusal:
            made.put("first.pem", wrong)
        assert refusal.value.status == 400
    made.reload()
    assert made.done() == "nothing"
    assert made.current() == worker
    assert made.serial("first.test") == first.serial
    renewed = issue(authority, "first.test")
    made.put("first.pem", renewed.pem)
    made.reload()
    assert made.serial("first.test") == renewed.serial


def test_a_file_that_was_deleted_does_not_come_back_when_a_change_is_undone(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    """No text named it: haproxy had nothing to do for it, and what is gone back to has it not."""
    made, _ = site
    made.put("second.pem", issue(authority, "second.test").pem)
    made.limit -= 1
    made.push()
    made.amphora.api.delete_certificate(made.id, "second.pem")
    made.push()
    assert made.done() == "nothing"
    busy = made.amphora.new_balancer()
    made.upload(http_listener("second", port=busy.port, members=[]))
    with taken(busy), pytest.raises(AmphoraError):
        made.reload()
    assert not Path(made.path("second.pem")).exists()


def test_a_chain_that_is_too_large_for_a_command_comes_by_a_reload(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, _ = site
    worker = made.current()
    large = issue(authority, "first.test")
    chain = b"".join(issue(authority, f"padding{n}").certificate for n in range(30))
    made.put("first.pem", replace(large, chain=chain).pem)
    made.reload()
    assert made.done() == "reload"
    assert made.current() != worker
    assert made.serial("first.test") == large.serial


def test_the_authority_of_clients_is_replaced(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, _ = site
    other = Authority.create("other clients", key="ec")
    made.put("clients.pem", authority.certificate)
    made.clients = made.path("clients.pem")
    made.push()
    worker = made.current()
    with made.tls("first.test", issue(authority, "client")) as client:
        assert client.get("/").status == 200
    made.put("clients.pem", other.certificate)
    made.reload()
    made.changed_at_runtime(worker)
    with made.tls("first.test", issue(other, "client")) as client:
        assert client.get("/").status == 200
    with made.tls("first.test", issue(authority, "client")) as client, pytest.raises(ssl.SSLError):
        client.get("/")


def test_an_authority_that_changes_after_a_certificate_takes_a_reload_and_haproxy_lives(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, _ = site
    made.put("clients.pem", authority.certificate)
    made.clients = made.path("clients.pem")
    made.push()
    master = made.master
    for number in range(6):
        made.put("first.pem", issue(authority, "first.test").pem)
        made.reload()
        assert made.done() == "runtime"
        near = Authority.create(f"clients {number}", key="ec")
        made.put("clients.pem", authority.certificate + near.certificate)
        made.reload()
        assert made.done() == "reload"
        # A new worker has no past.
        made.put("clients.pem", authority.certificate)
        made.reload()
        assert made.done() == "runtime"
        made.put("first.pem", issue(authority, "first.test").pem)
        made.put("clients.pem", authority.certificate + near.certificate)
        made.reload()
        assert made.done() == "reload"
    assert made.master == master
    with made.tls("first.test", issue(authority, "client")) as client:
        assert client.get("/").status == 200


def test_a_certificate_that_changes_after_its_authority_does_so_at_run_time_and_haproxy_lives(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, _ = site
    made.put("clients.pem", authority.certificate)
    made.put("revoked.pem", authority.revocation_list())
    made.clients = made.path("clients.pem")
    made.crl = made.path("revoked.pem")
    made.push()
    master = made.master
    for number in range(6):
        made.timeout += 1  # a worker with no past
        made.push()
        near = Authority.create(f"clients {number}", key="ec")
        made.put("clients.pem", authority.certificate + near.certificate)
        made.put("revoked.pem", authority.revocation_list(days=60 + number))
        made.reload()
        assert made.done() == "runtime"
        for _ in range(3):
            renewed = issue(authority, "first.test")
            made.put("first.pem", renewed.pem)
            made.reload()
            assert made.done() == "runtime"
    assert made.master == master
    with made.tls("first.test", issue(authority, "client")) as client:
        assert client.get("/").status == 200


def test_a_haproxy_that_dies_after_a_certificate_has_changed_comes_back_with_it(
    site: tuple[Site, Credentials], authority: Authority
) -> None:
    made, _ = site
    renewed = issue(authority, "first.test")
    made.put("first.pem", renewed.pem)
    made.reload()
    assert made.done() == "runtime"
    old = {process.pid for process in made.processes()}
    made.master.send(signal.SIGKILL)
    until(lambda: _serves_anew(made, old), "it has come back")
    assert made.serial("first.test") == renewed.serial


def _serves_anew(site: Site, old: set[int]) -> bool:
    new = {process.pid for process in site.processes()}
    return len(new) == 2 and not old & new and site.accepts()
