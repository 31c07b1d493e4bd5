"""Texts that are nearly configurations of haproxy, for tests that make up many."""

from hypothesis import strategies as st

from amphora_agent.haproxy.config.parser import SECTIONS

#: Few names, so that sections meet again.
_NAMES = st.sampled_from(["", "a", "b", "a.b", "'a'", '"b"', "\\x61", "a b", "a from d", "from d"])
_KINDS = st.sampled_from(
    [*sorted(SECTIONS), "defaults", "backend", "backend", '"backend"', "back'end'", "b\\x61ckend"]
)
_HEADERS = st.builds(
    "{}{} {}".format, st.sampled_from(["", "", "", "  ", "\t", "\r", "\u2028"]), _KINDS, _NAMES
)
_OTHERS = st.one_of(
    st.sampled_from(
        [
            "", "  mode http", "  server a 10.0.0.1:80", "  default_backend a", "# backend a",
            "  backend", "backends a", ".if 1", ".endif", '  log-format "a b"', "  acl a\\ b",
            "  'open", "  end\\", "  x\0y", "[scope]", "no option x", "  a\u2028backend a",
        ]
    ),
    st.text("ab \t\"'\\#x4$\r\0\u2028\ud800é"),
)  # fmt: skip

LINES = st.one_of(_HEADERS, _OTHERS)
CONFIGURATIONS = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(LINES), st.sampled_from(["", "\n"])
)
