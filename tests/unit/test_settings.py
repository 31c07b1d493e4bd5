"""The controller's INI file (WIRE §7): what is taken, what is ignored, what is refused and how."""

import logging
import os
from pathlib import Path

import pytest

from amphora_agent import settings
from amphora_agent.settings import Settings, SettingsError, SettingsFile

SOURCE = "/etc/octavia/amphora-agent.conf"
KEY = "s3cret-Key"
IDENTITY = "[amphora_agent]\namphora_id = amphora-1\n"


def parse(text: str) -> Settings:
    return settings.parse(text, SOURCE)


def with_key(section: str, key: str, value: str) -> str:
    return f"{IDENTITY}\n[{section}]\n{key} = {value}\n"


TAKEN = [
    ("DEFAULT", "debug", "True", "debug", True),
    ("DEFAULT", "use_syslog", "yes", "use_syslog", True),
    ("DEFAULT", "syslog_log_facility", "LOG_LOCAL3", "syslog_log_facility", "LOG_LOCAL3"),
    ("haproxy_amphora", "base_path", "/srv/octavia", "base_path", "/srv/octavia"),
    ("haproxy_amphora", "base_cert_dir", "/srv/certs", "base_cert_dir", "/srv/certs"),
    ("haproxy_amphora", "bind_host", "192.0.2.1", "bind_host", "192.0.2.1"),
    ("haproxy_amphora", "bind_port", "9555", "bind_port", 9555),
    ("haproxy_amphora", "haproxy_cmd", "/opt/haproxy", "haproxy_cmd", "/opt/haproxy"),
    ("haproxy_amphora", "user_log_facility", "7", "user_log_facility", 7),
    ("haproxy_amphora", "administrative_log_facility", "0", "administrative_log_facility", 0),
    (
        "health_manager",
        "controller_ip_port_list",
        "192.0.2.7:5555, [2001:db8::7]:5555",
        "controller_ip_port_list",
        ("192.0.2.7:5555", "[2001:db8::7]:5555"),
    ),
    ("health_manager", "heartbeat_interval", "3", "heartbeat_interval", 3),
    ("health_manager", "heartbeat_key", KEY, "heartbeat_key", KEY),
    ("amphora_agent", "agent_server_ca", "/etc/ca.pem", "agent_server_ca", "/etc/ca.pem"),
    ("amphora_agent", "agent_server_cert", "/etc/s.pem", "agent_server_cert", "/etc/s.pem"),
    ("amphora_agent", "agent_server_network_dir", "/srv/n", "agent_server_network_dir", "/srv/n"),
    ("amphora_agent", "agent_request_read_timeout", "20", "agent_request_read_timeout", 20),
    ("amphora_agent", "amphora_id", "other", "amphora_id", "other"),
    ("amphora_agent", "amphora_udp_driver", "none", "amphora_udp_driver", "none"),
    ("amphora_agent", "agent_tls_protocol", "TLSv1.3", "agent_tls_protocol", "TLSv1.3"),
    ("amphora_agent", "administrative_log_facility", "4", "administrative_log_facility", 4),
    ("amphora_agent", "user_log_facility", "5", "user_log_facility", 5),
    (
        "controller_worker",
        "loadbalancer_topology",
        "ACTIVE_STANDBY",
        "loadbalancer_topology",
        "ACTIVE_STANDBY",
    ),
]


@pytest.mark.parametrize(
    ("section", "key", "value", "name", "expected"), TAKEN, ids=[f"{t[0]}.{t[1]}" for t in TAKEN]
)
def test_every_key_of_the_contract_is_read(
    section: str, key: str, value: str, name: str, expected: object
) -> None:
    assert getattr(parse(with_key(section, key, value)), name) == expected


