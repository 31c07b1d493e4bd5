"""The controller's INI file (WIRE §7): what is taken, what is ignored, what is refused and how."""

import logging

import pytest

from amphora_agent.settings import reader
from amphora_agent.settings.reader import Settings, SettingsError

SOURCE = "/etc/octavia/amphora-agent.conf"
KEY = "s3cret-Key"
IDENTITY = "[amphora_agent]\namphora_id = amphora-1\n"


def parse(text: str) -> Settings:
    return reader.parse_settings(text, SOURCE)


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
        (f"{IDENTITY}[unclosed\n", "line 3: not '[section]'"),
        (f"{IDENTITY}[]\n", "line 3: not '[section]'"),
        (f"{IDENTITY}= value\n", "line 3: not 'key = value'"),
        (f"{IDENTITY}\n  goes on\n", "line 4: continues no value"),
        (f"\ufeff{IDENTITY}", "line 1: not 'key = value'"),
    ],
)
def test_refuses_an_unusable_ini_by_line(text: str, reason: str) -> None:
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
        ('"', ""),
        ("$5", "$5"),
        ("a$b$$c${d}\\$e", "a$b$$c${d}\\$e"),
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


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("192.0.2.1:5555,\n  192.0.2.2:5555\n", ("192.0.2.1:5555", "192.0.2.2:5555")),
        ("192.0.2.1:5555,\r\n\t192.0.2.2:5555\r\n", ("192.0.2.1:5555", "192.0.2.2:5555")),
        ("192.0.2.1:5555\n# a comment\n", ("192.0.2.1:5555",)),
        (",, 192.0.2.1:5555 ,\n", ("192.0.2.1:5555",)),
    ],
)
def test_a_list_may_go_on_in_the_next_lines(written: str, read: tuple[str, ...]) -> None:
    text = f"{IDENTITY}[health_manager]\ncontroller_ip_port_list = {written}"
    assert parse(text).controller_ip_port_list == read


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (f"{IDENTITY}[HAProxy_Amphora]\nbind_port = 1\n", "bind_port", 1),
        (f"{IDENTITY}[haproxy_amphora]\nBind_Port = 1\n", "bind_port", 9443),
        (f"{IDENTITY}[default]\ndebug = True\n", "debug", False),
        (f"{IDENTITY}[haproxy_amphora]\r\nbind_port = 1\r\n", "bind_port", 1),
        (f"{IDENTITY}[haproxy_amphora]\rbind_port = 1\r", "bind_port", 1),
        (f"{IDENTITY}[haproxy_amphora]\n\x0bbind_port = 1\n", "bind_port", 1),
        (f"{IDENTITY}[DEFAULT]\nsyslog_log_facility = a\u2028b\n", "syslog_log_facility",
         "a\u2028b"),
    ],
)  # fmt: skip
def test_sections_keys_and_line_ends_are_told_as_oslo_config_does(
    text: str, name: str, expected: object
) -> None:
    assert getattr(parse(text), name) == expected


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("haproxy_amphora", "base_cert_dir", "$base_path/c", "/srv/c"),
        ("haproxy_amphora", "base_cert_dir", "${base_path}/c", "/srv/c"),
        ("amphora_agent", "agent_server_ca", "${haproxy_amphora.base_path}/ca", "/srv/ca"),
        ("haproxy_amphora", "haproxy_cmd", "/a$$b\\$c", "/a$b$c"),
        ("haproxy_amphora", "haproxy_cmd", "/$haproxy_amphora.user_log_facility", "/0"),
        ("haproxy_amphora", "haproxy_cmd", "/$debug", "/False"),
    ],
)
def test_references_to_other_settings_are_resolved(
    section: str, key: str, value: str, expected: str
) -> None:
    text = f"{IDENTITY}[haproxy_amphora]\nbase_path = /srv\n[{section}]\n{key} = {value}\n"
    assert getattr(parse(text), key) == expected


@pytest.mark.parametrize(
    "value",
    ["/$unknown", "/$base_path", "/${base_cert_dir}", "/${health_manager.heartbeat_key}"],
)
def test_references_that_lead_nowhere_in_a_circle_or_to_the_key_are_refused(value: str) -> None:
    text = f"{IDENTITY}[haproxy_amphora]\nbase_cert_dir = $base_path\nbase_path = {value}\n"
    with pytest.raises(SettingsError, match="base_path: refers to a setting"):
        parse(f"{text}[health_manager]\nheartbeat_key = {KEY}\n")


def test_all_wrong_values_are_told_at_once() -> None:
    text = f"{IDENTITY}[haproxy_amphora]\nbind_port = x\nbind_host = y\n"
    with pytest.raises(SettingsError) as raised:
        parse(text)
    assert [reason.partition(":")[0] for reason in raised.value.reasons] == [
        "[haproxy_amphora] bind_port",
        "[haproxy_amphora] bind_host",
    ]


CANARY = "cAnArY\x01$nobody/../x"


@pytest.mark.parametrize("key", [f"{t[0]}.{t[1]}" for t in TAKEN])
@pytest.mark.parametrize("form", ["{key} = {value}", "{key} {value}=", "{key} =\n{value}="])
def test_no_refusal_and_no_log_line_tells_a_value(
    key: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever key it is the value of, or a part of a line that was torn."""
    caplog.set_level(logging.DEBUG)
    section, _, name = key.partition(".")
    said = ""
    for value in (CANARY, "cAnArY", "/cAnArY/x"):
        text = f"{IDENTITY}[{section}]\n{form.format(key=name, value=value)}\n[cut off"
        for whole in (text, text.removesuffix("[cut off")):
            try:
                parse(whole)
            except SettingsError as error:
                said += f"{error}"
    told = said + caplog.text
    # A line of its own that is a plain name is taken for the name of a key.
    assert "cAnArY" not in told.replace("] cAnArY: unknown, ignored", "")


def test_hides_a_name_that_may_be_a_part_of_a_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parse(f"{IDENTITY}[health_manager]\nheartbeat_key c2VjcmV0==\n")
    assert "[health_manager] (a name not shown): unknown, ignored" in caplog.text
    assert "c2VjcmV0" not in caplog.text


def test_of_thousands_of_unknown_keys_a_few_are_told(caplog: pytest.LogCaptureFixture) -> None:
    parse(IDENTITY + "".join(f"key{number} = 1\n" for number in range(5000)))
    assert len(caplog.records) == 21
    assert "4980 more keys" in caplog.text
