"""What haproxy is shown of a configuration to prove a change of it."""

import pytest

from amphora_agent.haproxy.config.diff import build_minimal_config, compare_configs

BEFORE = """\
# A load balancer
global
    stats socket /run/a.sock

defaults
    mode http

userlist people
    user one insecure-password two

frontend front-a
    bind 192.0.2.1:80
    default_backend back-a

backend back-a
    server one 192.0.2.11:80

frontend front-b
    bind 192.0.2.1:81
    use_backend back-c if { path /c }
    default_backend back-b

backend back-b
    server one 192.0.2.11:80

backend back-c
    server one 192.0.2.11:80

backend back-c2
    server one 192.0.2.11:80 track back-b/one
"""

ALWAYS = {"# A load balancer", "global", "defaults", "userlist people"}


def shown(after: str, before: str = BEFORE) -> str | None:
    wanted = {"haproxy.cfg": after}
    part = build_minimal_config(wanted, compare_configs({"haproxy.cfg": before}, wanted))
    return None if part is None else part["haproxy.cfg"]


def headers(part: str | None) -> set[str]:
    """What begins a section in it, but for what always does."""
    assert part is not None
    return {line for line in part.split("\n") if line and line[0] != " "} - ALWAYS


def changed(section: str, line: str = "    retries 2") -> str:
    """The configuration with one line more in a section."""
    assert f"\n{section}\n" in BEFORE
    return BEFORE.replace(f"\n{section}\n", f"\n{section}\n{line}\n")


def test_leaves_blank_lines_for_sections_without_a_change() -> None:
    after = changed("backend back-a")

    part = shown(after)

    assert part is not None
    lines, all_lines = part.split("\n"), after.split("\n")
    assert len(lines) == len(all_lines)
    assert all(line in ("", whole) for line, whole in zip(lines, all_lines, strict=True))


def test_keeps_sections_that_name_a_changed_one_with_all_that_they_name() -> None:
    assert headers(shown(changed("backend back-c"))) == {
        "backend back-c",
        "frontend front-b",
        "backend back-b",
    }


def test_a_name_is_another_one_when_it_goes_on() -> None:
    assert headers(shown(changed("backend back-c2"))) == {"backend back-c2", "backend back-b"}


def test_a_member_that_another_backend_tracks_is_shown_with_it() -> None:
    assert "backend back-c2" in headers(shown(changed("backend back-b")))


def test_keeps_sections_that_a_new_one_names() -> None:
    after = f"{BEFORE}frontend new\n    bind :90\n    default_backend back-a\n"

    assert headers(shown(after)) == {"frontend new", "backend back-a"}


def test_keeps_sections_that_name_a_removed_one() -> None:
    after = BEFORE.replace("backend back-a\n    server one 192.0.2.11:80\n", "")

    assert headers(shown(after)) == {"frontend front-a"}


def test_a_file_that_stays_is_shown_as_it_is() -> None:
    running = {"haproxy.cfg": BEFORE, "agent.cfg": "global\n    group nogroup\n"}
    wanted = {**running, "haproxy.cfg": changed("backend back-a")}

    part = build_minimal_config(wanted, compare_configs(running, wanted))

    assert part is not None
    assert list(part) == list(wanted)
    assert part["agent.cfg"] == wanted["agent.cfg"]


@pytest.mark.parametrize(
    "after",
    [
        changed("global", "    maxconn 10"),
        changed("defaults"),
        changed("userlist people", "    user two insecure-password two"),
        f"{BEFORE}listen both\n    bind :90\n",
        f"{BEFORE}backend back-a\n    server two 192.0.2.12:80\n",
        changed("backend back-a", "    id 7"),
    ],
    ids=["global", "defaults", "userlist", "listen", "twice", "a number of its own"],
)
def test_keeps_all_for_a_setting_that_reaches_everywhere(after: str) -> None:
    assert shown(after) is None


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("frontend front-b", '    use_backend "#3" if { path /x }'),
        ("frontend front-b", r"    use_backend b\x61ck-a if { path /x }"),
        ("frontend front-b", '    use_backend ba"ck-a" if { path /x }'),
        ("frontend front-b", "    use_backend ba''ck-a if { path /x }"),
        ("frontend front-b", "    filter spoe config /x"),
        ("frontend front-b", "    guid one"),
        ("frontend front-b", "    .if streq(a,a)"),
        ("frontend front-b", "    bind :443 ssl crt /x ocsp-update on"),
        ("global", "    zero-warning"),
        ("defaults", "    default_backend back-a"),
    ],
    ids=lambda value: value.strip(),
)
def test_where_a_text_may_join_sections_unseen_there_is_no_portion(section: str, line: str) -> None:
    before = changed(section, line)
    after = before.replace(
        "backend back-a\n    server", "backend back-a\n    retries 2\n    server"
    )

    assert after != before
    assert shown(after, before) is None


def test_without_a_socket_of_haproxy_s_own_there_is_no_portion() -> None:
    """haproxy refuses a configuration where nothing listens, and who does may be left out."""
    socket = "    stats socket /run/a.sock\n"

    assert shown(changed("backend back-a").replace(socket, ""), BEFORE.replace(socket, "")) is None


def test_quotes_and_comments_as_controllers_write_them_are_no_obstacle() -> None:
    line = '    http-request set-header A "b c" # as it was'
    before = changed("frontend front-b", line)
    after = before.replace("backend back-a\n", "backend back-a\n    retries 2\n")

    assert headers(shown(after, before)) == {"frontend front-a", "backend back-a"}
