"""Any value that was written to a kernel setting is found to be good."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.network.plan.namespace_settings import Comparison, Setting

numbers = st.integers(0, 1 << 40)


settings = st.builds(
    lambda comparison, wanted: Setting(comparison, " ".join(map(str, wanted)), why=""),
    st.sampled_from([Comparison.EXACTLY, Comparison.AT_LEAST, Comparison.AT_MOST]),
    st.lists(numbers, min_size=1, max_size=3),
)


@given(settings, st.lists(numbers, min_size=1, max_size=3))
def test_accepts_a_value_that_it_has_written(setting: Setting, actual: list[int]) -> None:
    written = setting.find_value(" ".join(map(str, actual)))
    assert written is None or setting.find_value(written) is None
