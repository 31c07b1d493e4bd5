"""What a pushed configuration may change, and how an agent starts whose file cannot be used."""

import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from amphora_agent.settings.policy import TABLE
from amphora_agent.settings.reader import locate
from lab.pki import Authority, write_private
from lab.waiting import until
from tests.integration.amphora import Amphora, differences, with_setting


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    """One whose directories may also be below its laboratory's, at DEBUG."""
    with ExitStack() as ending:
        yield boot_below(boot, ending)


def boot_below(boot: Callable[..., Amphora], ending: ExitStack) -> Amphora:
    options = ("--memory-limit", "1024", "--directories-below", str(Path("/tmp").resolve()))
    return boot(ending, options=options)


@pytest.fixture
def config(amphora: Amphora) -> Iterator[str]:
    """The configuration; put back after the test."""
    text = amphora.agent.config_file.read_text()
    yield text
    amphora.api.upload_config(text)


@pytest.fixture
def workplace(amphora: Amphora) -> Iterator[Path]:
    """A directory that is root's, for nobody else."""
    path = amphora.agent.directory / "workplace"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def put(amphora: Amphora, text: str) -> tuple[int, str]:
    """Push a configuration; return the status and what is said."""
    answer = amphora.request("PUT", "/1.0/config", text.encode())
    return answer.status, answer.json().get("details", "")


def push(amphora: Amphora, config: str, key: str, value: object) -> tuple[int, str]:
    section = next(
        section
        for section, keys in SECTIONS.items()
        if key in keys
    )  # fmt: skip
    return put(amphora, f"{config}\n[{section}]\n{key} = {value}\n")


SECTIONS = {
    "haproxy_amphora": ("haproxy_cmd", "base_path", "base_cert_dir", "bind_host", "bind_port"),
    "health_manager": ("heartbeat_key", "heartbeat_interval", "controller_ip_port_list"),
    "amphora_agent": (
        *("agent_server_ca", "agent_server_cert", "agent_server_network_dir", "amphora_id"),
        *("agent_tls_protocol", "amphora_udp_driver"),
    ),
}

