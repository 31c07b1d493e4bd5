"""haproxy's configuration language, read as haproxy reads it.

That the rules are haproxy's own is shown in tests/integration/test_text_as_haproxy.py.
"""

import pytest

from amphora_agent.haproxy.config import parser
from lab import listeners


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ()),
        ("   \t ", ()),
        ("# a comment", ()),
        ("   # a comment", ()),
        ("mode http", ("mode", "http")),
        ("\tmode\t http  ", ("mode", "http")),
        ("a\vb\fc\rd", ("a", "b", "c", "d")),
        ("mode http # why", ("mode", "http")),
        ("mode http#why", ("mode", "http")),
        ("a \\# b", ("a", "#", "b")),
        ("a '#' \"#\"", ("a", "#", "#")),
        ("a\\ b c", ("a b", "c")),
        ("'a b' c", ("a b", "c")),
        ('"a b" c', ("a b", "c")),
        ("a'b c'd", ("ab cd",)),
        ("''", ("",)),
        ('a "" b', ("a", "", "b")),
        ("'a\"b' \"a'b\"", ('a"b', "a'b")),
        ('"a\\"b"', ('a"b',)),
        ("a\\'b a\\\"b", ("a'b", 'a"b')),
        ("a\\\\b", ("a\\b",)),
        ("a\\tb\\rc\\nd", ("a\tb\rc\nd",)),
        ('"a\\tb"', ("a\tb",)),
        ("'a\\tb'", ("a\\tb",)),
        ("\\x6cua-load", ("lua-load",)),
        ('"\\x41"', ("A",)),
        ("'\\x41'", ("\\x41",)),
        ("lua-load\\x00junk x", ("lua-load", "x")),
        # The line is cut there; haproxy refuses it, too.
        ("lua-load\0junk x", ("lua-load",)),
        # Bytes are bytes, however they are written.
        ("\\xc3\\xa9 '\\xc3'\\xa9 \\xe9", ("é", "\\xc3\udca9", "\udce9")),
        ("\udcc3\\xa9 \ud800\\xe9", ("é", "\ud800\udce9")),
        ("a\nb c", ("a",)),
        # A backslash before anything else is one: regular expressions depend on it.
        ("path_reg ^/a\\.php$ \\d+", ("path_reg", "^/a\\.php$", "\\d+")),
        ('"a\\.b" "\\d"', ("a\\.b", "\\d")),
        ("\\$A \"\\$A\" '\\$A'", ("\\$A", "$A", "\\$A")),
        # haproxy expands it; nothing here does.
        ('"${HOME}" $HOME', ("${HOME}", "$HOME")),
        # What Unicode calls white space does not separate words.
        ("a\u00a0b c\u2003d e\x1cf g\x85h", ("a\u00a0b", "c\u2003d", "e\x1cf", "g\x85h")),
        # What haproxy refuses is still words.
        ('"open', ("open",)),
        ("'open", ("open",)),
        ("end\\", ("end\\",)),
        ("\\xzz \\x4", ("\\xzz", "\\x4")),
    ],
)
def test_a_line_is_split_into_words(line: str, words: tuple[str, ...]) -> None:
    assert parser.split_words(line) == words


CONFIG = """\
# before everything

global
    daemon
    group nogroup   # here
defaults
frontend l1
    bind 10.0.0.1:80
    bind [2001:db8::1]:80
    mode http
backend p1:l1
    server m1 10.0.0.2:80
frontend
    mode tcp
"""


def test_sections_have_their_kind_name_line_and_directives() -> None:
    config = parser.parse_config(CONFIG)
    assert [(s.line, s.kind, s.name) for s in config.sections] == [
        (3, "global", ""),
        (6, "defaults", ""),
        (7, "frontend", "l1"),
        (11, "backend", "p1:l1"),
        (13, "frontend", ""),
    ]
    assert config.sections[0].directives == (
        parser.Directive(4, ("daemon",), "    daemon\n"),
        parser.Directive(5, ("group", "nogroup"), "    group nogroup   # here\n"),
    )
    assert config.sections[0].header == parser.Directive(3, ("global",), "global\n")
    assert config.sections[1].directives == ()


def test_directives_are_found_by_their_first_words() -> None:
    frontend = next(parser.parse_config(CONFIG).of_kind("frontend"))
    assert [d.words[1] for d in frontend.all("bind")] == ["10.0.0.1:80", "[2001:db8::1]:80"]
    assert frontend.first("bind", "[2001:db8::1]:80") == parser.Directive(
        9, ("bind", "[2001:db8::1]:80"), "    bind [2001:db8::1]:80\n"
    )
    assert frontend.first("bind", "10.0.0.9:80") is None
    assert frontend.first("bin") is None


def test_the_same_section_may_come_again() -> None:
    config = parser.parse_config("global\n daemon\nfrontend f\nglobal\n group g\n")
    assert [s.directives[0].words for s in config.of_kind("global")] == [
        ("daemon",),
        ("group", "g"),
    ]


def test_a_section_keyword_counts_only_as_the_first_word() -> None:
    config = parser.parse_config("backend b\n  option peers\n  server global 10.0.0.1:80\n")
    assert [s.kind for s in config.sections] == ["backend"]


