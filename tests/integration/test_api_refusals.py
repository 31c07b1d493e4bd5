"""Requests that are wrong: a status that the controller understands, JSON that says why, and
nothing changed on disk or for traffic."""

from typing import Any

import pytest

from tests.integration.amphora import (
    ERRORS_UNDERSTOOD,
    Amphora,
    Answer,
    read_answer,
    request_bytes,
)

ID = "0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11"


pytestmark = pytest.mark.usefixtures("nothing_changes")


def refused(answer: Answer) -> Any:
    """The JSON of an answer that the controller takes for a refusal."""
    assert answer.status in ERRORS_UNDERSTOOD
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    if "error" in said:
        assert said["http_code"] == answer.status
        assert said["error"]
    else:
        assert said.keys() == {"message", "details"}
        assert said["message"]
    return said


UNKNOWN = [
    ("GET", "/1.0"),
    ("GET", "/1.0/"),
    ("GET", "/3.0/info"),
    ("GET", "/0.6/info"),
    ("GET", "/1.0/nonsense"),
    ("GET", "/1.0//info"),
    ("GET", "/1.0/info/more"),
    ("GET", "/1.0/loadbalancer"),
    ("GET", f"/1.0/loadbalancer/{ID}"),
    ("PUT", f"/1.0/loadbalancer/{ID}/more/haproxy/more"),
    ("GET", "/etc/passwd"),
    ("GET", "/../../etc/passwd"),
    ("GET", "/static/x"),
    ("GET", "/%00"),
    ("GET", "/%ff%fe"),
]


@pytest.mark.parametrize(("method", "target"), UNKNOWN, ids=[f"{m} {t}" for m, t in UNKNOWN])
def test_an_unknown_route_is_not_found(amphora: Amphora, method: str, target: str) -> None:
    answer = amphora.request(method, target)
    assert answer.status == 404
    assert refused(answer)["http_code"] == 404


WRONG_METHODS = [
    ("POST", "/1.0/info", {"GET", "HEAD", "OPTIONS"}),
    ("DELETE", "/", {"GET", "HEAD", "OPTIONS"}),
    ("PATCH", "/1.0/details", {"GET", "HEAD", "OPTIONS"}),
    ("GET", "/1.0/certificate", {"PUT", "OPTIONS"}),
    ("POST", "/1.0/config", {"PUT", "OPTIONS"}),
    ("GET", f"/1.0/loadbalancer/{ID}/reload", {"PUT", "OPTIONS"}),
    ("POST", f"/1.0/loadbalancer/{ID}/certificates/x.pem", {"GET", "PUT", "DELETE", "HEAD"}),
    ("GET", f"/1.0/listeners/{ID}", {"DELETE", "OPTIONS"}),
    ("PUT", "/1.0/plug/network", {"POST", "OPTIONS"}),
    ("GET", "/1.0/plug/vip/192.0.2.1", {"POST", "OPTIONS"}),
    ("BREW", "/1.0/info", {"GET", "HEAD", "OPTIONS"}),
]


@pytest.mark.parametrize(
    ("method", "target", "allowed"), WRONG_METHODS, ids=[f"{m} {t}" for m, t, _ in WRONG_METHODS]
)
def test_a_wrong_method_is_not_allowed(
    amphora: Amphora, method: str, target: str, allowed: set[str]
) -> None:
    answer = amphora.request(method, target)
    assert answer.status == 405
    assert refused(answer)["http_code"] == 405
    assert allowed <= set(answer.headers["allow"].replace(" ", "").split(","))


EVIL_IDS = ["..", ".", "%2e%2e", "%2E.", "...", "-x", "certs", "processes", "%00", "a%0a", "%ff"]


@pytest.mark.parametrize("evil", EVIL_IDS)
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/1.0/loadbalancer/" + ID + "/{}/haproxy"),
        ("PUT", "/1.0/loadbalancer/{}/" + ID + "/haproxy"),
        ("GET", "/1.0/loadbalancer/{}/haproxy"),
        ("PUT", "/1.0/loadbalancer/{}/start"),
        ("PUT", "/1.0/loadbalancer/{}/stop"),
        ("PUT", "/1.0/loadbalancer/{}/reload"),
        ("DELETE", "/1.0/listeners/{}"),
        ("PUT", "/1.0/loadbalancer/{}/certificates/x.pem"),
        ("GET", "/1.0/loadbalancer/{}/certificates/x.pem"),
        ("DELETE", "/1.0/loadbalancer/{}/certificates/x.pem"),
    ],
)
def test_what_is_no_id_is_refused_and_named(
    amphora: Amphora, method: str, target: str, evil: str
) -> None:
    answer = amphora.request(method, target.format(evil), b"global\n")
    assert answer.status == 400
    assert "is not an id" in refused(answer)["details"]


