"""Every route of a real agent, over TLS, with targets, headers and bodies that nobody should send.

Whatever comes, the answer is one that the controller understands, nothing is written outside the
places of the agent, and the log has neither a traceback nor a secret.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.api.app import create_app
from amphora_agent.api.services import Services
from lab.processes import Process
from tests.integration.amphora import (
    ERRORS_UNDERSTOOD,
    Amphora,
    Answer,
    read_answer,
    request_bytes,
)

#: What must not be found where it does not belong: in paths, and in keys.
MARK = "fuzzed-mark"
SECRET = "c2VjcmV0LWtleS1vZi10aGUtZnV6eg"

LB = "6ab01d0e-36bb-4f8d-9f6a-6a5e8b5f0f10"

_PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n".encode()


@pytest.fixture(scope="module")
def agents(amphora: Amphora) -> dict[str, Process]:
    """The agent's processes as they began."""
    return amphora.agents()


@pytest.fixture(scope="module")
def connection(amphora: Amphora) -> Iterator[Connection]:
    with contextlib.closing(Connection(amphora)) as made:
        yield made


class Connection:
    """To the agent; another one when that has ended."""

    def __init__(self, amphora: Amphora) -> None:
        self._amphora = amphora
        self._socket: ssl.SSLSocket | None = None

    def ask(self, method: str, request: bytes) -> Answer:
        for is_last in (self._socket is None, True):
            if self._socket is None:
                self._socket = self._amphora.connect()
            try:
                self._socket.sendall(request)
                answer = read_answer(self._socket, method)
            except (OSError, http.client.HTTPException):
                self.close()
                if is_last:
                    raise
                continue  # it had been ended after an earlier request
            if answer.headers.get("connection", "").lower() == "close":
                self.close()
            return answer
        raise AssertionError

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _rules() -> list[tuple[str, tuple[str, ...]]]:
    """Every route, and its methods."""
    # Only its routes are looked at: what they would call is not needed.
    nothing: Any = [None] * len(dataclasses.fields(Services))
    app = create_app(Services(*nothing))
    return [(rule.rule, tuple(sorted(rule.methods or ()))) for rule in app.url_map.iter_rules()]


RULES = _rules()

_bytes_of_paths = st.binary(min_size=1, max_size=12).map(quote)
_texts_of_paths = st.text(min_size=1, max_size=12).map(lambda text: quote(text, safe=""))

_likely = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        ["x", LB, "..", "%2e%2e", "..%2f", "%2f", "a%0a", "-", ".", "%00", "%20", MARK]
    ),
    st.sampled_from(["", "", ".pem", ".pem", f"%2f{MARK}.pem", f"/{MARK}.pem"]),
    st.sampled_from(["", "", ".sh", "%0a", "%00", "%0d", "%20", "~", "%2f..", "/..", "\xe9", ";"]),
)
_strange = st.one_of(
    st.sampled_from(
        [
            *(LB, "x.pem", "192.0.2.1", "fd00::1", "start", "stop", "reload", "haproxy"),
            *("..", ".", "...", "%2e%2e", "%2e%2e%2f", f"..%2f{MARK}", f"..%2f..%2f{MARK}.pem"),
            *(f"..%5c{MARK}", f"%2f{MARK}", f"%252e%252e%252f{MARK}", f"%c0%ae%c0%ae%2f{MARK}"),
            *(f"{MARK}.pem.sh", f"{MARK}.pem%0a", f"{MARK}.pem%00", f"{MARK}.pem%0d%0a", "%00"),
            *(f"$(touch%20{MARK})", f"`touch%20{MARK}`", f";touch%20{MARK}", f"|touch%20{MARK}"),
            *(
                "%",
                "%zz",
                "%2",
                "%u0041",
                "%e2%80%a8",
                "%c2%85",
                "-rf",
                "--",
                "*",
                "~",
                "{0}",
                "%s",
            ),
            *(
                "certs",
                "processes",
                "vrrp",
                "lvs",
                "dhcp",
                "heartbeat",
                ".stage-1-1",
                "con",
                "null",
            ),
            *(
                "a" * 64,
                "a" * 65,
                "a" * 3000,
                "0",
                "-1",
                "1e9",
                "\\",
                "'",
                '"',
                "&",
                "=",
                "?",
                "//",
            ),
        ]
    ),
    _bytes_of_paths,
    _texts_of_paths,
)

SEGMENTS = st.one_of(_likely, _likely, _strange)

