"""Which lines may name a file otherwise than by its path: found at once, as by looking at each."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config import queries

_PIECES = st.sampled_from(
    ["c", "rt", "crt", "-", "file", "-file", "\\", "'", '"', "x", "\\x", "\n", "\r", " ", "a.pem"]
)


def looked_for(text: str) -> list[str]:
    """What is asked for, line by line."""
    found = []
    for line in text.split("\n"):
        plain = line.replace("\\", "").replace("'", "").replace('"', "")
        if plain != line and ("\\x" in line or "crt" in plain or "-file" in plain):
            found.append(line)
    return found


@given(st.lists(_PIECES, max_size=40).map("".join))
def test_lines_with_quotes_that_may_name_a_file_are_found(text: str) -> None:
    assert list(queries.find_quoted_lines({"haproxy.cfg": text})) == looked_for(text)


def test_of_several_texts_all_lines_are_found() -> None:
    texts = {"a": "bind :1 'crt' x\nbind :2 crt x\n", "b": "server s 1:1 ca\\-file y"}
    assert queries.find_quoted_lines(texts) == ("bind :1 'crt' x", "server s 1:1 ca\\-file y")
