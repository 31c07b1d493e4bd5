"""What the agent adds to a controller's configuration: user and group, when the text names none;
and the name of its amphora among peers."""

import pytest

from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.config.preflight import Limits
from amphora_agent.haproxy.process import render
from lab import listeners


def said(configuration: str) -> dict[str, tuple[str, ...]]:
    (section,) = parser.parse_config(render.addition(configuration, "nogroup", Limits())).sections
    assert section.kind == "global"
    return {directive.words[0]: directive.words[1:] for directive in section.directives}


#: What is added where the text has none; each test of one is a test of the others.
ADDED = {"user": ("nobody",), "group": ("nogroup",)}


@pytest.mark.parametrize("keyword", ADDED)
@pytest.mark.parametrize(
    "configuration",
    [
        "",
        "global\n",
        "global\n    daemon\n",
        "global\n    # {} old\n",
        "global\n    daemon # {} old\n",
        "global\n    daemon #\\\n    #{} old\n",
        "global\n    description 'a {} b'\n",
        "global\n    description 'a\\n{} b'\n",
        "global\n    description {}\n",
        "global\n    stats socket /x level {}\n",
        "global\n    no {} old\n",
        "frontend f\n    {} old\n",
        "userlist u\n    {} g users a\n",
        "userlist u\n    {} a insecure-password b\nglobal\n    daemon\n",
        "peers {}\n",
        "global\nuserlist u\n    {} g\n",
        "global\n    {}s old\n",
        "global\n    {}-name old\n",
        "{} old\nglobal\n    daemon\n",
    ],
)
def test_b3_user_and_group_are_added_when_no_global_section_names_one(
    configuration: str, keyword: str
) -> None:
    assert said(configuration.format(keyword))[keyword] == ADDED[keyword]


@pytest.mark.parametrize("keyword", ADDED)
@pytest.mark.parametrize(
    "configuration",
    [
        "global\n    {} old\n",
        "global\n\t{}\told # why\n",
        "global\n    '{}' old\n",
        'global\n    "{}" old\n',
        "# why\nglobal\n    daemon\nfrontend f\nglobal\n    {} old\n",
        "userlist u\n    {} g\nglobal\n    {} old\n",
    ],
)
def test_adds_no_statement_that_the_controller_has(configuration: str, keyword: str) -> None:
    assert keyword not in said(configuration.replace("{}", keyword))


def test_a_check_has_a_tiny_tls_cache() -> None:
    (section,) = parser.parse_config(render.check_addition()).sections
    assert section.kind == "global"
    assert [d.words for d in section.directives] == [("tune.ssl.cachesize", "1")]


def test_old_workers_are_bounded() -> None:
    assert said("global\n    daemon\n") == {
        "user": ("nobody",),
        "group": ("nogroup",),
        "hard-stop-after": ("1h",),
        "max-spread-checks": ("100ms",),
        "mworker-max-reloads": ("50",),
    }


@pytest.mark.parametrize("keyword", ["hard-stop-after", "max-spread-checks", "mworker-max-reloads"])
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
