"""Whatever the controller's templates write, the agent reads it whole, and nothing is lost."""

from __future__ import annotations

from collections import Counter

import pytest
from controller import texts
from controller.release import MAJOR

from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs, find_defaults
from amphora_agent.haproxy.config.parser import Section, parse_config, split_sections

#: What the templates write in sections; what a release does not know yet it need not have.
KINDS = {"backend", "defaults", "frontend", "global", "peers"}
DIRECTIVES = {
    "acl", "balance", "bind", "cookie", "daemon", "default_backend", "external-check", "fullconn",
    "http-check", "http-request", "log", "maxconn", "mode", "option", "peer", "redirect", "retries",
    "server", "stats", "stick", "stick-table", "timeout", "use_backend", "user",
}  # fmt: skip
LATER_DIRECTIVES = {
    "cpu-map", "group", "http-response", "http-reuse", "insecure-fork-wanted",
    "load-server-state-from-file", "log-format", "nbthread", "no", "server-state-file",
    "tcp-request", "tune.ssl.cachesize",
}  # fmt: skip


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return dict(texts.rendered())


def test_the_texts_come_back_from_their_blocks_and_lines(rendered: dict[str, str]) -> None:
    assert len(rendered) >= 300
    for name, text in rendered.items():
        found = split_sections({"f": text})
        assert "".join(block.text for block in found) == text, name
        for block in found:
            assert "".join(line.written for line in block.lines()) == block.text, name


def test_the_sections_of_blocks_are_those_of_the_text(rendered: dict[str, str]) -> None:
    for name, text in rendered.items():
        sections = [block.section() for block in split_sections({"f": text})]
        assert tuple(each for each in sections if each.kind) == parse_config(text).sections, name


def test_all_that_the_templates_know_is_there_and_nothing_else(rendered: dict[str, str]) -> None:
    sections = _sections(rendered)
    directives = Counter(each.words[0] for section in sections for each in section.directives)
    assert {section.kind for section in sections} == KINDS
    assert directives.keys() >= DIRECTIVES
    # The newest release writes all but what it has given up.
    known = LATER_DIRECTIVES - {"group"} if MAJOR >= 14 else set()
    assert directives.keys() >= known
    assert directives.keys() <= DIRECTIVES | LATER_DIRECTIVES


def test_words_are_what_the_controller_means(rendered: dict[str, str]) -> None:
    acls = {
        directive.words[-1]
        for section in _sections(rendered)
        for directive in section.all("acl")
        if "-m" in directive.words
    }
    # Spaces and backslashes are escaped by the controller.
    assert {"two words", " ", "back\\slash", "\\d{2,4}\\s+", "été"} <= acls
    assert not any(
        directive.expands or directive.words[0].startswith(".")
        for section in _sections(rendered)
        for directive in section.directives
    )


def test_each_differs_from_itself_in_nothing_and_from_the_next_in_something(
    rendered: dict[str, str],
) -> None:
    before = ""
    for name, text in rendered.items():
        assert compare_configs({"f": text}, {"f": "".join(text)}) == ConfigDiff(), name
        assert compare_configs({"f": before}, {"f": text}) != ConfigDiff(), name
        before = text


def test_one_changed_member_is_one_changed_pool(rendered: dict[str, str]) -> None:
    changed = 0
    for name, text in rendered.items():
        for block in split_sections({"f": text}):
            if " weight 10 " not in block.text:
                continue
            lines = block.text.replace(" weight 10 ", " weight 11 ")
            found = compare_configs({"f": text}, {"f": text.replace(block.text, lines)})
            assert found.changed == ((block, block._replace(text=lines)),), name
            assert found == ConfigDiff(changed=found.changed), name
            in_effect = find_defaults({"f": text}, block)
            assert in_effect is not None
            assert in_effect.kind == "defaults"
            changed += 1
    assert changed > 10


def _sections(rendered: dict[str, str]) -> list[Section]:
    return [section for text in rendered.values() for section in parse_config(text).sections]
