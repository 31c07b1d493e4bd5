"""What is done to texts that haproxy would refuse, and that it can be undone."""

import pytest

from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.process import render

OLD = b"""\
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:9101
    mode http
    option http-use-htx
    http-request use-service prometheus-exporter if { path /metrics }
"""


def test_a_statement_that_haproxy_gave_up_is_out_of_its_sight() -> None:
    mended = render.adapt_config(OLD)

    (section,) = parser.parse_config(mended.content.decode()).sections
    assert [directive.words[0] for directive in section.directives] == [
        "bind",
        "mode",
        "http-request",
    ]


def test_tells_the_line_of_each_statement_left_out() -> None:
    assert render.adapt_config(OLD).changes == ("line 4 left out: 'option http-use-htx'",)


def test_other_lines_keep_their_numbers() -> None:
    before, after = OLD.split(b"\n"), render.adapt_config(OLD).content.split(b"\n")
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
def test_finds_a_refused_statement_however_it_is_written(line: bytes) -> None:
    sent = b"defaults\n" + line + b"\n"
    mended = render.adapt_config(sent)
    assert len(mended.changes) == 1
    assert render.restore_config(mended.content) == sent


@pytest.mark.parametrize(
    ("line", "cpu_map"),
    [
        (b"    cpu-map auto:1/1-2 1-2    external-check", "cpu-map auto:1/1-2 1-2"),
        (b"cpu-map auto:1/1-63 1-63 external-check\r", "cpu-map auto:1/1-63 1-63"),
        (b"    cpu-map 1/1-2 1,3 5-6    external-check", "cpu-map 1/1-2 1,3 5-6"),
    ],
)
def test_a3_two_statements_on_one_line_are_separated(line: bytes, cpu_map: str) -> None:
    sent = b"global\n    nbthread 2\n" + line + b"\n    insecure-fork-wanted\n\ndefaults\n"
    mended = render.adapt_config(sent)
    assert mended.changes == (f"line 3 separated into statements: {line.decode().strip()!r}",)
    assert render.restore_config(mended.content) == sent
    assert render.read_joined_statements(mended.content.decode()) == (cpu_map, "external-check")


def test_a2_the_connection_limit_of_the_process_can_be_taken_out() -> None:
    sent = (
        b"global\n    daemon\n    maxconn 1000000\n\nfrontend f\n    maxconn 5\n"
        b"global\n\tmaxconn  7\r\n"
    )
    content = render.take_out_maxconn(render.adapt_config(sent).content)
    assert content.count(b"\n") == sent.count(b"\n")
    parsed = parser.parse_config(content.decode(), {"maxconn"})
    assert [section.kind for section in parsed.sections if section.directives] == ["frontend"]
    assert render.read_taken_out_maxconn(content.decode()) == 1_000_000
    assert render.restore_config(content) == sent
    assert render.read_taken_out_maxconn(sent.decode()) is None


@pytest.mark.parametrize(
    "line",
    [
        b"#amphora-agent:cpu-map auto:1/1-2 1-2    external-check",
        b"cpu-map auto:1/1-2 1-2    user",
        b"cpu-map auto:1/1-2 1-2",
        b"cpu-map auto:1/1-2 lua-load    external-check",
        b"# cpu-map auto:1/1-2 1-2    external-check",
    ],
)
def test_a3_no_other_line_gives_statements(line: bytes) -> None:
    mended = render.adapt_config(b"global\n" + line + b"\n")
    assert render.read_joined_statements(mended.content.decode()) == ()


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
    assert render.adapt_config(sent) == (sent, ())