#: Each in a form that could be meant, and would cost the API or run as root.
HOSTILE = [
    ("haproxy_cmd", "/usr/bin/perl"),
    ("haproxy_cmd", "/nonexistent"),
    ("haproxy_cmd", "/usr/sbin"),
    ("base_path", "/etc"),
    ("base_path", "/run"),
    ("base_path", "/run/../etc/cron.d"),
    ("base_cert_dir", "/etc/ssl/private"),
    ("base_cert_dir", "/root/x"),
    ("agent_server_network_dir", "/etc/systemd/system"),
    ("agent_server_ca", "/nonexistent"),
    ("agent_server_ca", "/etc/shadow"),
    ("agent_server_ca", "/dev/zero"),
    ("agent_server_ca", "/proc/self/environ"),
    ("agent_server_cert", "/etc/shadow"),
    ("agent_server_cert", "/nonexistent"),
    ("bind_host", "not an ip"),
    ("bind_host", "192.0.2.77"),
    ("bind_host", "224.0.0.1"),
    ("bind_host", "255.255.255.255"),
    ("bind_host", "$heartbeat_key"),
    ("bind_port", "0"),
    ("amphora_id", "../x"),
    ("amphora_id", "another-amphora"),
    ("amphora_udp_driver", "elsewhere"),
    ("agent_tls_protocol", "SSLv3"),
    ("agent_tls_protocol", "TLSv1.1"),
    ("heartbeat_key", ""),
    ("heartbeat_key", "''"),
    ("heartbeat_interval", "-1"),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_b5_what_would_lock_out_or_run_is_refused_by_section_and_key(
    amphora: Amphora, config: str, key: str, value: str
) -> None:
    before = amphora.files()
    status, said = push(amphora, config, key, value)
    assert status == 400
    assert re.fullmatch(rf"{re.escape(str(amphora.agent.config_file))}: \[\w+\] {key}: .+", said)
    assert value not in said.partition(": ")[2] or not value
    assert differences(before, amphora.files()) == set()


def test_b5_all_that_is_wrong_is_told_at_once(amphora: Amphora, config: str) -> None:
    changed = with_setting(config, "amphora_id", "other")
    status, said = push(amphora, changed, "haproxy_cmd", "/usr/bin/perl")
    assert status == 400
    assert "[amphora_agent] amphora_id: " in said
    assert "[haproxy_amphora] haproxy_cmd: " in said


# The program


def haproxy_copy(directory: Path, name: str = "haproxy") -> Path:
    """A copy at a place of root's alone: the laboratory's is below /tmp."""
    copy = directory / name
    shutil.copy2("/usr/sbin/haproxy", copy)
    return copy


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory for programs, whose parents are root's alone."""
    path = Path(f"/opt/amphora-test-{os.getpid()}")
    path.mkdir(mode=0o755, parents=True)
    yield path
    shutil.rmtree(path)


def test_b5_another_haproxy_is_accepted(amphora: Amphora, config: str, programs: Path) -> None:
    assert push(amphora, config, "haproxy_cmd", haproxy_copy(programs))[0] == 202
    assert push(amphora, config, "haproxy_cmd", haproxy_copy(programs, "haproxy-2.6"))[0] == 202


def spoil(program: Path, kind: str) -> Path:
    """Make of a copy of haproxy what must be refused."""
    directory, canary = program.parent, program.parent / "canary"
    script = f"#!/bin/sh\ntouch {canary}\necho HAProxy version 2.6.12\n"
    match kind:
        case "a script":
            program.write_text(script)
        case "perl by this name":
            shutil.copy2("/usr/bin/perl", program)
        case "writable by all":
            program.chmod(0o777)
        case "writable by a group":
            program.chmod(0o775)
        case "somebody else's":
            os.chown(program, 65534, -1)
        case "not to be executed":
            program.chmod(0o644)
        case "a directory of others":
            directory.chmod(0o777)
        case "a sticky directory":
            directory.chmod(0o1777)
        case "a directory of somebody else":
            os.chown(directory, 65534, -1)
        case "a link to perl":
            program.unlink()
            program.symlink_to("/usr/bin/perl")
        case "a link that others can change":
            loose = directory / "loose"
            loose.mkdir()
            (loose / "haproxy").symlink_to(program)
            loose.chmod(0o777)
            return loose / "haproxy"
        case "a circle of links":
            program.unlink()
            program.symlink_to(program)
        case "another name":
            return program.rename(directory / "perl")
    return program


@pytest.mark.parametrize(
    "kind",
    [
        *("a script", "perl by this name", "writable by all", "writable by a group"),
        *("somebody else's", "not to be executed", "a directory of others", "a sticky directory"),
        *("a directory of somebody else", "a link to perl", "a link that others can change"),
        *("a circle of links", "another name"),
    ],
)
def test_b5_a_program_that_is_not_surely_haproxy_is_refused_and_not_run(
    amphora: Amphora, config: str, programs: Path, kind: str
) -> None:
    program = spoil(haproxy_copy(programs), kind)
    status, said = push(amphora, config, "haproxy_cmd", program)
    assert status == 400
    assert "[haproxy_amphora] haproxy_cmd: " in said
    assert str(programs) not in said
    assert not (programs / "canary").exists()


# Directories


@pytest.mark.parametrize("key", ["base_path", "base_cert_dir", "agent_server_network_dir"])
@pytest.mark.parametrize("there", [True, False])
def test_b5_a_directory_below_those_of_the_command_line_is_accepted(
    amphora: Amphora, config: str, workplace: Path, key: str, there: bool
) -> None:
    if there:
        (workplace / "d").mkdir()
    before = amphora.files()
    assert push(amphora, config, key, workplace / "d")[0] == 202
    changed = differences(before, amphora.files())
    assert {name for name in changed if "amphora-agent.conf" not in name} == set()


@pytest.mark.parametrize(
    "kind", ["a file", "a link", "of others", "of somebody else", "full", "below a file"]
)
def test_b5_a_directory_that_cannot_be_the_agents_is_refused(
    amphora: Amphora, config: str, workplace: Path, kind: str
) -> None:
    path = workplace / "d"
    if kind == "a link":
        path.symlink_to("/etc")
    elif kind in ("a file", "below a file"):
        path.write_text("")
    else:
        path.mkdir()
    if kind == "of others":
        path.chmod(0o777)
    if kind == "of somebody else":
        os.chown(path, 65534, -1)
    if kind == "full":
        (path / "somebody-s").write_text("")
    status, said = push(amphora, config, "base_path", path / "x" if "file" in kind else path)
    assert status == 400
    assert "[haproxy_amphora] base_path: " in said


# The address


def test_b5_an_address_that_can_be_bound_is_accepted(amphora: Amphora, config: str) -> None:
    assert push(amphora, config, "bind_host", "127.0.0.9")[0] == 202
    assert push(amphora, config, "bind_host", "0.0.0.0")[0] == 202
    assert push(amphora, config, "bind_host", "::")[0] == 202
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert push(amphora, config, "bind_port", port)[0] == 202


def test_b5_an_address_that_another_process_has_is_refused(amphora: Amphora, config: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = push(amphora, config, "bind_port", taken.getsockname()[1])
        assert (status, "Address already in use" in said) == (400, True)
    # The agent's own port, which another process has at another address: all of them is too much.
    with socket.create_server(("127.0.0.8", amphora.agent.port)):
        status, said = push(amphora, config, "bind_host", "0.0.0.0")
        assert (status, "another process" in said) == (400, True)


# Certificate and authority


def test_b5_another_certificate_of_this_amphora_is_accepted_and_used(
    amphora: Amphora, config: str, workplace: Path
) -> None:
    agent = amphora.agent
    other = agent.pki.server_authority.issue(agent.amphora_id, dns=[agent.amphora_id], key="ec")
    write_private(workplace / "other.pem", other.pem)
    assert push(amphora, config, "agent_server_cert", workplace / "other.pem")[0] == 202
    peer = agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.serial == other.serial


@pytest.mark.parametrize("kind", ["another amphora", "no key", "expired", "of others", "huge"])
def test_b5_a_certificate_that_would_lock_the_controller_out_is_refused(
    amphora: Amphora, config: str, workplace: Path, kind: str
) -> None:
    agent = amphora.agent
    name = "other" if kind == "another amphora" else agent.amphora_id
    days = -0.001 if kind == "expired" else 30
    other = agent.pki.server_authority.issue(name, dns=[name], key="ec", days=days)
    pem = other.certificate if kind == "no key" else other.pem
    path = workplace / "other.pem"
    write_private(path, pem + b"\n" * (2 << 20 if kind == "huge" else 0))
    if kind == "of others":
        path.chmod(0o666)
    status, said = push(amphora, config, "agent_server_cert", path)
    assert status == 400
    assert "[amphora_agent] agent_server_cert: " in said


def test_b5_an_authority_is_accepted_when_it_has_signed_who_asks(
    amphora: Amphora, config: str, workplace: Path
) -> None:
    path = workplace / "ca.pem"
    stranger = Authority.create("stranger", key="ec").certificate
    write_private(path, stranger)
    status, said = push(amphora, config, "agent_server_ca", path)
    assert (status, "it has not signed your certificate" in said) == (400, True)
    write_private(path, stranger + amphora.agent.pki.client_ca.read_bytes())
    assert push(amphora, config, "agent_server_ca", path)[0] == 202
    assert amphora.api.info()


# Secrets


CANARY = "cAnArY"

#: No value of any key but the heartbeat's, each with what must not be told.
SHAPES = (
    CANARY,
    f"/{CANARY}",
    f"//{CANARY}",
    f"/run/{CANARY}/../x",
    f"{CANARY}:5555",
    f"192.0.2.1:{CANARY}",
    f"192.0.2.1:5555, {CANARY}",
    f"[2001:db8::1]{CANARY}:5555",
    f"1 {CANARY}",
    f"-1{CANARY}",
    f"true {CANARY}",
    f"TLSv1.2 {CANARY}",
    f"LOG_USER{CANARY}",
    f"{CANARY}==",
    f"'{CANARY}",
    f'"{CANARY}"',
    f"[{CANARY}]",
    f"${CANARY}",
    f"${{{CANARY}}}",
    f"{CANARY}\x01",
    f"{CANARY}\x7f",
    f"\u00e9{CANARY}\u2028",
    f"{'9' * 500}{CANARY}",
    f"\n  {CANARY}",
    f"1,\n  {CANARY}",
)


@pytest.mark.parametrize("name", TABLE)
def test_b5_b7_what_is_no_value_of_a_key_is_refused_by_its_place_alone(
    amphora: Amphora, config: str, name: str
) -> None:
    section = locate(name).partition(" ")[0]
    for value in SHAPES:
        before = amphora.agent.config_file.read_bytes()
        status, said = put(amphora, f"{config}\n{section}\n{name} = {value}\n")
        if name == "heartbeat_key":
            assert (status == 400) == any(character in value for character in "\x01\x7f\n"), value
        else:
            assert status == 400, value
        assert CANARY not in said, value
        if status == 400:
            assert f"{locate(name)}: " in said, value
            assert amphora.agent.config_file.read_bytes() == before
    assert CANARY not in amphora.agent.log
    assert CANARY not in amphora.request("GET", "/metrics").body.decode()


def test_b7_no_torn_line_is_in_an_answer_or_the_log(amphora: Amphora, config: str) -> None:
    answers = ""
    for torn in (
        f"heartbeat_key {CANARY}",
        f"heartbeat_key {CANARY}==",
        f"[{CANARY}=",
        f" {CANARY}",
    ):
        answers += put(amphora, f"{torn}\n{config}")[1] + put(amphora, f"{config}\n{torn}\n")[1]
    keyed = with_setting(config, "heartbeat_key", CANARY)
    assert put(amphora, keyed)[0] == 202
    answers += put(amphora, f"{keyed}\n[haproxy_amphora]\nbind_port = {CANARY}")[1]
    assert CANARY not in answers
    assert CANARY not in amphora.agent.log


def test_b7_entries_of_a_file_that_are_no_address_are_ignored_and_not_told(
    own_amphora: Amphora,
) -> None:
    good = own_amphora.agent.config_file.read_text()
    entries = f"{CANARY}, {own_amphora.heartbeats.address}, {CANARY}:5555"
    with stopped(own_amphora) as file:
        file.write_text(with_setting(good, "controller_ip_port_list", entries))
    own_amphora.heartbeats.drain()
    assert own_amphora.heartbeats.next()
    until(lambda: "controller_ip_port_list: entry 1, 3" in own_amphora.agent.log, "it is told")
    assert CANARY not in own_amphora.agent.log
    assert CANARY not in own_amphora.request("GET", "/metrics").body.decode()
    # What is in force may stay, whatever it is.
    assert put(own_amphora, own_amphora.agent.config_file.read_text())[0] == 202


# Starts


@contextmanager
def stopped(amphora: Amphora) -> Iterator[Path]:
    """While the agent is stopped; it is started afterwards."""
    amphora.agent.stop()
    yield amphora.agent.config_file
    amphora.agent.start()


def alarms(amphora: Amphora) -> set[str]:
    """The kinds of the alarms that the metrics have."""
    text = amphora.request("GET", "/metrics").body.decode()
    return set(re.findall(r'amphora_agent_alarm\{[^}]*kind="([^"]+)"', text))


def begin_with_bad_file(amphora: Amphora, good: str) -> None:
    """See that the agent serves, has said so, and is repaired over the API for the next start."""
    assert amphora.heartbeats.next()
    assert "configuration" in alarms(amphora)
    assert "ERROR" in amphora.agent.log
    assert amphora.request("PUT", "/1.0/config", good.encode()).status == 202
    assert "configuration" not in alarms(amphora)
    amphora.agent.restart()
    assert "configuration" not in alarms(amphora)


@pytest.mark.parametrize("torn", [b"", b"\0" * 512, b"[haproxy_amphora]\nbind_po"])
def test_b5_an_agent_with_a_torn_file_starts_with_the_previous_one(
    own_amphora: Amphora, torn: bytes
) -> None:
    good = own_amphora.agent.config_file.read_text()
    own_amphora.api.upload_config(good + "\n# pushed\n")
    with stopped(own_amphora) as file:
        file.write_bytes(torn)
    begin_with_bad_file(own_amphora, good)


def test_b5_an_agent_whose_address_is_gone_starts_with_the_previous_one(
    own_amphora: Amphora,
) -> None:
    good = own_amphora.agent.config_file.read_text()
    with stopped(own_amphora) as file:
        shutil.copy(file, f"{file}.previous")
        file.write_text(with_setting(good, "bind_host", "192.0.2.77"))
    assert "Cannot listen: 192.0.2.77" in own_amphora.agent.log
    begin_with_bad_file(own_amphora, good)


@pytest.mark.parametrize("key", ["agent_server_cert", "agent_server_ca"])
def test_b5_an_agent_whose_pushed_file_has_vanished_starts_with_the_previous_one(
    own_amphora: Amphora, key: str
) -> None:
    agent = own_amphora.agent
    good = agent.config_file.read_text()
    source = agent.pki.server_pem if key == "agent_server_cert" else agent.pki.client_ca
    other = agent.directory / "other.pem"
    write_private(other, source.read_bytes())
    assert push(own_amphora, good, key, other)[0] == 202
    own_amphora.agent.restart()
    assert "configuration" not in alarms(own_amphora)
    with stopped(own_amphora):
        other.unlink()
    assert str(other) in agent.log
    begin_with_bad_file(own_amphora, good)


def test_b5_an_agent_whose_address_is_taken_starts_with_the_previous_one(
    own_amphora: Amphora,
) -> None:
    good = own_amphora.agent.config_file.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with stopped(own_amphora) as file:
            shutil.copy(file, f"{file}.previous")
            port = str(taken.getsockname()[1])
            file.write_text(with_setting(good, "bind_port", port))
        begin_with_bad_file(own_amphora, good)


def test_b5_an_agent_whose_directory_cannot_be_made_starts_with_the_previous_one(
    own_amphora: Amphora,
) -> None:
    good = own_amphora.agent.config_file.read_text()
    blocked = own_amphora.agent.directory / "blocked"
    blocked.write_text("")
    with stopped(own_amphora) as file:
        shutil.copy(file, f"{file}.previous")
        file.write_text(with_setting(good, "base_path", str(blocked / "x")))
    assert f"Cannot make directory: {blocked / 'x'}: Not a directory" in own_amphora.agent.log
    begin_with_bad_file(own_amphora, good)


def test_b7_files_delivered_too_open_are_tightened_at_the_start(own_amphora: Amphora) -> None:
    agent = own_amphora.agent
    own_amphora.api.upload_config(agent.config_file.read_text() + "# the same, in other words\n")
    paths = [agent.config_file, agent.pki.server_pem]
    paths += [path.with_name(f"{path.name}.previous") for path in paths]
    shutil.copy(agent.pki.server_pem, paths[3])
    with stopped(own_amphora):
        for path in paths:
            path.chmod(0o644)
        mode = stat.S_IMODE(agent.directory.stat().st_mode)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 4
    # The directory of everything, which haproxy's user must get through.
    assert stat.S_IMODE(agent.directory.stat().st_mode) == mode


@pytest.mark.parametrize(
    "head",
    [
        "PUT /1.0/config HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345{line}\r\n\r\n",
        "PUT /1.0/config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{line}\r\n\r\n",
        "PUT /1.0/config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345{line}",
        "PUT /1.0/config HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n",
        "PUT /1.0/config HTTP/1.1\r\nHost: x\r\nContent-Length: {line}\r\n\r\n",
        "{line}\r\n\r\n",
    ],
    ids=["too short", "as a chunk", "after a chunk", "as a header", "as a length", "as a request"],
)
def test_b7_a_key_out_of_its_place_is_neither_answered_nor_logged(
    amphora: Amphora, head: str
) -> None:
    """A wrong length makes of a line of the body whatever HTTP expects there."""
    canary = "cAnArY-out-of-place"
    sent = head.format(line=f"heartbeat_key = {canary}").encode()
    with amphora.connect() as connection:
        connection.sendall(sent)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    assert b"HTTP/1.1 400" in said
    assert canary.encode() not in said
    assert canary not in amphora.agent.log


#: What the templates of releases write beside what those of all releases do.
RELEASES = {
    "5 to 8": ("respawn_count = 2\nrespawn_interval = 2\nuse_upstart = True\n",
               "agent_server_network_file = /etc/network/interfaces\n"),
    "9 to 14": ("respawn_count = 2\nrespawn_interval = 2\nuse_upstart = True\n", ""),
    "15 to 19": ("", ""),
}  # fmt: skip


def rendered(amphora: Amphora, release: str, *, key: str) -> str:
    """The file as a release's template has it, of the deployment that the amphora belongs to."""
    agent = amphora.agent
    haproxy, more = RELEASES[release]
    return f"""
[DEFAULT]
debug = False
use_syslog = True
syslog_log_facility = LOG_LOCAL1

[haproxy_amphora]
base_cert_dir = {agent.cert_path}
base_path = {agent.base_path}
bind_host = {agent.address}
bind_port = {agent.port}
haproxy_cmd = /usr/sbin/haproxy
{haproxy}user_log_facility = 0
administrative_log_facility = 1

[health_manager]
controller_ip_port_list = {amphora.heartbeats.address}, 192.0.2.7:5555
heartbeat_interval = 1
heartbeat_key = {key}

[amphora_agent]
agent_server_ca = {agent.pki.client_ca}
agent_server_cert = {agent.pki.server_pem}
agent_server_network_dir = {agent.network_path}
{more}agent_request_read_timeout = 180
amphora_id = {agent.amphora_id}
amphora_udp_driver = keepalived_lvs
agent_tls_protocol = TLSv1.2

[controller_worker]
loadbalancer_topology = SINGLE
"""


@pytest.mark.parametrize("before", RELEASES)
@pytest.mark.parametrize("after", RELEASES)
def test_amphora_configure_of_every_release_passes(
    amphora: Amphora, config: str, before: str, after: str
) -> None:
    for release in (before, after):
        text = rendered(amphora, release, key=f"insecure-{release}")
        assert put(amphora, text) == (202, "")
        assert amphora.agent.config_file.read_text() == text
