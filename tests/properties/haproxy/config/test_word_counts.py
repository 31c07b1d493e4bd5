"""Words counted in changed configurations are those counted anew."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config import diff
from amphora_agent.haproxy.config.diff import WORDS, compare_configs, count_words, find_defaults
from amphora_agent.haproxy.config.parser import split_sections
from amphora_agent.haproxy.update.planner import SectionContext
from tests.builders.configurations import CONFIGURATIONS, LINES

#: Words, and parts of them that a change may complete.
_PIECES = st.sampled_from([*WORDS, "\n", "\n", " ", "x", "gro", "up", ".", "if", "\\", "def", "é"])


_TEXTS = st.one_of(st.lists(_PIECES).map("".join), CONFIGURATIONS)


@given(_TEXTS, _TEXTS, _TEXTS, _TEXTS)
def test_counts_from_the_text_before_are_those_of_the_text(
    head: str, old: str, new: str, tail: str
) -> None:
    before, text = count_words(head + old + tail), head + new + tail
    found = count_words(text, before)
    assert found == text
    assert found.counts == {word: text.count(word) for word in WORDS}
    for word in WORDS:
        assert diff.has_word(found, word) == (word in text)
        assert diff.count_word(found, word) == diff.count_word(text, word)


@given(CONFIGURATIONS, st.lists(LINES).map("\n".join), CONFIGURATIONS)
def test_sections_are_found_the_same_in_counted_texts(head: str, middle: str, tail: str) -> None:
    running, wanted = f"{head}\n{tail}", f"{head}\n{middle}\n{tail}"
    known = count_words(running)
    plain, fast = {"f": wanted}, {"f": count_words(wanted, known)}
    assert compare_configs({"f": known}, fast) == compare_configs({"f": running}, plain)
    for block in split_sections(plain):
        assert find_defaults(fast, block) == find_defaults(plain, block)
    assert SectionContext(fast).has_conditions == SectionContext(plain).has_conditions
    for name in ("a", "b"):
        assert SectionContext(fast).refers_to(name) == SectionContext(plain).refers_to(name)
