"""What differs between two configurations, section by section."""

import pytest

from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs, find_defaults
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections
from lab import listeners


def compared_in_full(running: Texts, wanted: Texts) -> ConfigDiff:
    """What `difference` finds, found by making and comparing all blocks."""
    before, after = (
        [(b.file, b.kind, b.name) for b in split_sections(texts)] for texts in (running, wanted)
    )
    changed, added, removed, twice = [], [], [], False
    for key in dict.fromkeys(before + after):
        ours, theirs = (
            [b for b in split_sections(texts) if (b.file, b.kind, b.name) == key]
            for texts in (running, wanted)
        )
        if [b.text for b in ours] == [b.text for b in theirs]:
            continue
        if len(ours) > 1 or len(theirs) > 1:
            twice = True
        elif not ours:
            added.append(theirs[0])
        elif not theirs:
            removed.append(ours[0])
        else:
            changed.append((ours[0], theirs[0]))
    reordered = twice or any(
        [key for key in before if key in after and key[0] == file]
        != [key for key in after if key in before and key[0] == file]
        for file in {**running, **wanted}
    )
    common = [file for file in running if file in wanted]
    reordered = reordered or common != [file for file in wanted if file in running]
    return ConfigDiff(tuple(changed), tuple(added), tuple(removed), reordered)


def in_order(found: ConfigDiff) -> ConfigDiff:
    """With what was found in the order of the texts."""
    return ConfigDiff(
        tuple(sorted(found.changed)),
        tuple(sorted(found.added)),
        tuple(sorted(found.removed)),
        found.reordered,
    )


def check(running: Texts, wanted: Texts) -> None:
    assert in_order(compare_configs(running, wanted)) == in_order(compared_in_full(running, wanted))


def balancer(weight: int = 1, *, count: int = 30, name: str = "", options: str = "") -> str:
    """Large enough that little of it is looked at."""
    text = listeners.loadbalancer(
        "lb1",
        vip="10.0.0.5",
        listeners=listeners.many_listeners(
            count, members=[("10.0.0.6", 80), ("2001:db8::6", 80), (f"10.0.0.{weight}", 8080)]
        ),
    )
    return text.replace("retries 3", "retries 3" + options)


def section(text: str, number: int) -> SectionText:
    return split_sections({"f": text})[number]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 20, 61])
@pytest.mark.parametrize("options", ["", " # 'quoted'"])
def test_finds_the_section_of_a_changed_line(number: int, options: str) -> None:
    running = balancer(options=options)
    block = section(running, number)
    start = running.index(block.text)
    end = start + len(block.text)
    wanted = running[:start] + block.text.rstrip("\n") + " # changed\n" + running[end:]
    found = compare_configs({"f": running}, {"f": wanted})
    assert found == ConfigDiff(changed=((block, section(wanted, number)),))
    check({"f": running}, {"f": wanted})


def test_every_pool_changed() -> None:
    running, wanted = {"f": balancer(1)}, {"f": balancer(2)}
    found = compare_configs(running, wanted)
    assert len(found.changed) == 30
    assert {block.kind for pair in found.changed for block in pair} == {"backend"}
    check(running, wanted)


def test_listeners_added_and_removed() -> None:
    few, many = {"f": balancer(count=20) + "\n"}, {"f": balancer(count=22) + "\n"}
    added, removed = compare_configs(few, many), compare_configs(many, few)
    assert [block.kind for block in added.added] == ["frontend", "backend"] * 2
    assert added.added == removed.removed
    # The sum of the limits is the process's.
    assert [before.kind for before, _ in added.changed] == ["global"]
    assert not added.reordered


@pytest.mark.parametrize("again", ["backend {}\n", "  back\"end\" '{}'\n", "backend\t{}#x\n"])
@pytest.mark.parametrize("changes", [1, 20])
def test_a_section_that_differs_and_is_there_again_far_away(again: str, changes: int) -> None:
    text = balancer() + "\n"
    name = section(text, 32).name
    once = text.replace(" weight 1", " weight 2", changes * 3)
    assert section(text, 32).kind == "backend"
    for running in (again.format(name) + text, text + again.format(name)):
        start = running.index(f"backend {name}\n    mode")
        for wanted in (
            # The one changed, many others before it, or one of the two gone.
            running[:start] + running[start:].replace(" weight 1", " weight 2", changes),
            running.replace(" weight 1", " weight 2"),
            text,
        ):
            assert compare_configs({"f": running}, {"f": wanted}).reordered
            assert compare_configs({"f": wanted}, {"f": running}).reordered
            check({"f": running}, {"f": wanted})
    assert not compare_configs({"f": text}, {"f": once}).reordered


