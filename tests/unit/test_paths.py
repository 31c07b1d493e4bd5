"""The gate between names in URLs and paths."""

from pathlib import Path
from urllib.parse import unquote

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.paths import Layout, certificate_name, object_id
from amphora_agent.settings.reader import Settings

BASE = Path("/var/lib/octavia")


@pytest.fixture
def layout() -> Layout:
    return Layout.of(
        Settings(amphora_id="a1"),
        run=Path("/run/amphora-agent"),
        namespace="amphora-haproxy",
    )


@pytest.mark.parametrize(
    "text",
    ["0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11", "a", "0", "A_b-C", "x" * 64, "certs2", "Certs"],
)
def test_an_id_is_letters_digits_hyphens_and_underscores(text: str) -> None:
    assert object_id(text) == text


EVIL = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "a\\b",
    "a\0",
    "a\n",
    "\na",
    "a\r",
    " a",
    "a ",
    "-a",
    "_a",
    ".a",
    "a.b",
    "a%2fb",
    "..%2f",
    "x" * 65,
    "é",
    "\u0430",
    "\uff11",
    "a\u2028",
    "a;b",
    "a$b",
    "a'b",
    'a"b',
    "*",
    "~",
    "\ud800",
]


@pytest.mark.parametrize("text", [*EVIL, "certs", "heartbeat", "lvs", "processes", "vrrp"])
def test_no_other_id_passes(text: str) -> None:
    with pytest.raises(InvalidRequest):
        object_id(text)


@pytest.mark.parametrize("escaped", ["%2e%2e", "..%2f..%2fetc", "a%2fb", "a%00", "a%0a", "%2Fetc"])
def test_percent_encoding_does_not_help_an_id_once_decoded(escaped: str) -> None:
    with pytest.raises(InvalidRequest):
        object_id(unquote(escaped))


@pytest.mark.parametrize(
    "text",
    [
        "da39a3ee5e6b4b0d3255bfef95601890afd80709.pem",
        "0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11.pem",
        "a.pem",
        "_a.pem",
        "a..b.pem",
        "x" * 124 + ".pem",
    ],
)
def test_a_certificate_is_a_plain_name_ending_in_pem(text: str) -> None:
    assert certificate_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(f"{name}.pem" for name in EVIL if name not in ("_a", "a.b", "x" * 65)),
        ".pem",
        "a.PEM",
        "a.pem.sh",
        "a.pem\n",
        "a.pem\0",
        "a.pem/",
        "../../etc/passwd",
        "../a.pem",
        "/a.pem",
        "a/b.pem",
        "pem",
        "apem",
        ".stage-1.pem",
        "x" * 125 + ".pem",
    ],
)
def test_no_other_certificate_name_passes(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Filename has wrong format"):
        certificate_name(text)


def test_paths_that_the_controller_s_texts_name_are_honoured(layout: Layout) -> None:
    instance = layout.instance(object_id("lb1"))
    assert instance.configuration == BASE / "lb1/haproxy.cfg"
    assert instance.stats_socket == BASE / "lb1.sock"
    assert instance.state == BASE / "lb1/servers-state"
    assert instance.pid_file == BASE / "lb1/lb1.pid"
    name = certificate_name("x.pem")
    assert layout.certificate(instance.id, name) == BASE / "certs/lb1/x.pem"
    assert layout.namespace == Path("/run/netns/amphora-haproxy")
