"""No text makes the policy fail, and no way to write it gets what is harmful through."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config.parser import parse_config, split_sections
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy import table as table
from amphora_agent.haproxy.policy.engine import find_violations
from tests.builders.configurations import CONFIGURATIONS
from tests.unit.haproxy.policy.test_engine import BOUNDS, CERTIFICATES, FIELDS, HARMFUL

WORDS = sorted(
    {
        *table.REFUSED, *table.GLOBAL, *table.PROXY, *table.BIND, *table.SERVER, *table.ACTIONS,
        *table.OPTIONS, *table.SECTIONS, "if", "{", "}", "!", "%[", "]", "env(", "map(", ")", ",",
        '"', "'", "\\", "#", "$A", "${A}", "\n", "\r", "\t", "\v", "\0", "\\x00", "\\n", "\u2028",
        "/etc/passwd", "unix@/x", "*:9443", f"{CERTIFICATES}/a.pem", "9" * 30, "-f", "--", "no",
        "src", "str(a)", "1k", "@", "[", "socket", "level",
    }
)  # fmt: skip
TEXTS = st.one_of(
    CONFIGURATIONS,
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["", " ", "\n  "]))).map(
        lambda pieces: "".join(word + space for word, space in pieces)
    ),
    st.text(st.characters()),
    st.binary().map(lambda content: content.decode(errors="surrogateescape")),
)


@given(TEXTS)
def test_any_text_has_an_answer(text: str) -> None:
    sent = text.encode(errors="surrogatepass")
    listed = certificate_content.find_entry_violations(
        sent, partial(certificate_content.check_entry, bounds=BOUNDS)
    )
    found = [
        (each.line, each.reason) for each in find_violations(split_sections({"f": text}), BOUNDS)
    ]
    assert len(found) <= 50
    assert len(listed) <= 50
    for line, reason in (*found, *listed):
        assert 1 <= line <= text.count("\n") + text.count("\r") + 1
        assert reason.isprintable()
        assert len(reason) < 400


@given(TEXTS)
def test_sections_are_judged_one_by_one(text: str) -> None:
    parts = split_sections({"f": text})
    alone = [violation for part in parts for violation in find_violations([part], BOUNDS)]
    assert find_violations(parts, BOUNDS) == alone[:50]


def _written(word: str) -> st.SearchStrategy[str]:
    """A word, in the ways in which it can be written."""

    def character(plain: str) -> st.SearchStrategy[str]:
        return st.sampled_from([plain, plain, f"\\x{ord(plain):02x}", f"'{plain}'", f'"{plain}"'])

    return st.tuples(*map(character, word)).map("".join)


BLANKS = st.text(" \t", max_size=3)


@given(
    st.sampled_from(["global", "frontend f", "backend b", "defaults", "peers p"]),
    st.sampled_from(sorted(table.REFUSED.keys() - {"env", "group", "mode", "user"})),
    st.sampled_from(["", "no ", "default ", "no no ", '"" ']),
    st.sampled_from(["", " x", " /x y", ' "x"', " # x"]),
    st.data(),
)
def test_no_way_to_write_it_hides_a_keyword(
    section: str, keyword: str, before: str, behind: str, data: st.DataObject
) -> None:
    written = data.draw(_written(keyword))
    blank = data.draw(BLANKS)
    if keyword == "load-server-state-from-file":
        behind = " local"
    if keyword == "nbproc":
        before = ""
    assert find_violations(
        split_sections({"f": f"{section}\n{blank}{before}{written}{behind}\n"}), BOUNDS
    )


@given(
    st.sampled_from(FIELDS),
    st.lists(
        st.sampled_from(
            [*HARMFUL, "http://x", "global", "\n", "\r", " ", "#", '"', "'", "\\", "if"]
        )
    ).map("".join),
)
def test_no_text_in_a_field_brings_in_what_does_harm(
    field: Callable[[str], str], value: str
) -> None:
    text = field(value)
    if find_violations(split_sections({"f": text}), BOUNDS):
        return
    for section in parse_config(text).sections:
        assert section.kind in table.SECTIONS
        for directive in section.directives:
            assert directive.words[0] not in {"lua-load", "user"}
            assert directive.words[:2] != ("external-check", "command")
