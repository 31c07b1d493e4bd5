"""What is done to texts that haproxy would refuse, and that it can be undone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy import mend, text

OLD = b"""\
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:9101
    mode http
    option http-use-htx
    http-request use-service prometheus-exporter if { path /metrics }
"""


def test_a_statement_that_haproxy_gave_up_is_out_of_its_sight() -> None:
    mended = mend.configuration(OLD)

    (section,) = text.parse(mended.content.decode()).sections
    assert [directive.words[0] for directive in section.directives] == [
        "bind",
        "mode",
        "http-request",
    ]


def test_what_was_left_out_is_told_by_its_line() -> None:
    assert mend.configuration(OLD).changes == ("line 4 left out: 'option http-use-htx'",)


def test_other_lines_keep_their_numbers() -> None:
    before, after = OLD.split(b"\n"), mend.configuration(OLD).content.split(b"\n")
    assert len(before) == len(after)
    assert [number for number, pair in enumerate(zip(before, after, strict=True), 1)
            if pair[0] != pair[1]] == [4]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b"option http-use-htx",
        b"\toption  http-use-htx\r",
        b'  option "http-use-htx" # for Prometheus',
        b"no option http-use-htx",
        b"    group None",
    ],
)
def test_it_is_found_however_it_is_written(line: bytes) -> None:
    sent = b"defaults\n" + line + b"\n"
    mended = mend.configuration(sent)
    assert len(mended.changes) == 1
    assert mend.configuration_as_sent(mended.content) == sent


@pytest.mark.parametrize(
    "line",
    [
        b"# option http-use-htx",
        b"http-request set-header http-use-htx yes",
        b"option http-use-htx-too",
        b"option http-use-htx 1",
        b"option httplog",
        b"group nogroup",
    ],
)
def test_nothing_else_is_touched(line: bytes) -> None:
    sent = b"defaults\n    " + line + b"\n"
    assert mend.configuration(sent) == (sent, ())


lines = st.sampled_from(
    [
        b"",
        b"option http-use-htx",
        b"group None",
        b"#amphora-agent:",
        b"#amphora-agent:#amphora-agent:x",
        b"\r",
    ]
) | st.binary(max_size=30)


@given(st.lists(lines, max_size=6).map(b"\n".join))
def test_a_configuration_comes_back_as_it_was_sent(sent: bytes) -> None:
    assert mend.configuration_as_sent(mend.configuration(sent).content) == sent


def test_the_last_line_of_a_crt_list_is_ended() -> None:
    sent = b"/var/lib/octavia/certs/lb/a.pem\n/var/lib/octavia/certs/lb/b.pem"
    mended = mend.certificate(sent)

    assert mended.changes == ("last line ended",)
    assert mended.content.endswith(b"\n")
    entries = [line for line in mended.content.split(b"\n") if line and not line.startswith(b"#")]
    assert entries == sent.split(b"\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"/var/lib/octavia/certs/lb/a.pem\n",
        b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
        b"no PEM at all",
    ],
)
def test_other_certificate_files_are_stored_as_they_come(sent: bytes) -> None:
    assert mend.certificate(sent) == (sent, ())


NOTE = mend.certificate(b"/a.pem").content.removeprefix(b"/a.pem")


@given(st.lists(st.sampled_from([b"/a.pem", b"\n", NOTE, b"x"]), max_size=6).map(b"".join))
def test_a_certificate_file_comes_back_as_it_was_sent(sent: bytes) -> None:
    assert mend.certificate_as_sent(mend.certificate(sent).content) == sent
