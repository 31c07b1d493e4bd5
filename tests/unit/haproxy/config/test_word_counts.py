"""How often words stand in a configuration, known from the one before it."""

import pytest

from amphora_agent.haproxy.config import diff
from amphora_agent.haproxy.config.diff import WORDS, count_words, find_defaults
from amphora_agent.haproxy.config.parser import split_sections


@pytest.mark.parametrize("word", ["spread-checks", "maxconn"])
@pytest.mark.parametrize("text", ["", "max-spread-checks 5\nspread-checks 5\n", "maxconn 1"])
def test_a_word_that_is_not_counted_is_searched_for(text: str, word: str) -> None:
    assert diff.has_word(count_words(text), word) == diff.has_word(text, word) == (word in text)
    assert (
        diff.count_word(count_words(text), word) == diff.count_word(text, word) == text.count(word)
    )


@pytest.mark.parametrize("word", WORDS)
def test_a_word_may_be_completed_or_broken_by_what_changes(word: str) -> None:
    for place in range(len(word) + 1):
        one, other = f"a\n{word}\nb", f"a\n{word[:place]}-{word[place:]}\nb"
        assert count_words(one, count_words(other)).counts == count_words(one).counts
        assert count_words(other, count_words(one)).counts == count_words(other).counts


@pytest.mark.parametrize("word", WORDS)
def test_a_word_neither_overlaps_with_itself_nor_with_the_end_of_a_line(word: str) -> None:
    assert "\n" not in word
    assert not any(word.startswith(word[start:]) for start in range(1, len(word)))


def test_only_the_lines_that_differ_are_looked_at() -> None:
    text = "".join(f"frontend {n}\n    timeout client 50000\n" for n in range(50))
    before = diff.attach_counts(text, {word: 1000 for word in WORDS})
    changed = text.replace("timeout client 50000", 'timeout client "40000"', 1)
    assert count_words(changed, before).counts == {word: 1000 + 2 * (word == '"') for word in WORDS}
    assert count_words(text, before).counts == before.counts


def test_finds_several_defaults_in_counted_texts() -> None:
    names = ("a", "b defaults", "c")
    text = "".join(f"defaults {n}\n mode http # defaults\nbackend {n[0]}\n" for n in names)
    for block in split_sections({"f": count_words(text)}):
        found = find_defaults({"f": count_words(text)}, block)
        assert found == find_defaults({"f": text}, block)
        assert block.kind != "backend" or (found and found.name == block.name)
