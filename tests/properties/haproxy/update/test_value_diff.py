"""Any change of a configuration can be told."""

import string

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.haproxy.update.test_value_diff import TEXT, told_of

LINES = st.lists(
    st.sampled_from(
        [line for line in TEXT.splitlines() if line.startswith(" ")]
        + [
            "",
            "  # c",
            "server",
            "server x",
            "server x 1.2.3.4:5 weight",
            "user",
            '"',
            "\\x00",
            "bind",
        ]
    )
    | st.text(string.printable, max_size=20).map(lambda text: f" {text}"),
    max_size=8,
)


@given(LINES, LINES)
def test_whatever_differs_can_be_told(before: list[str], after: list[str]) -> None:
    one, other = ("\n".join(["backend pool", *lines, ""]) for lines in (before, after))
    for line in told_of(one, other):
        assert " -> " in line
    assert told_of(one, one) == []
