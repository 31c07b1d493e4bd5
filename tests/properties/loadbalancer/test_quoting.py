"""Values as one word: what haproxy reads back is what was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config import parser
from amphora_agent.loadbalancer import render

_PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)


@given(_PRINTABLE)
def test_quoted_word_is_read_back_as_it_was(value: str) -> None:
    assert parser.split_words(f"acl name path {render.quote_word(value)} end")[3:] == (value, "end")


@given(_PRINTABLE)
def test_quoted_literal_has_no_variable(value: str) -> None:
    (read,) = parser.split_words(render.quote_literal(value))
    assert read.replace("%%", "") == value.replace("%", "")


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_control_characters_cannot_be_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        render.quote_word(value)


def test_ordinary_words_stay_as_they_are() -> None:
    assert render.quote_word("/var/lib/octavia/a-b.pem") == "/var/lib/octavia/a-b.pem"
