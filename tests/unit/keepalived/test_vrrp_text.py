"""VRRP configurations: what is refused, what keepalived is given, what it complains about."""

import pytest

from amphora_agent.keepalived.vrrp_text import complaints, given, objection

CHECK = "/var/lib/octavia/vrrp/check_script.sh"
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
}}
"""


def test_a_controllers_text_is_in_order() -> None:
    assert objection(TEXT, CHECK) is None
    assert objection(TEXT.replace(CHECK, f'"{CHECK}"'), CHECK) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no vrrp_instance"),
        ("virtual_server 10.1.0.5 80 {\n}\n", "no vrrp_instance"),
        (f"{TEXT}\0", "NUL"),
        (f"{TEXT}include /etc/shadow\n", "include is not allowed here: /etc/shadow"),
        (f"{TEXT}\tincludet /etc/shadow\n", "includet is not allowed"),
        (TEXT.replace("interface", 'notify_master "/bin/sh -c id"\n interface'), "notify_master"),
        (TEXT.replace("interface", "notify /bin/id\n interface"), "notify is not allowed"),
        (TEXT.replace(CHECK, "/bin/id"), "script is not allowed here: /bin/id"),
        (TEXT.replace(CHECK, f"{CHECK} more"), "script is not allowed"),
        (f"{TEXT}global_defs {{ script_user nobody\n}}\n", "script_user is not allowed"),
        (f"{TEXT}vrrp_script other {{ script /bin/id\n}}\n", "script is not allowed"),
    ],
)
def test_what_is_not_vrrp_or_reaches_out_is_refused(text: str, why: str) -> None:
    assert why in str(objection(text, CHECK))


def test_host_routes_get_a_next_hop_and_nothing_else_changes() -> None:
    added, text = given(TEXT).split("}\n", 1)
    assert added == "global_defs {\n    script_user root\n    enable_script_security\n"
    assert text == TEXT.replace("gateway 10.1.0.254", "via 10.1.0.254")


def test_complaints_are_told_from_advice() -> None:
    output = """\
(/v/k.conf: Line 12) Unknown keyword 'nopreemptx'
(/v/k.conf: Line 12) Unknown keyword 'nopreemptx'
(/v/k.conf: Line 9) WARNING - interface eth7 for vrrp_instance x doesn't exist
(/v/k.conf: Line 19) Truncating auth_pass to 8 characters
There are 2 missing '}'s or extra '{'s
(x) Warning - nopreempt will not work with initial state MASTER - clearing
(x) A unicast keyword has been specified without any unicast peers. Defaulting to multicast.
Non-existent interface specified in configuration
Disabling track script check_script since not found/accessible
"""
    assert complaints(output) == [
        "(/v/k.conf: Line 8) Unknown keyword 'nopreemptx'",  # in the controller's own text
        "There are 2 missing '}'s or extra '{'s",
        "Non-existent interface specified in configuration",
        "Disabling track script check_script since not found/accessible",
    ]
    assert complaints("") == []
