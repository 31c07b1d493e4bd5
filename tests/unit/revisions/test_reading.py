"""What is committed and loaded, whatever has become of the live files."""

from pathlib import Path

import pytest

from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.paths import InstanceLayout, Layout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost, Revisions
from amphora_agent.settings.reader import Settings
from tests.builders.instances import commit, layout, live_files


@pytest.fixture
def instance(tmp_path: Path) -> InstanceLayout:
    return layout(tmp_path)


def amphora(top: Path) -> Layout:
    settings = Settings(amphora_id="a1", base_path=str(top))
    return Layout.of(settings, run=top / "run", namespace="n")


def test_op2_what_is_read_is_what_was_committed(instance: InstanceLayout) -> None:
    commit(instance, "committed", **{"a.pem": b"key"})
    instance.configuration.write_bytes(b"edited")
    (instance.certificates / "a.pem").unlink()
    assert reading.read(instance, "haproxy.cfg") == b"committed"
    assert reading.read(instance, "certificates/a.pem") == b"key"
    assert loaded_state.read_committed(instance)["haproxy.cfg"] == "committed"


def test_a_file_that_was_never_committed_is_not_there(instance: InstanceLayout) -> None:
    commit(instance, "text")
    with pytest.raises(FileNotFoundError):
        reading.read(instance, "certificates/none.pem")


def test_a_content_with_other_bytes_is_not_given_out(instance: InstanceLayout) -> None:
    entry = commit(instance, "text")["haproxy.cfg"]
    path = Revisions.of(instance).path(entry.digest)
    path.chmod(0o600)
    path.write_bytes(b"xxxx")
    with pytest.raises(ContentLost):
        reading.read(instance, "haproxy.cfg")
    # The same upload again mends it.
    Revisions.of(instance).keep({"haproxy.cfg": b"text"})
    assert reading.read(instance, "haproxy.cfg") == b"text"


def test_instances_have_a_committed_configuration(tmp_path: Path) -> None:
    made = amphora(tmp_path)
    for name in ("lb2", "lb1"):
        each = made.uploaded(ObjectId(name))
        manifest = Revisions.of(each).keep({"haproxy.cfg": b"text"})
        live_files(each).commit(each, manifest, {})
    made.uploaded(ObjectId("lb1")).configuration.unlink()  # by hand
    for name in ("old", "certs", "vrrp", ".hidden", "a b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "haproxy.cfg").touch()
    waiting = made.uploaded(ObjectId("waits"))
    live_files(waiting).commit(
        waiting, Revisions.of(waiting).keep({"certificates/a.pem": b"key"}), {}
    )
    (tmp_path / "refused-only").mkdir()
    (tmp_path / "refused-only/haproxy.cfg.rejected").touch()
    # `old` is that of an agent before there were revisions.
    assert [instance.id for instance in reading.instances(made)] == ["lb1", "lb2", "old"]
