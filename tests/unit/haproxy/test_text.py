"""haproxy's configuration language, read as haproxy reads it.

That the rules are haproxy's own is shown in tests/integration/test_text_as_haproxy.py.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy import text
from lab import listeners

WORD = st.text(
    st.characters(exclude_characters=" \t\n\v\f\r\"'\\#\0", exclude_categories=["Cs"]), min_size=1
)


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
    assert text.split(line) == words


@given(st.lists(WORD))
def test_plain_words_come_back_as_they_were_joined(words: list[str]) -> None:
    assert text.split("  ".join(words)) == tuple(words)


@given(st.lists(st.text(st.characters(exclude_characters="\n\0"))))
def test_escaped_words_come_back_as_they_were(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "'\\''") + "'" for word in words]
    assert text.split(" ".join(quoted)) == tuple(words)


@given(st.text("ab \t\"'\\#x4$\n"))
def test_no_text_makes_parsing_fail(anything: str) -> None:
    text.parse(anything)
    text.parse(f"global\n{anything}\nfrontend f\n{anything}")


@given(st.text())
def test_no_text_at_all_makes_parsing_fail(anything: str) -> None:
    text.parse(anything)


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
    config = text.parse(CONFIG)
    assert [(s.line, s.kind, s.name) for s in config.sections] == [
        (3, "global", ""),
        (6, "defaults", ""),
        (7, "frontend", "l1"),
        (11, "backend", "p1:l1"),
        (13, "frontend", ""),
    ]
    assert config.sections[0].directives == (
        text.Directive(4, ("daemon",)),
        text.Directive(5, ("group", "nogroup")),
    )
    assert config.sections[1].directives == ()


def test_directives_are_found_by_their_first_words() -> None:
    frontend = next(text.parse(CONFIG).of_kind("frontend"))
    assert [d.words[1] for d in frontend.all("bind")] == ["10.0.0.1:80", "[2001:db8::1]:80"]
    assert frontend.first("bind", "[2001:db8::1]:80") == text.Directive(
        9, ("bind", "[2001:db8::1]:80")
    )
    assert frontend.first("bind", "10.0.0.9:80") is None
    assert frontend.first("bin") is None


def test_the_same_section_may_come_again() -> None:
    config = text.parse("global\n daemon\nfrontend f\nglobal\n group g\n")
    assert [s.directives[0].words for s in config.of_kind("global")] == [
        ("daemon",),
        ("group", "g"),
    ]


def test_a_section_keyword_counts_only_as_the_first_word() -> None:
    config = text.parse("backend b\n  option peers\n  server global 10.0.0.1:80\n")
    assert [s.kind for s in config.sections] == ["backend"]


def test_a_section_keyword_may_be_quoted_or_escaped() -> None:
    assert [s.kind for s in text.parse("'global'\nfront\\x65nd f\n").sections] == [
        "global",
        "frontend",
    ]


def test_what_stands_before_the_first_section_belongs_to_none() -> None:
    assert text.parse("daemon\nmode http\n") == text.Config(())


def test_line_ends_of_windows_are_blanks() -> None:
    assert text.parse("global\r\n  group g\r\n").sections[0].directives[0].words == ("group", "g")


def only(config: text.Config, keywords: set[str]) -> text.Config:
    """The configuration without the directives that begin with another word."""
    return text.Config(
        tuple(
            section._replace(
                directives=tuple(d for d in section.directives if d.words[0] in keywords)
            )
            for section in config.sections
        )
    )


KEYWORDS = {"bind", "server", "stats", "tune.ssl.cachesize", "http-request"}
INDENT = st.sampled_from(["", "  ", "\t", "\u2003", "\x1c", "\xa0 "])
FIRST = st.sampled_from(
    [*sorted(KEYWORDS), "backend", "global", "mode", "tune.bufsize", "http-response", "servers"]
)
MIDDLE = st.sampled_from(["", " ", "\t", "#", "'", '"', "\\", "\0", "\u2003", "\x85", "."])


@given(st.lists(st.tuples(INDENT, FIRST, MIDDLE, st.text("ab \\'\"#\n"))))
def test_parsing_some_keywords_is_parsing_all_and_leaving_out_the_others(
    lines: list[tuple[str, str, str, str]],
) -> None:
    configuration = "global\n" + "\n".join(map("".join, lines))
    expected = only(text.parse(configuration), KEYWORDS)
    assert text.parse(configuration, KEYWORDS) == expected


@pytest.mark.parametrize("line", ["'server' s 10.0.0.1:80", "s\\x65rver s", 'serv"er" s', "server"])
def test_a_keyword_is_found_however_it_is_written(line: str) -> None:
    (section,) = text.parse(f"backend b\n  mode http\n  {line}\n", {"server"}).sections
    assert [d.words[0] for d in section.directives] == ["server"]


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
    config = text.parse(written)
    assert [s.kind for s in config.sections] == [
        "global", "defaults", "peers", "frontend", "backend", "frontend", "backend",
    ]  # fmt: skip
    log_format = config.sections[3].first("log-format")
    assert log_format is not None
    assert len(log_format.words) == 2
    assert log_format.words[1].startswith("demo-project lb1 ")