QUERIES = st.one_of(
    st.just(""),
    st.sampled_from(["?", "?limit=1", "?limit=-1", "?limit=99999999999", "?limit=x", "?a=b&a=c"]),
    st.builds("?limit={}".format, _texts_of_paths),
    _bytes_of_paths.map("?".__add__),
)

HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Accept", "Accept-Encoding", "Authorization", "Content-Type", "Cookie", "Expect"),
            *("Forwarded", "Host", "If-Match", "If-None-Match", "Origin", "Range", "TE", "Upgrade"),
            *("X-Forwarded-For", "X-HTTP-Method-Override", "X-Original-URL", "SSL_CLIENT_CERT"),
        ]
    ),
    st.one_of(
        st.sampled_from(["", "*", "application/json", "text/plain; charset=\xff", "100-continue"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")),
    ),
    max_size=3,
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
#: Never a right MAC: for a card with that the agent would wait.
_addresses = st.sampled_from(["192.0.2.7", "fd00::7", "192.0.2.0/24", "", "::/0", f"\n{MARK}"])
_plugs = st.fixed_dictionaries(
    {},
    optional={
        "mac_address": st.sampled_from(["fa:16:3e", "fa:16:3e:00:00:0g", f"eth0;touch {MARK}", 5]),
        "subnet_cidr": _addresses,
        "gateway": _addresses,
        "vrrp_ip": _addresses,
        "mtu": st.integers() | st.text(max_size=3),
        "host_routes": _json,
        "additional_vips": _json,
        "fixed_ips": _json,
        "is_sriov": _json,
    },
)
_words = st.sampled_from(
    [
        *("global", "defaults", "frontend f", "backend b", "listen l", "peers p", "ring r"),
        *("user root", "daemon", f"lua-load /tmp/{MARK}.lua", "external-check", "setenv A B"),
        *("server s 127.0.0.1:1", "bind 127.0.0.1:0", "mode http", "log stdout", ".if 1", ".endif"),
        *(f"stats socket /tmp/{MARK}.sock level admin", f"stats socket ../{MARK}", "program p"),
        *(f"command touch /tmp/{MARK}", "[DEFAULT]", "[amphora_agent]", "amphora_id = a", "vrrp"),
        *("vrrp_instance a {", "virtual_server 1.2.3.4 5 {", "}", "real_server 1.2.3.4 5 {"),
        *(f"script '/usr/bin/touch /tmp/{MARK}'", f'notify "/tmp/{MARK}"', "net_namespace x"),
    ]
)
_texts = st.lists(_words | st.text(max_size=20), max_size=12).map(
    lambda lines: "\n    ".join(lines).encode(errors="replace")
)
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=200),
    _json.map(lambda value: json.dumps(value).encode()),
    _plugs.map(lambda value: json.dumps(value).encode()),
    st.lists(_plugs, max_size=3).map(lambda value: json.dumps(value).encode()),
    _texts,
)

#: Where certificates go, keys do.
SECRETS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=20).map(_PEM.__add__),
    st.binary(max_size=20).map(lambda data: data + _PEM),
)

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW")


#: What an argument of a route should be, and what it must look like where it is accepted.
_RIGHT = {"filename": "x.pem", "address": "192.0.2.1", "vip": "192.0.2.1", "action": "reload"}
_HARMLESS = {
    "filename": r"\w[\w.-]*\.pem",
    "address": r"[0-9a-fA-F.:]+",
    "vip": r"[0-9a-fA-F.:]+",
    "action": "start|stop|reload",
}
_HARMLESS_ID = r"[0-9A-Za-z][\w-]*"


