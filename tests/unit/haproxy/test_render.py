"""What the agent adds to a controller's configuration: the group, when nobody else names it; and
the name of its amphora among peers."""

import pytest

from amphora_agent.haproxy import render, text
from lab import listeners


def added_group(configuration: str) -> str | None:
    addition = text.parse(render.addition(text.parse(configuration), "nogroup"))
    (section,) = addition.sections
    assert section.kind == "global"
    group = section.first("group")
    return group.words[1] if group is not None else None


@pytest.mark.parametrize(
    "configuration",
    [
        "",
        "global\n    user nobody\n",
        "global\n    # group old\n",
        "global\n    user nobody # group old\n",
        "global\n    description 'a group b'\n",
        "global\n    user group\n",
        "frontend f\n    group old\n",
        "userlist u\n    group g users a\n",
        "peers group\n",
        "global\nuserlist u\n    group g\n",
        "global\n    groups old\n",
        "global\n    gid 1\n",
    ],
)
def test_the_group_is_added_when_the_global_section_names_none(configuration: str) -> None:
    assert added_group(configuration) == "nogroup"


@pytest.mark.parametrize(
    "configuration",
    [
        "global\n    group old\n",
        "global\n\tgroup\told # why\n",
        "global\n    'group' old\n",
        "global\n    user nobody\nfrontend f\nglobal\n    group old\n",
    ],
)
def test_a_group_that_the_controller_names_stays_the_only_one(configuration: str) -> None:
    assert added_group(configuration) is None


def test_a_check_has_a_tiny_tls_cache() -> None:
    (section,) = text.parse(render.check_addition()).sections
    assert section.kind == "global"
    assert [d.words for d in section.directives] == [("tune.ssl.cachesize", "1")]


def said(configuration: str) -> dict[str, tuple[str, ...]]:
    config = text.parse(configuration, render.KEYWORDS)
    (section,) = text.parse(render.addition(config, "nogroup")).sections
    return {directive.words[0]: directive.words[1:] for directive in section.directives}


def test_old_workers_are_bounded() -> None:
    assert said("global\n    daemon\n") == {
        "group": ("nogroup",),
        "hard-stop-after": ("1h",),
        "mworker-max-reloads": ("50",),
    }


@pytest.mark.parametrize("keyword", ["hard-stop-after", "mworker-max-reloads"])
def test_a_bound_that_the_controller_names_stays_the_only_one(keyword: str) -> None:
    assert keyword not in said(f"global\n    {keyword} 30\n")
    assert keyword in said(f"global\n    # {keyword} 30\n")
    assert keyword in said(f"defaults\n    {keyword} 30\n")


@pytest.mark.parametrize(
    ("amphora_id", "name"),
    [
        # Computed with octavia.common.utils.base64_sha1_string of release 19, less the padding.
        ("a", "hvfkN-qlp-zhXR3cuerq6jd2Z7g"),
        ("b", "6dcfXufJLW3J6S-9rRe4vUlBj5g"),
        ("8", "xl27zqXOfimIuMabz9-eiQSqvB8"),
    ],
)
def test_the_peer_name_is_the_controller_s(amphora_id: str, name: str) -> None:
    assert render.peer_name(amphora_id) == name


def test_a_peer_name_never_begins_with_a_hyphen() -> None:
    names = {render.peer_name(str(number)) for number in range(2000)}
    assert all(len(name) == 27 for name in names)
    assert not any(name.startswith("-") for name in names)
    assert any(name.startswith("x") for name in names)
    assert not any(set(name) & set("+/=") for name in names)


def test_the_laboratory_computes_the_same_peer_name() -> None:
    for number in range(300):
        assert listeners.peer_name(str(number)) == render.peer_name(str(number))
