"""Mending any text can be undone."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.process import render

lines = st.sampled_from(
    [
        b"",
        b"option http-use-htx",
        b"group None",
        b"#amphora-agent:",
        b"#amphora-agent:#amphora-agent:x",
        b"cpu-map auto:1/1-2 1-2    external-check",
        b"#amphora-agent:cpu-map auto:1/1-2 1-2    external-check",
        b"\r",
    ]
) | st.binary(max_size=30)


@given(st.lists(lines, max_size=6).map(b"\n".join))
def test_a_configuration_comes_back_as_it_was_sent(sent: bytes) -> None:
    assert render.restore_config(render.adapt_config(sent).content) == sent
