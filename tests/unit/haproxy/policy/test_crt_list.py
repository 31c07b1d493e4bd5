"""crt-lists: entries as haproxy reads them, and what may be in one."""

from functools import partial

import pytest

from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.certificate_content import CrtListEntry
from tests.unit.haproxy.policy.test_engine import BOUNDS, CERTIFICATES

A = f"{CERTIFICATES}/a.pem"

LINES = [
    (A, ""),
    (f"  {A}\t", ""),
    (f"{A} [alpn h2 verify none] example.net !x.example.net", ""),
    (f"{A}[alpn h2,http/1.1]*.example.net", ""),
    (f"{A} [ca-file {CERTIFICATES}/ca.pem verify required no-ca-names]", ""),
    (f"{A} [ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.3] * !a", ""),
    (f"{A}\r", ""),
    ("# a comment", ""),
    ("\ufeff# a comment", ""),
    ("", ""),
    ("/etc/octavia/certs/server.pem", "not below"),
    (f"{CERTIFICATES}/../x.pem", "not below"),
    (f'"{A}"', "not below"),
    (f"{CERTIFICATES}/a\\.pem", "not below"),
    ("a.pem", "not below"),
    (f"# x\r{CERTIFICATES}x/a.pem", "not below"),
    (f"{A} [ca-file /etc/shadow]", "not below"),
    (f"{A} [ ca-file /etc/shadow ]", "not below"),
    (f"{A}[ca-file /etc/shadow]", "not below"),
    (f"{A} x [ca-file /etc/shadow]", "after the path"),
    (f"{A} [crt /etc/shadow]", "not know"),
    (f"{A} [key {CERTIFICATES}/b.pem]", "not know"),
    (f"{A} [ocsp-update on]", "not know"),
    (f"{A} [namespace x]", "not know"),
    (f"{A} [verify required]", "ca-file"),
    (f"{A} [verify perhaps]", "not allowed"),
    (f"{A} [alpn]", "not allowed"),
    (f"{A} [alpn {'h' * 300}]", "not allowed"),
    (f"{A} [alpn h2 alpn h2]", "twice"),
    (f"{A} [ciphers nonsense]", "not allowed"),
    (f"{A} [ssl-max-ver TLSv1.0]", "not allowed"),
    (f"{A} [alpn h2", "brackets"),
    (f"{A} [alpn h2] [alpn h2]", "brackets"),
    (f"{A} # no comment", "server"),
    (f"{A} a/b", "server"),
    (f"{A} {'x ' * 2000}", "too long"),
    (f"{A} {'x' * 40000}", "too long"),
    ("[alpn h2]", "after the path"),
    (f"{A}\u2028/../../x.pem", "other characters"),
]


@pytest.mark.parametrize(("line", "why"), LINES)
def test_lists_of_certificates(line: str, why: str) -> None:
    listed = f"{CERTIFICATES}/first.pem\n{line}\n".encode()
    found = certificate_content.find_entry_violations(
        listed, partial(certificate_content.check_entry, bounds=BOUNDS)
    )
    assert len(found) == bool(why)
    for number, reason in found:
        assert number in (2, 3)  # of a carriage return, too, a line ends
        assert why in reason


def test_b4_a_comment_that_looks_like_pem_makes_no_pem() -> None:
    listed = b"# -----BEGIN CERTIFICATE-----\n/etc/octavia/certs/server.pem\n"
    with pytest.raises(certificate_content.UnusableFile, match=r"line 2: .* not below"):
        certificate_content.parse_file(
            listed, partial(certificate_content.check_entry, bounds=BOUNDS)
        )


def test_reasons_repeat_nothing_that_may_be_a_part_of_a_key() -> None:
    secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"
    for listed in (f"{secret}\n/{secret}\n", f"{secret} {secret}", f"{A} [{secret}]"):
        found = certificate_content.find_entry_violations(
            listed.encode(), partial(certificate_content.check_entry, bounds=BOUNDS)
        )
        assert found
        assert f"/{secret}" not in str(found)
        assert secret not in str(found) or "[" in listed


def test_an_entry_is_written_as_it_is_read() -> None:
    entry = CrtListEntry(A, ("alpn", "h2"), ("*.a", "!b.a"))
    assert entry.text == f"{A} [alpn h2] *.a !b.a\n"
    assert certificate_content.read_entries(entry.text.encode()) == (entry,)
    assert CrtListEntry(A).text == f"{A}\n"
