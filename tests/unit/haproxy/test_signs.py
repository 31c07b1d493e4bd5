"""How often words stand in a configuration, known from the one before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy import signs
from amphora_agent.haproxy.difference import defaults_of, difference
from amphora_agent.haproxy.signs import WORDS, counted
from amphora_agent.haproxy.surroundings import Surroundings
from amphora_agent.haproxy.text import blocks
from tests.unit.haproxy.configurations import CONFIGURATIONS, LINES

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
        assert signs.has(found, word) == (word in text)
        assert signs.count(found, word) == signs.count(text, word)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_may_be_completed_or_broken_by_what_changes(word: str) -> None:
    for place in range(len(word) + 1):
        one, other = f"a\n{word}\nb", f"a\n{word[:place]}-{word[place:]}\nb"
        assert counted(one, counted(other)).counts == counted(one).counts
        assert counted(other, counted(one)).counts == counted(other).counts


@pytest.mark.parametrize("word", WORDS)
def test_a_word_neither_overlaps_with_itself_nor_with_the_end_of_a_line(word: str) -> None:
    assert "\n" not in word
    assert not any(word.startswith(word[start:]) for start in range(1, len(word)))


def test_only_the_lines_that_differ_are_looked_at() -> None:
    text = "".join(f"frontend {n}\n    timeout client 50000\n" for n in range(50))
    before = signs.with_counts(text, {word: 1000 for word in WORDS})
    changed = text.replace("timeout client 50000", 'timeout client "40000"', 1)
    assert counted(changed, before).counts == {word: 1000 + 2 * (word == '"') for word in WORDS}
    assert counted(text, before).counts == before.counts


def test_each_of_several_defaults_is_found_in_counted_texts() -> None:
    names = ("a", "b defaults", "c")
    text = "".join(f"defaults {n}\n mode http # defaults\nbackend {n[0]}\n" for n in names)
    for block in blocks({"f": counted(text)}):
        found = defaults_of({"f": counted(text)}, block)
        assert found == defaults_of({"f": text}, block)
        assert block.kind != "backend" or (found and found.name == block.name)


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