PLUGS = ["/1.0/plug/vip/192.0.2.5", "/1.0/plug/network"]
NOT_JSON = {
    "empty": b"",
    "cut off": b'{"mac_address": "fa:16:3e:00:0',
    "words": b"mac_address=fa:16:3e:00:00:01",
    "not UTF-8": b'{"mac_address": "\xff\xfe"}',
    "NULs": b"\0" * 10,
    "two values": b"{} {}",
    "deep": b"[" * 100_000,
    "infinite": b'{"mtu": Infinity}',
}
WRONG_JSON = {
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "nothing in it": b"{}",
    "no MAC": b'{"mac_address": "eth0"}',
    "MAC of another type": b'{"mac_address": 1}',
    "MAC with more": b'{"mac_address": "fa:16:3e:00:00:01\\n"}',
}


@pytest.mark.parametrize("target", PLUGS)
@pytest.mark.parametrize("name", [*NOT_JSON, *WRONG_JSON])
def test_a_plug_that_is_no_right_json_is_refused(amphora: Amphora, target: str, name: str) -> None:
    answer = amphora.request("POST", target, {**NOT_JSON, **WRONG_JSON}[name])
    assert answer.status == 400
    assert refused(answer)["message"] == "Invalid request"


@pytest.mark.parametrize("address", ["nonsense", "192.0.2.256", "192.0.2.1%2f24", "%00", "eth0"])
def test_what_is_no_address_is_refused(amphora: Amphora, address: str) -> None:
    answer = amphora.request("GET", f"/1.0/interface/{address}")
    assert answer.status in (400, 404)
    refused(answer)


def test_an_address_that_nobody_has_is_not_found(amphora: Amphora) -> None:
    answer = amphora.request("GET", "/1.0/interface/192.0.2.77")
    assert answer.status == 404
    assert refused(answer)["message"] == "Error interface not found for IP address"