def test_the_defaults_are_octavia_s() -> None:
    assert parse(IDENTITY) == Settings(
        amphora_id="amphora-1",
        debug=False,
        base_path="/var/lib/octavia",
        base_cert_dir="/var/lib/octavia/certs",
        bind_host="::",
        bind_port=9443,
        heartbeat_interval=10,
        agent_server_network_dir="/etc/octavia/interfaces/",
        agent_request_read_timeout=180,
        agent_tls_protocol="TLSv1.2",
        loadbalancer_topology="SINGLE",
    )


REFUSED = [
    ("DEFAULT", "debug", "maybe"),
    ("DEFAULT", "use_syslog", "2"),
    ("haproxy_amphora", "base_path", "var/lib/octavia"),
    ("haproxy_amphora", "base_path", ""),
    ("haproxy_amphora", "base_cert_dir", "./certs"),
    ("haproxy_amphora", "bind_port", "0"),
    ("haproxy_amphora", "bind_port", "65536"),
    ("haproxy_amphora", "bind_port", "9443.0"),
    ("haproxy_amphora", "bind_port", "\uff19\uff14\uff14\uff13"),
    ("haproxy_amphora", "haproxy_cmd", "haproxy"),
    ("haproxy_amphora", "user_log_facility", "8"),
    ("haproxy_amphora", "administrative_log_facility", "-1"),
    ("health_manager", "heartbeat_interval", "0"),
    ("health_manager", "heartbeat_interval", "soon"),
    ("health_manager", "heartbeat_interval", "1e3"),
    ("health_manager", "heartbeat_interval", "9" * 5000),
    ("amphora_agent", "agent_server_ca", "ca.pem"),
    ("amphora_agent", "agent_server_cert", "server.pem"),
    ("amphora_agent", "agent_server_network_dir", "interfaces"),
    ("amphora_agent", "agent_request_read_timeout", "-5"),
    ("amphora_agent", "amphora_id", ""),
    ("amphora_agent", "agent_tls_protocol", "TLSv9"),
    ("amphora_agent", "agent_server_ca", "/etc/\x1bca.pem"),
    ("controller_worker", "loadbalancer_topology", "single"),
]


@pytest.mark.parametrize(
    ("section", "key", "value"), REFUSED, ids=[f"{r[1]}={r[2][:12]!r}" for r in REFUSED]
)
def test_a_wrong_value_is_refused_with_file_section_key_and_reason(
    section: str, key: str, value: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(with_key(section, key, value))
    place, _, reason = raised.value.details.partition(f"{SOURCE}: [{section}] {key}: ")
    assert place == ""
    assert reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "[amphora_agent] amphora_id: is missing"),
        ("[DEFAULT]\ndebug = True\n", "[amphora_agent] amphora_id: is missing"),
        ("debug = True\n", "line 1: no [section] before it"),
        (f"{IDENTITY}nonsense\n", "line 3: not 'key = value'"),
        (f"{IDENTITY}[unclosed\n", "line 3: not 'key = value'"),
    ],
)
def test_what_is_no_usable_ini_is_refused_by_line(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(text)
    assert raised.value.details == f"{SOURCE}: {reason}"


def test_unknown_sections_and_keys_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = f"{IDENTITY}tomorrow = 1\n[certificates]\nca = x\n[haproxy_amphora]\nnew = {KEY}\n"
    assert parse(text) == Settings(amphora_id="amphora-1")
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warned == [
        f"{SOURCE}: [amphora_agent] tomorrow: unknown, ignored",
        f"{SOURCE}: [certificates] ca: unknown, ignored",
        f"{SOURCE}: [haproxy_amphora] new: unknown, ignored",
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("plain", "plain"),
        ("50%off %(x)s", "50%off %(x)s"),
        ("a=b:c", "a=b:c"),
        ("a # b ; c", "a # b ; c"),
        ("  around  ", "around"),
        ('"quoted"', "quoted"),
        ("'quoted'", "quoted"),
        ("\"one'", "\"one'"),
        ('"', '"'),
        ("ümläut", "ümläut"),
    ],
)
def test_values_are_read_as_oslo_config_reads_them(written: str, read: str) -> None:
    assert parse(with_key("health_manager", "heartbeat_key", written)).heartbeat_key == read