class Request(NamedTuple):
    method: str
    target: str
    body: bytes
    headers: dict[str, str]
    arguments: dict[str, str]
    """As they are in the target."""
    is_whole: bool
    """Nothing was put between the parts of its route."""


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Mostly with one thing that is wrong, so that what is behind it is reached."""
    rule, methods = draw(st.sampled_from(RULES))
    names = re.findall(r"<(?:\w+:)?(\w+)>", rule)
    wrong = draw(st.sampled_from([*names, *names, "all", "none"]))
    arguments = {
        name: draw(SEGMENTS) if wrong in (name, "all") else _RIGHT.get(name, LB) for name in names
    }
    target = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: arguments[found[1]], rule)
    is_whole = draw(st.integers(0, 9)) > 0
    if not is_whole:
        parts = target.split("/")
        parts.insert(draw(st.integers(1, len(parts))), draw(SEGMENTS))
        target = "/".join(parts)
    if draw(st.integers(0, 5)) == 0:
        target += draw(QUERIES)
    own = [method for method in methods if method not in ("HEAD", "OPTIONS")]
    method = draw(st.sampled_from(METHODS if draw(st.integers(0, 9)) == 0 else own))
    body = draw(SECRETS if "certificate" in rule else BODIES)
    return Request(method, target, body, draw(HEADERS), arguments, is_whole)


@given(request=requests())
def test_every_route_answers_as_the_controller_understands(
    connection: Connection, agents: dict[str, Process], request: Request
) -> None:
    method, target, body, headers, arguments, is_whole = request
    answer = connection.ask(method, request_bytes(method, target, body, headers))
    _check(answer, method)
    if is_whole and answer.status < 300 and method in ("GET", "PUT", "POST"):
        # DELETE is answered the same for what cannot be there.
        for name, segment in arguments.items():
            shape = _HARMLESS.get(name, _HARMLESS_ID)
            named = unquote(segment.partition("?")[0])
            # Without a name it is another route: a list.
            assert not named or re.fullmatch(shape, named, re.ASCII)


@given(data=st.binary(max_size=300), first=st.sampled_from([b"", b"GET ", b"PUT /1.0/", b"\r\n"]))
def test_what_is_no_request_at_all_is_refused(
    amphora: Amphora, agents: dict[str, Process], data: bytes, first: bytes
) -> None:
    try:
        answer = amphora.send_all(first + data)
    except (http.client.HTTPException, ConnectionError):
        return  # hung up without a word, as one may on what has no end of line
    _check(answer, "GET")


@given(
    lines=st.lists(
        st.sampled_from(
            [
                *("Content-Length: 3", "Content-Length: 4", "Content-Length: 99999999999999999999"),
                *("Content-Length: 0x3", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip"),
                *("Transfer-Encoding: chunked, chunked", "Expect: 100-continue", "Connection: x"),
                *(" folded", "No colon", "Upgrade: h2c", "Host: other", "X-A: \0", "X-A: \xff"),
            ]
        ),
        max_size=5,
    ),
    body=st.binary(max_size=30)
    | st.lists(
        st.sampled_from([b"3\r\n", b"abc\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n"]),
        max_size=6,
    ).map(b"".join),
    rule=st.sampled_from(RULES),
    method=st.sampled_from(METHODS),
)
def test_no_framing_of_a_body_confuses_it(
    amphora: Amphora,
    agents: dict[str, Process],
    lines: list[str],
    body: bytes,
    rule: tuple[str, tuple[str, ...]],
    method: str,
) -> None:
    target = re.sub(r"<[^>]+>", LB, rule[0])
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: amphora", *lines, "", ""])
    try:
        answer = amphora.send_all(head.encode("latin-1") + body)
    except (http.client.HTTPException, ConnectionError):
        return
    if answer.status != 100:
        _check(answer, method)


# After all that. These are the last tests of the module.


def test_the_agent_is_still_the_same(amphora: Amphora, agents: dict[str, Process]) -> None:
    assert amphora.agents() == agents
    assert amphora.api.info()


def test_nothing_was_written_where_it_does_not_belong(
    amphora: Amphora, agents: dict[str, Process]
) -> None:
    agent = amphora.agent
    for place in (
        Path("/"),
        Path("/tmp"),
        Path("/etc"),
        Path("/root"),
        Path.cwd(),
        agent.directory,
    ):
        assert not [path for path in place.iterdir() if MARK in path.name]
    known = {"octavia", "run", "interfaces", "pki", agent.config_file.name, agent.log_file.name}
    assert {path.name for path in agent.directory.iterdir()} <= known
    for path in agent.cert_path.rglob("*"):
        assert path.is_dir() or re.fullmatch(r"\w[\w.-]*\.pem", path.name, re.ASCII), path
    for path in agent.base_path.iterdir():
        assert re.fullmatch(r"[\w-]+(\.sock|\.sh)?", path.name, re.ASCII), path


def test_the_log_has_no_traceback_and_no_secret(
    amphora: Amphora, agents: dict[str, Process]
) -> None:
    log = amphora.agent.log
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    assert SECRET not in log


def _check(answer: Answer, method: str) -> None:
    if 200 <= answer.status < 300:
        return
    assert answer.status in ERRORS_UNDERSTOOD, answer
    if method == "HEAD":
        return
    said = answer.json()
    if answer.headers["content-type"] == "application/problem+json":
        assert said["status"] == answer.status
        assert "defect" not in said["detail"], said
        return
    assert answer.headers["content-type"] == "application/json"
    assert said.get("error") != "Internal Server Error", said
    assert said.keys() in ({"error", "http_code"}, {"message", "details"})
    assert said.get("http_code", answer.status) == answer.status
