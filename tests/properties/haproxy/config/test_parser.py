"""haproxy's configuration language, for any text: parsing never fails and loses nothing."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config import parser
from tests.builders.configurations import CONFIGURATIONS

WORD = st.text(
    st.characters(exclude_characters=" \t\n\v\f\r\"'\\#\0", exclude_categories=["Cs"]), min_size=1
)


@given(st.lists(WORD))
def test_plain_words_come_back_as_they_were_joined(words: list[str]) -> None:
    assert parser.split_words("  ".join(words)) == tuple(words)


@given(st.lists(st.text(st.characters(exclude_characters="\n\0"))))
def test_escaped_words_come_back_as_they_were(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "'\\''") + "'" for word in words]
    assert parser.split_words(" ".join(quoted)) == tuple(words)


@given(st.text("ab \t\"'\\#x4$\n"))
def test_no_text_makes_parsing_fail(anything: str) -> None:
    parser.parse_config(anything)
    parser.parse_config(f"global\n{anything}\nfrontend f\n{anything}")


@given(st.text())
def test_no_text_at_all_makes_parsing_fail(anything: str) -> None:
    parser.parse_config(anything)


def only(config: parser.Config, keywords: set[str]) -> parser.Config:
    """The configuration without the directives that begin with another word."""
    return parser.Config(
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
    expected = only(parser.parse_config(configuration), KEYWORDS)
    assert parser.parse_config(configuration, KEYWORDS) == expected


@given(st.one_of(st.text(), st.text(st.characters()), CONFIGURATIONS))
def test_any_text_comes_back_from_its_blocks_and_from_their_lines(anything: str) -> None:
    blocks = parser.split_sections({"file": anything})
    assert "".join(block.text for block in blocks) == anything
    for block in blocks:
        assert "".join(line.written for line in block.lines()) == block.text


@given(st.binary())
def test_any_bytes_come_back(anything: bytes) -> None:
    decoded = anything.decode(errors="surrogateescape")
    written = "".join(block.text for block in parser.split_sections({"file": decoded}))
    assert written.encode(errors="surrogateescape") == anything


def read_line_by_line(file: str, content: str) -> list[parser.SectionText]:
    """The blocks of a file, found in the plainest way."""
    blocks = []
    for number, line in enumerate(content.split("\n"), 1):
        words = parser.split_words(line)
        if words and words[0] in parser.SECTIONS:
            name = (*words, "")[1]
            unnamed = words[:2] == ("defaults", "from")
            blocks.append(parser.SectionText(file, number, words[0], "" if unnamed else name, ""))
        elif not blocks:
            blocks.append(parser.SectionText(file, 1, "", "", ""))
        last = blocks[-1]
        blocks[-1] = last._replace(text=f"{last.text}{line}\n")
    blocks[-1] = blocks[-1]._replace(text=blocks[-1].text[:-1])
    return [block for block in blocks if block.text]


@given(CONFIGURATIONS)
def test_blocks_are_what_reading_line_by_line_finds(configuration: str) -> None:
    assert list(parser.split_sections({"f": configuration})) == read_line_by_line(
        "f", configuration
    )


@given(CONFIGURATIONS)
def test_the_sections_of_blocks_are_those_of_the_whole_text(configuration: str) -> None:
    sections = [block.section() for block in parser.split_sections({"f": configuration})]
    assert [section for section in sections if section.kind] == list(
        parser.parse_config(configuration).sections
    )


@given(CONFIGURATIONS)
def test_a_line_is_where_it_says(configuration: str) -> None:
    lines = configuration.split("\n")
    for block in parser.split_sections({"f": configuration}):
        for directive in block.lines():
            assert directive.written.removesuffix("\n") == lines[directive.line - 1]
            assert parser.split_words(directive.written) == directive.words
