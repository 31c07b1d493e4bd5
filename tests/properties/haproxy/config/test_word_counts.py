"""Words counted in changed configurations are those counted anew."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.diff import defaults_of, difference
from amphora_agent.haproxy.config.parser import blocks
from amphora_agent.haproxy.config.word_counts import WORDS, counted
from amphora_agent.haproxy.update.planner import Surroundings
from tests.builders.configurations import CONFIGURATIONS, LINES

#: Words, and parts of them that a change may complete.
_PIECES = st.sampled_from([*WORDS, "\n", "\n", " ", "x", "gro", "up", ".", "if", "\\", "def", "é"])


_TEXTS = st.one_of(st.lists(_PIECES).map("".join), CONFIGURATIONS)


@given(_TEXTS, _TEXTS, _TEXTS, _TEXTS)
def test_what_is_counted_from_the_text_before_is_what_there_is(
    head: str, old: str, new: str, tail: str
) -> None:
    before, text = counted(head + old + tail), head + new + tail
    found = counted(text, before)
    assert found == text
    assert found.counts == {word: text.count(word) for word in WORDS}
    for word in WORDS:
        assert word_counts.has(found, word) == (word in text)
        assert word_counts.count(found, word) == word_counts.count(text, word)


@given(CONFIGURATIONS, st.lists(LINES).map("\n".join), CONFIGURATIONS)
def test_sections_are_found_the_same_in_counted_texts(head: str, middle: str, tail: str) -> None:
    running, wanted = f"{head}\n{tail}", f"{head}\n{middle}\n{tail}"
    known = counted(running)
    plain, fast = {"f": wanted}, {"f": counted(wanted, known)}
    assert difference({"f": known}, fast) == difference({"f": running}, plain)
    for block in blocks(plain):
        assert defaults_of(fast, block) == defaults_of(plain, block)
    assert Surroundings(fast).has_conditions == Surroundings(plain).has_conditions
    for name in ("a", "b"):
        assert Surroundings(fast).refers_to(name) == Surroundings(plain).refers_to(name)
