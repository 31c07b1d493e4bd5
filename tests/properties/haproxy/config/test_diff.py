"""Any two configurations: the fast comparison finds what a comparison of all finds."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs
from amphora_agent.haproxy.config.parser import Texts
from tests.builders.configurations import CONFIGURATIONS, LINES
from tests.unit.haproxy.config.test_diff import check

FILES = st.dictionaries(st.sampled_from("abc"), CONFIGURATIONS)


@given(FILES, FILES)
def test_any_two_configurations(running: Texts, wanted: Texts) -> None:
    check(running, wanted)


@given(st.lists(LINES), st.data())
def test_a_few_lines_changed(lines: list[str], data: st.DataObject) -> None:
    changed = list(lines)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(changed)))
        taken = data.draw(st.integers(0, 3))
        changed[place : place + taken] = data.draw(st.lists(LINES, max_size=2))
    check({"f": "\n".join(lines)}, {"f": "\n".join(changed)})


@given(CONFIGURATIONS, st.data())
def test_a_few_characters_changed(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    taken = data.draw(st.integers(0, 20))
    put = data.draw(st.sampled_from(["", "\n", " ", "'", "x", "\nbackend a\n", "backend"]))
    check({"f": text}, {"f": text[:place] + put + text[place + taken :]})


@given(st.lists(st.sampled_from("abcdefg"), unique=True), st.data())
def test_sections_moved(names: list[str], data: st.DataObject) -> None:
    # Larger than what is searched for a header at once.
    body = data.draw(st.sampled_from(["", " mode http\n", " mode http\n" * 1000]))
    moved = data.draw(st.permutations(names))[: data.draw(st.integers(0, len(names)))]
    running, wanted = (
        {"f": "".join(f"backend {name}\n{body}" for name in order)} for order in (names, moved)
    )
    check(running, wanted)
    found = compare_configs(running, wanted)
    assert not found.added
    assert not found.changed
    assert {block.name for block in found.removed} == set(names) - set(moved)
    assert found.reordered == ([name for name in names if name in moved] != moved)


@given(FILES)
def test_nothing_differs_from_itself(texts: Texts) -> None:
    assert compare_configs(texts, {file: text + "" for file, text in texts.items()}) == ConfigDiff()


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_other_text_is_a_difference(one: str, other: str) -> None:
    assert (compare_configs({"f": one}, {"f": other}) == ConfigDiff()) == (one == other)
