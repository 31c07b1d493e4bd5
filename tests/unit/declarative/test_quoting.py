"""Values as one word: what haproxy reads back is what was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.declarative import quoting
from amphora_agent.haproxy import text

_PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)


@given(_PRINTABLE)
def test_a_word_is_read_back_as_it_was(value: str) -> None:
    assert text.split(f"acl name path {quoting.word(value)} end")[3:] == (value, "end")


@given(_PRINTABLE)
def test_a_literal_has_no_variable(value: str) -> None:
    (read,) = text.split(quoting.literal(value))
    assert read.replace("%%", "") == value.replace("%", "")


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_control_characters_cannot_be_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        quoting.word(value)


def test_ordinary_words_stay_as_they_are() -> None:
    assert quoting.word("/var/lib/octavia/a-b.pem") == "/var/lib/octavia/a-b.pem"