def test_of_a_key_or_section_that_comes_twice_the_last_one_counts() -> None:
    text = f"{IDENTITY}amphora_id = second\n[DEFAULT]\n[amphora_agent]\namphora_id = third\n"
    assert parse(text).amphora_id == "third"


def test_a_key_in_default_is_not_the_default_of_other_sections() -> None:
    assert parse(f"[DEFAULT]\nbind_port = 1\n{IDENTITY}").bind_port == 9443


def test_comments_are_whole_lines_of_hash_or_semicolon() -> None:
    text = f"# one\n; two\n{IDENTITY}# heartbeat_key = x\n"
    assert parse(text) == Settings(amphora_id="amphora-1")


def test_colons_separate_keys_from_values_too() -> None:
    assert parse("[amphora_agent]\namphora_id: a1\n").amphora_id == "a1"


@pytest.mark.parametrize(
    "text",
    [
        f"{IDENTITY}[health_manager]\nheartbeat_key = {KEY}\nheartbeat_interval = soon\n",
        f"{IDENTITY}[health_manager]\nheartbeat_key {KEY}\n",
        f"heartbeat_key = {KEY}\n",
        f"{IDENTITY}[health_manager]\nheartbeat_key = {KEY}\x01\n",
        f"{IDENTITY}[health_manager\nheartbeat_key = {KEY}\n[",
    ],
)
def test_no_message_ever_holds_the_heartbeat_key(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(text)
    assert KEY not in f"{raised.value} {raised.value!r} {caplog.text}"


def test_the_repr_of_settings_does_not_hold_the_heartbeat_key() -> None:
    assert KEY not in repr(parse(with_key("health_manager", "heartbeat_key", KEY)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "amphora-agent.conf"
    path.write_text(IDENTITY)
    return path


def test_a_file_that_is_missing_or_not_text_is_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent", tmp_path, binary):
        with pytest.raises(SettingsError, match=str(path)):
            settings.read(path)


def test_a_replaced_file_is_taken_up(file: Path) -> None:
    followed = SettingsFile(file)
    other = file.with_name("new")
    other.write_text("[amphora_agent]\namphora_id = amphora-2\n")
    os.replace(other, file)
    assert followed.current().amphora_id == "amphora-2"


def test_a_file_that_turned_bad_leaves_the_last_good_settings_and_is_reported_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = SettingsFile(file)
    before = followed.current()
    file.write_text("not an INI file")
    assert followed.current() == before
    assert followed.current() == before
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    file.unlink()
    assert followed.current() == before


def test_replacing_keeps_the_file_before(file: Path) -> None:
    followed = SettingsFile(file)
    followed.replace(b"[amphora_agent]\namphora_id = amphora-2\n")
    assert followed.current().amphora_id == "amphora-2"
    assert file.with_name("amphora-agent.conf.previous").read_text() == IDENTITY


@pytest.mark.parametrize("data", [b"", b"\xff", b"[DEFAULT]\n", b"[amphora_agent]\namphora_id ="])
def test_what_cannot_be_used_replaces_nothing(file: Path, data: bytes) -> None:
    followed = SettingsFile(file)
    with pytest.raises(SettingsError):
        followed.replace(data)
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {file.name: IDENTITY}


def test_what_is_only_read_at_the_start_is_said_when_it_changes(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    followed = SettingsFile(file)
    followed.replace(with_key("health_manager", "heartbeat_interval", "3").encode())
    assert "when the agent starts again" not in caplog.text
    followed.replace(with_key("haproxy_amphora", "bind_port", "9444").encode())
    assert "taken up when the agent starts again: bind_port, heartbeat_interval" not in caplog.text
    assert "taken up when the agent starts again: bind_port" in caplog.text
