"""Files of a load balancer that a person edits: saved, told, and never what runs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from amphora_agent.client.v2 import AmphoraError
from amphora_agent.events.alarms import Alarms
from amphora_agent.paths import ObjectId, UploadedLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ManifestEntry, Revisions
from amphora_agent.revisions.live import LiveFiles
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer
from tests.integration.declared import DeclaredBalancer
from tests.integration.history import rollback
from tests.integration.site import Site

NONSENSE = "frontend by-hand\n    nonsense here\n"


def by_rename(path: Path) -> None:
    other = path.with_name(".4913")
    other.write_text(NONSENSE)
    other.replace(path)


def in_place(path: Path) -> None:
    path.write_text(NONSENSE)


def same_size_and_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"maxconn", b"nonsens"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncated(path: Path) -> None:
    os.truncate(path, 0)


def removed(path: Path) -> None:
    path.unlink()


EDITS = [by_rename, in_place, same_size_and_time, truncated, removed]


def alarms(amphora: Amphora, instance_id: str) -> list[str]:
    (found,) = (each for each in amphora.api.instances() if each["id"] == instance_id)
    return [alarm["kind"] for alarm in found["alarms"]]


def crash(balancer: LoadBalancer | DeclaredBalancer) -> None:
    before = {process.pid for process in balancer.processes()}
    for process in balancer.processes():
        process.send(signal.SIGKILL)
    until(
        lambda: len(now := {each.pid for each in balancer.processes()}) == 2 and not before & now,
        "it has come back",
    )


def act(balancer: LoadBalancer, what: str) -> None:
    api = balancer.amphora.api
    match what:
        case "crash":
            crash(balancer)
        case "reload":
            balancer.reload()
        case "upload":
            balancer.push()
        case "start":
            api.stop(balancer.id)
            api.start(balancer.id)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("what", ["crash", "reload", "upload", "start"])
def test_op2_an_edited_text_never_runs(
    balancer: LoadBalancer, what: str, edit: Callable[[Path], None]
) -> None:
    api = balancer.amphora.api
    committed = api.haproxy(balancer.id)
    edit(balancer.configuration)
    edited = balancer.configuration.read_bytes() if balancer.configuration.exists() else None
    assert api.haproxy(balancer.id) == committed
    act(balancer, what)
    until(balancer.accepts, "it serves")
    assert balancer.get() in ("web1", "web2")
    assert api.haproxy(balancer.id) == balancer.configuration.read_bytes()
    if what != "upload":
        assert api.haproxy(balancer.id) == committed
    saved = balancer.directory / "haproxy.cfg.edited"
    assert (saved.read_bytes() if saved.exists() else None) == edited
    if saved.exists():  # else there is nothing for a person to look at, and the next check ends it
        until(lambda: "file-edited" in alarms(balancer.amphora, balancer.id), "it is told")


def test_op2_an_edit_does_not_reach_what_is_gone_back_to(balancer: LoadBalancer) -> None:
    api = balancer.amphora.api
    first = api.haproxy(balancer.id)
    balancer.push()
    in_place(balancer.configuration)
    rollback(balancer)
    assert api.haproxy(balancer.id) == balancer.configuration.read_bytes() == first
    assert (balancer.directory / "haproxy.cfg.edited").read_text() == NONSENSE
    assert balancer.get() in ("web1", "web2")


@pytest.mark.parametrize("edit", [by_rename, in_place, truncated, removed])
@pytest.mark.parametrize("what", ["crash", "reload"])
def test_op2_an_edited_certificate_is_never_presented(
    site: Site, what: str, edit: Callable[[Path], None]
) -> None:
    serial = site.push("a.pem")
    path = Path(site.directory) / "a.pem"
    md5 = site.amphora.api.certificate_md5(site.balancer.id, "a.pem")
    edit(path)
    assert site.amphora.api.certificate_md5(site.balancer.id, "a.pem") == md5
    act(site.balancer, what)
    until(site.balancer.accepts, "it serves")
    assert site.presented() == serial


@pytest.mark.parametrize("edit", [by_rename, in_place, truncated, removed])
@pytest.mark.parametrize("what", ["crash", "put"])
def test_op2_an_edited_file_of_a_declared_load_balancer_never_runs(
    own_amphora: Amphora, webs: object, what: str, edit: Callable[[Path], None]
) -> None:
    balancer = DeclaredBalancer(own_amphora)
    balancer.push()
    live = own_amphora.agent.base_path / balancer.id / "current"
    path = next(each for each in sorted(live.glob("*.cfg")) if each.name != "haproxy.cfg")
    committed = path.read_bytes()
    (live / "zzz-by-hand.cfg").write_text(NONSENSE)
    edit(path)
    if what == "crash":
        crash(balancer)
    else:
        balancer.body["listeners"][0]["timeout_client_data"] = 1234
        balancer.push()
    until(lambda: balancer.served_by() == {"web1", "web2"}, "it serves")
    assert "nonsense" not in "".join(each.read_text() for each in live.glob("*.cfg"))
    if what == "crash":
        assert path.read_bytes() == committed
    assert "file-edited" in alarms(own_amphora, balancer.id)
    balancer.delete()


# Committed content that is damaged


def damage(content: Path) -> None:
    content.chmod(0o600)
    content.write_bytes(b"damaged\n")


@pytest.mark.parametrize("restarted", [False, True], ids=["known", "forgotten"])
@pytest.mark.parametrize("what", ["haproxy.cfg", "certificates/a.pem", "manifest"])
def test_op2_what_is_sent_again_replaces_damaged_content(
    own_amphora: Amphora, webs: object, what: str, restarted: bool
) -> None:
    site = Site(own_amphora)
    site.push("a.pem")
    other = own_amphora.new_balancer()
    revisions = Path(site.balancer.directory) / "revisions"
    digest = os.readlink(revisions / "committed")
    if what != "manifest":
        manifest = (revisions / digest).read_bytes()
        digest = msgspec.json.decode(manifest, type=dict[str, ManifestEntry])[what].digest
    damage(revisions / digest)
    if restarted:
        own_amphora.agent.restart()
    other.push()
    serial = site.push("a.pem")
    until(site.balancer.accepts, "it serves")
    assert site.presented() == serial
    crash(site.balancer)
    until(site.balancer.accepts, "it serves")
    assert site.presented() == serial
    other.delete()
    site.balancer.delete()
    assert not site.balancer.directory.exists()


# C2


def test_c2_a_start_goes_back_to_the_last_good_files(site: Site) -> None:
    serial = site.push("a.pem")
    api, balancer = site.amphora.api, site.balancer
    good = api.certificate_md5(balancer.id, "a.pem")
    spoil_committed(balancer)
    crash(balancer)
    until(balancer.accepts, "it serves")
    assert site.presented() == serial
    assert api.certificate_md5(balancer.id, "a.pem") == good
    until(lambda: "went-back" in alarms(site.amphora, balancer.id), "it is told")
    site.push("b.pem")
    assert "went-back" not in alarms(site.amphora, balancer.id)


def spoil_committed(balancer: LoadBalancer) -> None:
    """Commit a certificate without its key, as an agent before this one would have."""
    instance = UploadedLayout(
        id=ObjectId(balancer.id),
        directory=balancer.directory,
        certificates=balancer.directory.parent / "certs" / balancer.id,
        stats_socket=Path(),
        master_socket=Path(),
    )
    manifest = reading.committed(instance)
    assert manifest is not None
    wrong = Revisions.of(instance).keep({"certificates/a.pem": b"no certificate"})
    LiveFiles(Alarms(balancer.directory / "alarms")).commit(instance, {**manifest, **wrong}, {})


# E10


def test_e10_a_first_upload_that_fails_leaves_nothing(amphora: Amphora) -> None:
    before = set(amphora.agent.base_path.iterdir())
    made = amphora.new_balancer()
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(made.id, "nonsense\n")
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(made.id, made.text().replace("mode http", "mode nonsense"))
    assert set(amphora.agent.base_path.iterdir()) == before