def test_a_section_keyword_may_be_quoted_or_escaped() -> None:
    assert [s.kind for s in parser.parse_config("'global'\nfront\\x65nd f\n").sections] == [
        "global",
        "frontend",
    ]


def test_lines_before_the_first_section_belong_to_none() -> None:
    assert parser.parse_config("daemon\nmode http\n") == parser.Config(())


def test_line_ends_of_windows_are_blanks() -> None:
    assert parser.parse_config("global\r\n  group g\r\n").sections[0].directives[0].words == (
        "group",
        "g",
    )


@pytest.mark.parametrize("line", ["'server' s 10.0.0.1:80", "s\\x65rver s", 'serv"er" s', "server"])
def test_a_keyword_is_found_however_it_is_written(line: str) -> None:
    (section,) = parser.parse_config(f"backend b\n  mode http\n  {line}\n", {"server"}).sections
    assert [d.words[0] for d in section.directives] == ["server"]


def test_files_have_blocks_of_their_own() -> None:
    blocks = parser.split_sections(
        {"a": "# note\n\nglobal\n daemon", "b": " daemon\nglobal\n", "c": ""}
    )
    assert blocks == (
        parser.SectionText("a", 1, "", "", "# note\n\n"),
        parser.SectionText("a", 3, "global", "", "global\n daemon"),
        parser.SectionText("b", 1, "", "", " daemon\n"),
        parser.SectionText("b", 2, "global", "", "global\n"),
    )
    before = blocks[2].section()
    assert before == parser.Section(1, "", "", (parser.Directive(1, ("daemon",), " daemon\n"),))


@pytest.mark.parametrize(
    "header",
    [
        "frontend f",
        "  frontend f",
        "\v\f\r\tfrontend f",
        "frontend\tf",
        'fron"tend" f',
        "'frontend' f",
        "front\\x65nd f",
        "frontend f#g",
        "frontend 'f'",
        "frontend f\0 g",
        "frontend f\r",
        "frontend\\x00zzz f",
    ],
)
def test_a_header_is_one_however_it_is_written(header: str) -> None:
    for before in ("", "\n", "global\n"):
        for after in ("", "\n", "\n mode http\n"):
            found = parser.split_sections({"file": before + header + after})[-1]
            assert (found.kind, found.name) == ("frontend", "f")
            assert found.line == before.count("\n") + 1


@pytest.mark.parametrize(
    "line",
    [
        "frontends f",
        "frontend\\ f",
        "xfrontend f",
        "#frontend f",
        '"" frontend f',
        "\\x00frontend f",
        "\u2028frontend f",
        "\x85frontend f",
        "\ufefffrontend f",
        "frontend\u00a0f",
        "mode http frontend f",
        '"frontend f"',
        "\0frontend f",
    ],
)
def test_a_header_is_not_what_only_looks_like_one(line: str) -> None:
    (found,) = parser.split_sections({"file": f"global\n{line}\n"})
    assert found.kind == "global"


def test_a_section_is_named_by_the_word_after_its_keyword() -> None:
    config = parser.parse_config("defaults from a\ndefaults d from a\ncache\nbackend from\n")
    assert [section.name for section in config.sections] == ["", "d", "", "from"]


def test_leaves_out_lines_that_haproxy_skips() -> None:
    (section,) = parser.parse_config("global\n '' lua-load x\n \\x00 daemon\n daemon\n").sections
    assert [directive.words for directive in section.directives] == [("daemon",)]


def test_conditionals_are_directives() -> None:
    (_, block) = parser.split_sections({"file": '.if 1\nglobal\n ".endif"\n daemon\n\n'})
    assert [line.words for line in block.lines()] == [("global",), (".endif",), ("daemon",), ()]


@pytest.mark.parametrize(
    ("line", "expands"),
    [
        ('bind "$ADDRESS"', True),
        ('bind "${ADDRESS}:80"', True),
        ("bind ':'\"a\\\\$B\"", True),
        ("bind $ADDRESS", False),
        ("bind '$ADDRESS'", False),
        ('bind "\\$ADDRESS"', False),
        ("bind '\"$ADDRESS\"'", False),
        ('bind \\"$ADDRESS\\"', False),
        ('bind a # "$ADDRESS"', False),
    ],
)
def test_an_environment_variable_is_replaced_in_double_quotes_only(
    line: str, expands: bool
) -> None:
    assert parser.Directive(1, parser.split_words(line), line).expands == expands


def test_a_controller_s_configuration_is_read_whole() -> None:
    written = listeners.loadbalancer(
        "lb1",
        vip="10.0.0.5",
        listeners=[
            listeners.http_listener("web", members=[("10.0.0.6", 80), ("2001:db8::6", 80)]),
            listeners.http_listener(
                "secure",
                port=443,
                kind="TERMINATED_HTTPS",
                crt_list="/var/lib/octavia/certs/lb1/l.pem",
                members=[],
                monitor=listeners.HealthMonitor(),
            ),
        ],
        peers=[listeners.Peer("amphora-1", "10.0.0.7")],
    )
    config = parser.parse_config(written)
    assert [s.kind for s in config.sections] == [
        "global", "defaults", "peers", "frontend", "backend", "frontend", "backend",
    ]  # fmt: skip
    log_format = config.sections[3].first("log-format")
    assert log_format is not None
    assert len(log_format.words) == 2
    assert log_format.words[1].startswith("demo-project lb1 ")
