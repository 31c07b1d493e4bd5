"""Whatever goes wrong with a command is one line and an exit status."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.agent import agent_executable, free_port
from lab.pki import Authority
from tests.integration.amphora import Amphora, LoadBalancer, differences, with_setting

Done = subprocess.CompletedProcess[str]


def call(*words: str, before: tuple[str, ...] = (), **environment: str) -> Done:
    return subprocess.run(
        [*before, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
    )


def refused(done: Done, words: str) -> str:
    """What it said: one line on standard error and nothing else."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line
    return line


def status(amphora: Amphora, **changed: str) -> Done:
    agent = amphora.agent
    options = {
        "url": agent.url,
        "amphora-id": agent.amphora_id,
        "cert": str(agent.pki.controller_pem),
        "ca": str(agent.pki.server_ca),
    }
    given = [f"--{name}={value}" for name, value in (options | changed).items()]
    return call(*agent_executable(), "status", *given)


# On the amphora

LOCAL = [
    ("history",),
    ("history", "lb"),
    ("rollback", "lb"),
    ("network", "plan"),
    ("network", "up"),
    ("network", "lease", "02:00:00:00:00:01", "bound"),
]
#: Another user, who can read what root can: the files do not refuse.
NOBODY = ("setpriv", "--reuid=65534", "--inh-caps=+dac_read_search")


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_op6_who_is_not_root_is_told_so(amphora: Amphora, words: tuple[str, ...]) -> None:
    before = (*NOBODY, "--ambient-caps=+dac_read_search")
    done = call(*amphora.agent.command(), *words, before=before)
    refused(done, "only root may; run it with sudo")


@pytest.mark.parametrize("words", [*LOCAL, ("run",)], ids=" ".join)
@pytest.mark.parametrize("kind", ["missing", "a directory", "no INI", "no text"])
def test_op9_a_configuration_that_cannot_be_used_is_named(
    tmp_path: Path, words: tuple[str, ...], kind: str
) -> None:
    config = tmp_path / "agent.conf"
    match kind:
        case "a directory":
            config.mkdir()
        case "no INI":
            config.write_text("nonsense")
        case "no text":
            config.write_bytes(b"\xff\xfe")
    done = call(*agent_executable(), "--config-file", str(config), *words)
    refused(done, str(config))


@pytest.mark.parametrize("path", ["/proc/octavia", "/dev/null/octavia", "/sys/octavia"])
def test_op9_a_base_path_that_cannot_be_made_is_named(
    amphora: Amphora, tmp_path: Path, path: str
) -> None:
    text = amphora.agent.config_file.read_text()
    config = tmp_path / "agent.conf"
    free = with_setting(text, "bind_port", str(free_port()))
    config.write_text(free.replace(str(amphora.agent.base_path), path))
    done = call(
        *(*agent_executable(), "--config-file", str(config), "--run-dir", str(tmp_path / "run"))
    )
    refused(done, path)


def test_op6_a_disk_that_is_full_is_said(amphora: Amphora, balancer: LoadBalancer) -> None:
    balancer.push()
    generation = amphora.api.instance(balancer.id)["generation"]
    limited = ("prlimit", "--fsize=0")  # no byte is written, as on a full disk
    done = call(*amphora.agent.command(), "rollback", balancer.id, before=limited)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert amphora.api.instance(balancer.id)["generation"] == generation


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("history",)], ids=" ".join)
def test_op6_an_output_that_cannot_be_written_is_a_failure(
    amphora: Amphora, words: tuple[str, ...], balancer: LoadBalancer
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*amphora.agent.command(), *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert done.returncode == 1
    assert done.stderr == "amphora-agent: cannot write the output: No space left on device\n"


def test_op13_a_plan_without_steps_says_so(amphora: Amphora) -> None:
    command = amphora.agent.command()
    assert call(*command, "network", "up").returncode == 0
    done = call(*command, "network", "plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing to do: the network is as it was plugged\n"


# From elsewhere


def test_op12_an_agent_that_is_down_is_said(amphora: Amphora) -> None:
    line = refused(status(amphora, url="https://127.0.0.1:1"), "nobody listens there")
    assert "retries" not in line


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"url": "http://127.0.0.1:9443"}, "is not like https://"),
        ({"url": "127.0.0.1"}, "is not like https://"),
        ({"url": "https://"}, "is not like https://"),
        ({"url": "https://[::1"}, "is not like https://"),
        ({"url": "https://127.0.0.1:99999"}, "is not like https://"),
        ({"url": "https://no.such.host.invalid"}, "does not resolve"),
        ({"amphora-id": "another"}, "it is not amphora another"),
        ({"cert": "/nonexistent"}, "--cert /nonexistent: No such file or directory"),
        ({"ca": "/"}, "--ca /: Is a directory"),
        ({"ca": "/etc/hostname"}, "it is no PEM with certificates"),
        ({"cert": "/etc/hostname"}, "it is no PEM with a certificate with its key"),
    ],
)
def test_op12_options_that_lead_nowhere_are_said(
    amphora: Amphora, changed: dict[str, str], words: str
) -> None:
    line = refused(status(amphora, **changed), words)
    assert "urllib3" not in line
    assert "Max retries" not in line


def test_op12_a_certificate_of_others_is_said(amphora: Amphora, tmp_path: Path) -> None:
    other = Authority.create("another", key="ec")
    (tmp_path / "ca.pem").write_bytes(other.certificate)
    (tmp_path / "cert.pem").write_bytes(other.issue("stranger", key="ec").pem)
    refused(status(amphora, ca=str(tmp_path / "ca.pem")), "its certificate is not trusted")
    refused(status(amphora, cert=str(tmp_path / "cert.pem")), "--cert")


@contextmanager
def server(answer: bytes, tls: Path | None = None) -> Iterator[str]:
    """Says this to whoever connects, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                try:
                    if tls is not None:
                        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                        context.load_cert_chain(tls)
                        accepted = context.wrap_socket(accepted, server_side=True)
                    accepted.recv(4096)
                    accepted.sendall(answer)
                except OSError:
                    pass
                finally:
                    accepted.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "speaks_tls", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "does not speak TLS"),
        (b"", False, "closed"),
        (b"", True, "closed"),
        (b"nonsense\r\n\r\n", True, "no answer of an agent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", True, "no answer of an agent"),
    ],
)
def test_op12_what_is_no_agent_is_said(
    amphora: Amphora, answer: bytes, speaks_tls: bool, words: str
) -> None:
    with server(answer, amphora.agent.pki.server_pem if speaks_tls else None) as url:
        refused(status(amphora, url=url), words)


def test_op13_a_dry_run_of_a_start_does_not_say_that_it_was_started(amphora: Amphora) -> None:
    before = amphora.files()
    body = (
        '{"loadbalancer_id": "dry", "vip_address": "192.0.2.10", "listeners": [{"listener_id": "l",'
        ' "protocol": "HTTP", "protocol_port": 12345}]}'
    )
    agent = amphora.agent
    options = (
        *("--url", agent.url, "--amphora-id", agent.amphora_id),
        *("--cert", str(agent.pki.controller_pem), "--ca", str(agent.pki.server_ca)),
    )
    done = subprocess.run(
        [*agent_executable(), "push", "-", "--dry-run", *options],
        input=body,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "would be done: by a start" in done.stdout
    assert "started" not in done.stdout
    changed = differences(before, amphora.files())
    assert [name for name in changed if not name.startswith("run/")] == []
