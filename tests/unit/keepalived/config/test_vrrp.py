"""VRRP configurations: what is refused, and what keepalived is given."""

import pytest

from amphora_agent.keepalived.config.language import ConfigError
from amphora_agent.keepalived.config.vrrp import rewrite

CHECK = "/var/lib/octavia/vrrp/check_script.sh"
FIFO = "/run/amphora-agent/vrrp-notify"
TEXT = f"""\
vrrp_script check_script {{
    script {CHECK}
    interval 5
}}

vrrp_instance 0c1cbc2b3d9e {{
    interface eth1
    virtual_routes {{
        10.1.0.0/24 dev eth1 src 10.1.0.5 scope link table 1
        default via 10.1.0.1 dev eth1 onlink table 1
        10.9.0.0/24 dev eth1 gateway 10.1.0.254 onlink table 1
    }}
    track_script {{
        check_script
    }}
    virtual_router_id 1
}}
"""


def given(text: str) -> str:
    return rewrite(text.encode(), CHECK, FIFO).text.decode()


def test_a_controllers_text_is_in_order() -> None:
    assert given(TEXT) == given(TEXT.replace(CHECK, f'"{CHECK}"'))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no vrrp_instance"),
        ("virtual_server 10.1.0.5 80 {\n}\n", "virtual_server is not allowed"),
        (f"{TEXT}\0", "NUL"),
        (f"{TEXT}include /etc/shadow\n", "include is not allowed"),
        (f"{TEXT}\tincludet /etc/shadow\n", "includet is not allowed"),
        (TEXT.replace("interface", "notify /bin/id\n interface"), "notify is not allowed"),
        (TEXT.replace(CHECK, "/bin/id"), "this program is not allowed"),
        (TEXT.replace(CHECK, f"{CHECK} more"), "it takes one value, not 2"),
        (TEXT.replace(CHECK, f'"{CHECK} more"'), "this program is not allowed"),
        (f"{TEXT}global_defs {{ script_user nobody\n}}\n", "global_defs is not allowed"),
        (f"{TEXT}vrrp_script other {{ script /bin/id\n}}\n", "this program is not allowed"),
    ],
)
def test_refuses_keywords_outside_vrrp_and_programs_and_files(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        rewrite(text.encode(), CHECK, FIFO)


#: What each row of B1 puts into a text, and where.
B1 = [
    ("vrrp_script", 'global_defs {\n startup_script "/bin/sh -c id"\n}\nvrrp_script'),
    ("vrrp_script", 'global_defs{shutdown_script "/bin/sh -c id"}vrrp_script'),
    ("interface eth1", '@^zz notify_fault "/bin/sh -c id"\n interface eth1'),
    ("interface eth1", '@zz notify_fault "/bin/sh -c id"\n interface eth1'),
    ("interface eth1", '"notify_fault" "/bin/sh -c id"\n interface eth1'),
    ("interface eth1", 'notify_master"/bin/sh -c id"\n interface eth1'),
    ("interface eth1", 'interface eth1 }global_defs{startup_script "/bin/sh -c id"'),
    ("interface eth1", "interface eth1\vnotify /bin/id"),
    ("vrrp_script", "$N=notify_fault\nvrrp_script"),
    ("interface eth1", "${N} /bin/id\n interface eth1"),
    ("interface eth1", "~SEQ(x, 1) notify /bin/id\n interface eth1"),
    ("interface eth1", "interface ${_PWD}"),
]


@pytest.mark.parametrize(("old", "new"), B1)
def test_b1_no_way_of_writing_brings_a_program_in(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=r"^line \d+: "):
        rewrite(TEXT.replace(old, new, 1).encode(), CHECK, FIFO)


def test_host_routes_get_a_next_hop() -> None:
    assert "        10.9.0.0/24 dev eth1 via 10.1.0.254 onlink table 1\n" in given(TEXT)
    assert "gateway" not in given(TEXT)


def test_a7_the_router_has_an_id_that_no_name_service_is_asked_for() -> None:
    """Operator row 5 is the same: 10 s at each check and start."""
    settings, _, text = given(TEXT).partition("}\n")
    assert "    router_id amphora\n" in settings
    assert "global_defs" not in text


def test_rewrites_its_own_text_to_the_same_text() -> None:
    _, _, own = given(TEXT).partition("}\n")
    assert given(own) == given(TEXT)
