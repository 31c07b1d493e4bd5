"""The file of settings: which is used at the start, what is kept, what is reported."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent.agent.settings_file import SettingsFile, read
from amphora_agent.errors import AgentError
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind
from amphora_agent.settings.reader import Settings, SettingsError

IDENTITY = "[amphora_agent]\namphora_id = amphora-1\n"
OTHER_PORT = f"{IDENTITY}[haproxy_amphora]\nbind_port = 2\n"
OTHER_KEY = f"{IDENTITY}[health_manager]\nheartbeat_key = other\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "amphora-agent.conf"
    path.write_text(IDENTITY)
    return path


@pytest.fixture
def previous(file: Path) -> Path:
    return file.with_name(f"{file.name}.previous")


@pytest.fixture
def alarms(tmp_path: Path) -> Alarms:
    return Alarms(tmp_path / "alarms")


def refuse_port(port: int) -> Callable[[Settings], None]:
    def require(settings: Settings) -> None:
        if settings.bind_port == port:
            raise AgentError("Cannot listen", "gone")

    return require


def test_a_file_that_is_missing_or_not_text_is_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent", tmp_path, binary):
        with pytest.raises(SettingsError, match=str(path)):
            read(path)
        with pytest.raises(SettingsError, match=str(path)):
            SettingsFile(path)


def test_a_replaced_file_is_taken_up(file: Path) -> None:
    followed = SettingsFile(file)
    other = file.with_name("new")
    other.write_text("[amphora_agent]\namphora_id = amphora-2\n")
    os.replace(other, file)
    assert followed.current().amphora_id == "amphora-2"


def test_a_file_that_turned_bad_leaves_the_last_good_settings_and_is_reported_once(
    file: Path, alarms: Alarms, caplog: pytest.LogCaptureFixture
) -> None:
    followed, another = SettingsFile(file, alarms=alarms), SettingsFile(file, alarms=alarms)
    before = followed.current()
    file.write_text("not an INI file")
    for each in (followed, followed, another):
        assert each.current() == before
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    assert [alarm.kind for alarm in alarms.current(str(file))] == [AlarmKind.CONFIGURATION]
    file.unlink()
    assert followed.current() == before
    file.write_text(IDENTITY)
    followed.current()
    assert alarms.current() == ()


def test_the_file_before_stays_when_the_same_comes_again(file: Path, previous: Path) -> None:
    stored = SettingsFile(file)
    for _ in range(2):
        stored.store(OTHER_KEY.encode())
    assert (file.read_text(), previous.read_text()) == (OTHER_KEY, IDENTITY)


TORN = [b"", b"\0" * 300, b"[amphora_agent]\namph", b"\xff\xfe", b"[amphora_agent]\namphora_id =\n"]


@pytest.mark.parametrize("torn", [*TORN, None])
def test_starts_with_the_previous_file_when_the_file_is_torn(
    file: Path, previous: Path, alarms: Alarms, torn: bytes | None
) -> None:
    previous.write_text(OTHER_PORT)
    file.unlink()
    if torn is not None:
        file.write_bytes(torn)
    followed = SettingsFile(file, alarms=alarms)
    assert followed.current().bind_port == 2
    (alarm,) = alarms.current()
    assert (alarm.kind, alarm.subject) == (AlarmKind.CONFIGURATION, str(file))
    assert str(previous) in alarm.text


def test_starts_with_the_previous_file_when_the_new_one_cannot_serve(
    file: Path, previous: Path, alarms: Alarms
) -> None:
    file.write_text(OTHER_PORT)
    previous.write_text(IDENTITY)
    followed = SettingsFile(file, alarms=alarms, require_usable=refuse_port(2))
    assert followed.current().bind_port == 9443
    assert "Cannot listen: gone" in alarms.current()[0].text


def test_names_both_files_when_both_are_bad(file: Path, previous: Path) -> None:
    file.write_text("nonsense")
    previous.write_text(OTHER_PORT)
    with pytest.raises(AgentError) as raised:
        SettingsFile(file, require_usable=refuse_port(2))
    assert f"{file}: line 1" in str(raised.value)
    assert f"gone (settings of {previous})" in str(raised.value)


def test_a_repair_keeps_the_file_with_which_the_agent_runs(file: Path, previous: Path) -> None:
    file.write_text("nonsense")
    previous.write_text(OTHER_PORT)
    followed = SettingsFile(file)
    followed.store(IDENTITY.encode())
    assert previous.read_text() == OTHER_PORT
    assert followed.current().bind_port == 9443
    assert followed.in_force().bind_port == 2


def test_replacing_keeps_the_file_before(file: Path, previous: Path) -> None:
    followed = SettingsFile(file)
    followed.store(OTHER_KEY.encode())
    assert followed.current().heartbeat_key == "other"
    assert previous.read_text() == IDENTITY
    # The next one changes what is read at the start: the one after that is not known to be good.
    followed.store(OTHER_PORT.encode())
    assert previous.read_text() == OTHER_KEY
    followed.store(IDENTITY.encode())
    assert previous.read_text() == OTHER_KEY


def test_settings_files_are_for_the_agent_alone(file: Path, previous: Path) -> None:
    file.chmod(0o644)
    SettingsFile(file).store(OTHER_KEY.encode())
    assert {path.stat().st_mode & 0o777 for path in (file, previous)} == {0o600}


def test_an_edit_in_place_does_not_reach_what_is_kept(file: Path, previous: Path) -> None:
    SettingsFile(file).store(OTHER_KEY.encode())
    with file.open("r+") as opened:
        opened.write("nonsense")
    assert previous.read_text() == IDENTITY