LIMITS = {
    "a configuration": ("PUT", f"/1.0/loadbalancer/{ID}/{ID}/haproxy", 32 << 20),
    "a certificate": ("PUT", f"/1.0/loadbalancer/{ID}/certificates/x.pem", 4 << 20),
    "the agent's certificate": ("PUT", "/1.0/certificate", 4 << 20),
    "the agent's configuration": ("PUT", "/1.0/config", 1 << 20),
    "a VIP": ("POST", PLUGS[0], 1 << 20),
    "a network": ("POST", PLUGS[1], 1 << 20),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(
    amphora: Amphora, kind: str
) -> None:
    method, target, most = LIMITS[kind]
    # Not a byte of it is sent, and yet there is an answer.
    answer = amphora.request(method, target, headers={"Content-Length": str(most + 1)})
    assert answer.status == 400
    assert f"the body may have {most} bytes" in refused(answer)["details"]


@pytest.mark.parametrize("kind", LIMITS)
def test_a_body_that_turns_out_too_large_is_refused(amphora: Amphora, kind: str) -> None:
    method, target, most = LIMITS[kind]
    head = f"{method} {target} HTTP/1.1\r\nHost: amphora\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (most + 1, b"#" * (most + 1))
    answer = amphora.send(data)
    assert answer.status == 400
    assert f"the body may have {most} bytes" in refused(answer)["details"]


def with_header(*lines: str, target: str = "/1.0/config") -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    return f"PUT {target} HTTP/1.1\r\nHost: amphora\r\n{head}\r\n".encode("latin-1")


def get(line: str, *lines: str) -> bytes:
    return "\r\n".join([line, "Host: amphora", *lines, "", ""]).encode("latin-1")


NOT_HTTP = {
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a blank": b" \r\n\r\n",
    "NULs": b"\0\0\0\0\r\n\r\n",
    "a target of its own kind": get("GET * HTTP/1.1"),
    "one word": b"GET\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "HTTP/9.9": get("GET / HTTP/9.9"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case version": get("GET / http/1.1"),
    "spaces in the target": get("GET /1.0/ info HTTP/1.1"),
    "a method with signs": get("G@T / HTTP/1.1"),
    "a header without a colon": get("GET / HTTP/1.1", "nonsense"),
    "a space before the colon": get("GET / HTTP/1.1", "X-A : 1"),
    "a header without a name": get("GET / HTTP/1.1", ": 1"),
    "a folded header": get("GET / HTTP/1.1", "X-A: 1", " 2"),
    "a NUL in a header": get("GET / HTTP/1.1", "X-A: a\0b"),
    "a bare line feed in a header": get("GET / HTTP/1.1", "X-A: a\rb"),
    "a long request line": get(f"GET /{'a' * 5000} HTTP/1.1"),
    "a long header": get("GET / HTTP/1.1", f"X-A: {'a' * 9000}"),
    "many headers": get("GET / HTTP/1.1", *(f"X-{number}: a" for number in range(200))),
    "a header too large": get("GET / HTTP/1.1", *(f"X-{n}: {'a' * 1000}" for n in range(90))),
    "an expectation": with_header("Content-Length: 5", "Expect: miracles"),
    "length -1": with_header("Content-Length: -1"),
    "length +5": with_header("Content-Length: +5"),
    "length 0x5": with_header("Content-Length: 0x5"),
    "length 1e3": with_header("Content-Length: 1e3"),
    "length in words": with_header("Content-Length: five"),
    "length in other digits": with_header("Content-Length: \xb2"),
    "length 5, 5": with_header("Content-Length: 5, 5"),
    "length of nothing": with_header("Content-Length:"),
    "two lengths": with_header("Content-Length: 5", "Content-Length: 6"),
    "a huge length": with_header(f"Content-Length: {10**30}"),
    "length and chunked": with_header("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunked twice": with_header("Transfer-Encoding: chunked, chunked"),
    "an unknown encoding": with_header("Transfer-Encoding: zstd"),
    "chunked, but not last": with_header("Transfer-Encoding: chunked, gzip"),
    "a chunk of no size": with_header("Transfer-Encoding: chunked") + b"\r\nabc\r\n",
    "a chunk of a strange size": with_header("Transfer-Encoding: chunked") + b"zz\r\nabc\r\n",
    "a chunk of a negative size": with_header("Transfer-Encoding: chunked") + b"-5\r\nabc\r\n",
    "a chunk with more in it": with_header("Transfer-Encoding: chunked") + b"1\r\nabc\r\n0\r\n\r\n",
    "no body": with_header(),
    "an empty body": with_header("Content-Length: 0"),
    "an empty chunked body": with_header("Transfer-Encoding: chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_no_right_http_is_refused(amphora: Amphora, name: str) -> None:
    answer = amphora.send(NOT_HTTP[name])
    assert answer.status == 400
    refused(answer)


def test_a_wrong_request_does_not_spoil_the_next_on_another_connection(amphora: Amphora) -> None:
    with amphora.connect() as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert amphora.send(NOT_HTTP["binary"]).status == 400
        assert amphora.request("GET", "/1.0/info").status == 200


def test_a_refusal_with_its_body_taken_keeps_the_connection(amphora: Amphora) -> None:

    with amphora.connect() as connection:
        for _ in range(3):
            connection.sendall(request_bytes("PUT", "/1.0/nonsense", b"x" * 1000))
            assert read_answer(connection).status == 404
            connection.sendall(request_bytes("PUT", "/1.0/config", b"nonsense"))
            assert read_answer(connection).status == 400


CONFIGS = {
    "not INI": b"nonsense",
    "not text": b"\xff\xfe",
    "no amphora id": b"[DEFAULT]\n",
    "a wrong port": b"[amphora_agent]\namphora_id = a\n[haproxy_amphora]\nbind_port = x\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_agent_configuration_that_cannot_be_used_is_refused_with_octavia_s_sentence(
    amphora: Amphora, name: str
) -> None:
    answer = amphora.request("PUT", "/1.0/config", CONFIGS[name])
    assert answer.status == 400
    said = refused(answer)
    assert said["message"] == "Unable to update amphora-agent configuration."
    assert str(amphora.agent.config_file) in said["details"]