@pytest.mark.parametrize("spelling", ["{}'{}'", '{}"{}"', "{}\\x{:x}"])
def test_a_section_that_is_there_again_with_its_name_in_disguise(spelling: str) -> None:
    # A name of which only a part is written as it is, and no other quote or escape in the text.
    last = ord("b") if "x}" in spelling else "b"
    text = "backend a\nbackend " + spelling.format("a", last) + "\nbackend c\nbackend ab\n"
    found = compare_configs({"f": text}, {"f": text + " mode http\n"})
    assert found == ConfigDiff(reordered=True)


@pytest.mark.parametrize(
    ("running", "wanted"),
    [
        # What begins alike is a header in one of them only.
        ("global\nbackend\n", "global\nbackendx\n"),
        ("global\nbackend a\n", "global\nbackend_a\n"),
        ("global\nxbackend a\n", "global\nx\nbackend a\n"),
        # What they have in common at the beginning they have at the end, too.
        ("backend a\nbackend b\n", "backend a\nbackend a\nbackend b\n"),
        ("global\nx\nbackend b\n", "global\nx\nglobal\nx\nbackend b\n"),
        ("a\na\na\n", "a\na\n"),
        ("backend a\n" * 4, "backend a\n" * 3),
        # As often as before, in another order.
        ("backend a\nbackend b\nbackend a\n", "backend a\nbackend a\nbackend b\n"),
    ],
)
def test_texts_that_are_easily_taken_for_others(running: str, wanted: str) -> None:
    check({"f": running}, {"f": wanted})
    check({"f": wanted}, {"f": running})


def test_a_section_that_is_there_twice_and_stays_is_no_matter() -> None:
    running = "defaults\ndefaults\nbackend a\nbackend b\n"
    wanted = "defaults\ndefaults\nbackend a\nbackend b\n mode http\n"
    found = compare_configs({"f": running}, {"f": wanted})
    assert ([b.name for b, _ in found.changed], found.reordered) == (["b"], False)


def test_sections_belong_to_their_files() -> None:
    found = compare_configs(
        {"a": "global\n", "b": "global\n x\n"}, {"a": "global\n", "b": "global\n"}
    )
    assert [(one.file, other.text) for one, other in found.changed] == [("b", "global\n")]
    moved = compare_configs({"a": "backend x\n", "b": ""}, {"a": "", "b": "backend x\n"})
    assert [block.file for block in (*moved.removed, *moved.added)] == ["a", "b"]
    assert compare_configs({"a": "", "b": ""}, {"b": "", "a": ""}).reordered


DEFAULTS = {
    "a": "backend b0\ndefaults\n mode tcp\nbackend b1\nfrontend f1\n defaults\ndefaults d\n",
    "b": (
        "# defaults x\nbackend b2\nbackend b3 from d\nbackend b4 from e\n"
        "defaults e from d\nlisten l1\nlisten l2 from e\npeers p\nglobal\n"
        "defaults from e\n no log\nbackend b5 from d # as above\nbackend b6\ndefaults g from g\n"
    ),
}


@pytest.mark.parametrize("quoted", ["", '# "quoted"\n'])
@pytest.mark.parametrize(
    ("kind", "name", "where"),
    [
        ("backend", "b0", None),
        ("backend", "b1", ("a", 2)),
        ("frontend", "f1", ("a", 2)),
        ("backend", "b2", ("a", 7)),
        ("backend", "b3", ("a", 7)),
        ("backend", "b4", None),
        ("listen", "l1", ("b", 5)),
        ("listen", "l2", ("b", 5)),
        ("defaults", "e", ("a", 7)),
        ("defaults", "d", None),
        ("defaults", "g", None),
        ("backend", "b5", ("a", 7)),
        ("backend", "b6", ("b", 10)),
        ("peers", "p", None),
        ("global", "", None),
    ],
)
def test_the_defaults_in_effect(
    kind: str, name: str, where: tuple[str, int] | None, quoted: str
) -> None:
    texts = {file: text + quoted for file, text in DEFAULTS.items()}
    all_blocks = split_sections(texts)
    (block,) = (each for each in all_blocks if (each.kind, each.name) == (kind, name))
    found = find_defaults(texts, block)
    assert (found and (found.file, found.line)) == where
    assert found is None or (found in all_blocks and found.kind == "defaults")
