"""No text makes the parser fail, and none comes back other than it was."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs, find_defaults
from amphora_agent.haproxy.config.parser import (
    SectionText,
    parse_config,
    split_sections,
    split_words,
)
from tests.builders.configurations import CONFIGURATIONS

TEXTS = st.one_of(
    CONFIGURATIONS,
    st.text(st.characters()),  # with lone surrogates
    st.binary().map(lambda content: content.decode(errors="surrogateescape")),
)


@given(TEXTS)
def test_any_text_comes_back_from_its_blocks_and_from_their_lines(text: str) -> None:
    found = split_sections({"f": text})
    assert "".join(block.text for block in found) == text
    for block in found:
        lines = block.lines()
        assert "".join(line.written for line in lines) == block.text
        for line in lines:
            assert split_words(line.written) == line.words
            assert line.expands in (True, False)


@given(TEXTS, st.sets(st.sampled_from(["mode", "server", "log-format", "backends", "x"])))
def test_all_ways_to_read_a_text_agree(text: str, keywords: set[str]) -> None:
    whole = parse_config(text).sections
    sections = [block.section() for block in split_sections({"f": text})]
    assert tuple(section for section in sections if section.kind) == whole
    for some, section in zip(parse_config(text, keywords).sections, whole, strict=True):
        wanted = tuple(each for each in section.directives if each.words[0] in keywords)
        assert some == section._replace(directives=wanted)


@given(st.lists(st.text(st.characters(exclude_characters="\n\0"))))
def test_any_words_can_be_written(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "'\\''") + "'" for word in words]
    assert split_words(" ".join(quoted)) == tuple(words)


@given(TEXTS, st.data())
def test_what_differs_makes_the_other_text(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(place, len(text)))
    other = text[:place] + data.draw(TEXTS) + text[end:]
    found = compare_configs({"f": text}, {"f": other})
    assert (found == ConfigDiff()) == (text == other)
    if not found.reordered:
        assert _changed(text, other, found) == other


def _changed(running: str, wanted: str, found: ConfigDiff) -> str:
    """The running text with what was found done to it, in the order of the wanted one."""
    sections: dict[tuple[str, str], list[str]] = {
        (block.kind, block.name): [] for block in split_sections({"f": wanted})
    }
    by_place: dict[int, SectionText] = {block.line: after for block, after in found.changed}
    removed = {block.line for block in found.removed}
    for block in split_sections({"f": running}):
        if block.line not in removed:
            kept = by_place.get(block.line, block)
            sections[block.kind, block.name].append(kept.text)
    for block in found.added:
        sections[block.kind, block.name].append(block.text)
    return "".join(
        sections[block.kind, block.name].pop(0) for block in split_sections({"f": wanted})
    ) + "".join(text for left in sections.values() for text in left)


@given(st.dictionaries(st.sampled_from("ab"), CONFIGURATIONS))
def test_defaults_are_of_the_texts_and_before_the_section(texts: dict[str, str]) -> None:
    all_blocks = split_sections(texts)
    for place, block in enumerate(all_blocks):
        found = find_defaults(texts, block)
        assert found is None or (found.kind == "defaults" and found in all_blocks[:place])
