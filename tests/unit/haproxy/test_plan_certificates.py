"""Plans for certificate files: what haproxy has loaded, what is on disk, and what to do."""

import pytest

from amphora_agent.haproxy.replies import find_capabilities
from amphora_agent.haproxy.update.planner import FileChange, Plan, Step, make_plan
from lab.pki import Authority
from tests.unit.haproxy.update.test_planner import commands

TEXT = """\
global
    maxconn 1000
frontend f
    bind 10.0.0.5:443 ssl crt-list /c/l.pem ca-file /c/ca.pem verify required crl-file /c/crl.pem
    bind 10.0.0.5:444 ssl crt /c/single.pem
backend p
    server a 10.0.0.1:443 ssl crt /c/client.pem ca-file /c/ca.pem verify required
"""
AUTHORITY = Authority.create("one", key="ec")
OTHER = Authority.create("other", key="ec")
A, B = (AUTHORITY.issue(name, key="ec").pem for name in ("a", "b"))
LONG = Authority.create("root").intermediate("i").issue("long").pem


def planned(*files: FileChange, text: str = TEXT, version: str = "2.6.12") -> Plan:
    return make_plan({"x": text}, {"x": text}, files, find_capabilities(version))


@pytest.mark.parametrize("version", ["2.6.12", "2.8.25", "3.0.11"])
@pytest.mark.parametrize("path", ["/c/single.pem", "/c/client.pem"])
def test_a_certificate_is_replaced(path: str, version: str) -> None:
    made = planned(FileChange(path, A, B), version=version)
    assert made.step is Step.RUNTIME
    assert made.words == (f"certificate {path} replaced",)
    assert commands(made) == [f"set ssl cert {path}", f"commit ssl cert {path}"]
    (change,) = made.changes
    assert change.commands[0].payload == B.decode()
    assert change.commands[0].moot == ()
    assert [command.text for command in change.undo] == [f"abort ssl cert {path}"]
    assert [inquiry.text for inquiry in change.proof] == [f"show ssl cert {path}"]


def test_leaves_a_certificate_to_haproxy_that_only_a_crt_list_names() -> None:
    (change,) = planned(FileChange("/c/listed.pem", A, B)).changes
    assert [command.text for command in change.commands] == [
        "set ssl cert /c/listed.pem",
        "commit ssl cert /c/listed.pem",
    ]
    assert change.commands[0].moot


def test_authorities_and_revocations_are_replaced() -> None:
    both = AUTHORITY.certificate + OTHER.certificate
    made = planned(FileChange("/c/ca.pem", AUTHORITY.certificate, both))
    assert commands(made) == ["set ssl ca-file /c/ca.pem", "commit ssl ca-file /c/ca.pem"]
    assert made.changes[0].commands[0].payload == both.decode()


def test_authorities_are_not_replaced_where_certificates_have_been() -> None:
    """haproxy would die."""
    both = AUTHORITY.certificate + OTHER.certificate
    change = FileChange("/c/ca.pem", AUTHORITY.certificate, both)
    together = planned(change, FileChange("/c/single.pem", A, B))
    later = make_plan(
        {"x": TEXT}, {"x": TEXT}, [change], find_capabilities("3.0.11"), certificates_changed=True
    )
    listed = planned(change, FileChange("/c/l.pem", b"/c/a.pem\n/c/b.pem\n", b"/c/a.pem\n"))
    for made in (together, later, listed):
        assert made.step is Step.RELOAD
        assert made.reasons == (
            "a CA or CRL file changed, and certificates have changed while haproxy ran",
        )
    # It is the certificates that come first.
    again = make_plan(
        {"x": TEXT},
        {"x": TEXT},
        [FileChange("/c/single.pem", A, B)],
        find_capabilities("3.0.11"),
        certificates_changed=True,
    )
    assert again.step is Step.RUNTIME


LIST = b"/c/a.pem\n/c/b.pem\n"
LISTS = [
    (b"/c/a.pem\n/c/b.pem\n", b"/c/a.pem\n", ["del ssl crt-list /c/l.pem /c/b.pem"]),
    (b"/c/a.pem\n", b"/c/a.pem\n/c/b.pem\n", ["add ssl crt-list /c/l.pem /c/b.pem"]),
    (
        b"/c/a.pem\n/c/b.pem\n/c/d.pem\n",
        b"/c/a.pem\n/c/d.pem\n/c/e.pem\n",
        ["add ssl crt-list /c/l.pem /c/e.pem", "del ssl crt-list /c/l.pem /c/b.pem"],
    ),
    (b"/c/a.pem\n/c/b.pem [alpn h2] x.y\n", b"/c/a.pem\n", ["del ssl crt-list /c/l.pem /c/b.pem"]),
    (b"/c/a.pem\n", b"# first\n\n /c/a.pem\n", []),
]


@pytest.mark.parametrize(("before", "after", "expected"), LISTS)
def test_crt_lists(before: bytes, after: bytes, expected: list[str]) -> None:
    made = planned(FileChange("/c/l.pem", before, after))
    assert made.step is (Step.RUNTIME if expected else Step.NOTHING)
    assert commands(made) == expected


def test_a_new_certificate_is_there_before_a_crt_list_names_it() -> None:
    made = planned(
        FileChange("/c/l.pem", LIST, LIST + b"/c/new.pem\n"),
        FileChange("/c/new.pem", None, A),
    )
    assert commands(made) == [
        "new ssl cert /c/new.pem",
        "set ssl cert /c/new.pem",
        "commit ssl cert /c/new.pem",
        "add ssl crt-list /c/l.pem /c/new.pem",
    ]
    assert [inquiry.text for change in made.changes for inquiry in change.proof] == [
        "show ssl cert /c/new.pem",
        "show ssl crt-list -n /c/l.pem",
    ]


def test_a_certificate_that_is_gone_from_disk_is_forgotten() -> None:
    made = planned(
        FileChange("/c/l.pem", LIST, b"/c/a.pem\n"),
        FileChange("/c/b.pem", B, None),
    )
    assert commands(made) == ["del ssl crt-list /c/l.pem /c/b.pem", "del ssl cert /c/b.pem"]


RELOADS = {
    "the first certificate": (
        [FileChange("/c/l.pem", LIST, b"/c/b.pem\n")],
        "the first certificate is another one",
    ),
    "an empty crt-list": (
        [FileChange("/c/l.pem", LIST, b"")],
        "the first certificate is another one",
    ),
    "order": (
        [FileChange("/c/l.pem", LIST + b"/c/d.pem\n", b"/c/a.pem\n/c/d.pem\n/c/b.pem\n")],
        "where an entry stands may count",
    ),
    "one in the middle": (
        [FileChange("/c/l.pem", LIST, b"/c/a.pem\n/c/d.pem\n/c/b.pem\n")],
        "where an entry stands may count",
    ),
    "an entry with options": (
        [FileChange("/c/l.pem", LIST, LIST + b"/c/d.pem [alpn h2]\n")],
        "entries with options",
    ),
    "options of an entry": (
        [FileChange("/c/l.pem", LIST, b"/c/a.pem\n/c/b.pem [alpn h2]\n")],
        "entries with options",
    ),
    "twice": (
        [FileChange("/c/l.pem", LIST, LIST + b"/c/b.pem\n")],
        "a certificate is there twice",
    ),
    "a name with a semicolon": (
        [FileChange("/c/l.pem", LIST, LIST + b"/c/b;quit\n")],
        "a name is not plain",
    ),
    "named and gone": (
        [FileChange("/c/single.pem", A, None)],
        "it is named, and was or is not there",
    ),
    "named and gone from a crt-list": (
        [FileChange("/c/l.pem", LIST, LIST + b"/c/d.pem\n"), FileChange("/c/d.pem", A, None)],
        "it is named, and was or is not there",
    ),
    "no certificate": (
        [FileChange("/c/single.pem", A, b"nothing\n")],
        "it has not one key and its certificate",
    ),
    "no key": (
        [FileChange("/c/single.pem", A, AUTHORITY.certificate)],
        "it has not one key and its certificate",
    ),
    "two keys": (
        [FileChange("/c/single.pem", A, A + B)],
        "it has not one key and its certificate",
    ),
    "cut off": ([FileChange("/c/single.pem", A, B[:-20])], "not base64 in PRIVATE KEY"),
    "commands in a certificate": (
        [FileChange("/c/single.pem", A, B.replace(b"\n", b"\n\nshow info\n", 1))],
        "line 2: a blank line in CERTIFICATE",
    ),
    "a key in a CA file": (
        [FileChange("/c/ca.pem", AUTHORITY.certificate, A)],
        "it has something else than certificates",
    ),
    "certificates for a CRL": (
        [FileChange("/c/crl.pem", b"", AUTHORITY.certificate)],
        "it has something else than revocation lists",
    ),
    "too long": (
        [FileChange("/c/single.pem", A, LONG + AUTHORITY.certificate * 30)],
        "it does not fit into a buffer of haproxy's",
    ),
}


@pytest.mark.parametrize("name", RELOADS)
def test_plans_a_reload_for_other_changes(name: str) -> None:
    files, reason = RELOADS[name]
    made = planned(*files)
    assert made.step is Step.RELOAD
    assert made.reasons[0].endswith(reason)
    assert made.changes == ()


@pytest.mark.parametrize(
    ("directive", "step"),
    [
        ("tune.bufsize 65536", Step.RUNTIME),
        ("tune.bufsize 1024", Step.RELOAD),
        ("tune.bufsize 64k", Step.RELOAD),
    ],
)
def test_a_larger_buffer_takes_more(directive: str, step: Step) -> None:
    text = TEXT.replace("maxconn 1000", f"maxconn 1000\n    {directive}")
    long = LONG + AUTHORITY.certificate * 30
    assert planned(FileChange("/c/single.pem", A, long), text=text).step is step


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ("/c/single.pem", "/c/"),
        ("/c/single.pem", "/c"),
        ("maxconn 1000", "maxconn 1000\n    crt-base /c"),
        ("maxconn 1000", "maxconn 1000\n    ca-base /c"),
    ],
)
def test_files_that_are_not_named_by_their_path_take_a_reload(now: str, then: str) -> None:
    made = planned(FileChange("/c/listed.pem", A, B), text=TEXT.replace(now, then))
    assert made.step is Step.RELOAD


@pytest.mark.parametrize(
    "file",
    [
        FileChange("/c/nobody.pem", None, A),
        FileChange("/c/nobody.pem", A, None),
        FileChange("/c/nobody.pem", b"x", b"y"),
        FileChange("/c/single.pem", A, A),
        FileChange("/c/single.pem", A, A.replace(b"\n", b"\r\n")),
        FileChange("/c/single.pem", A, b"a comment\n\n" + A + b"\n\n"),
        FileChange("/c/ca.pem", AUTHORITY.certificate, b"\n" + AUTHORITY.certificate),
    ],
)
def test_nothing_to_do(file: FileChange) -> None:
    assert planned(file) == Plan(Step.NOTHING)


def test_without_crt_lists_only_files_by_name_count() -> None:
    text = TEXT.replace("crt-list /c/l.pem", "crt /c/l.pem")
    assert planned(FileChange("/c/listed.pem", A, B), text=text).step is Step.NOTHING


def test_no_payload_has_a_blank_line_or_anything_around_a_block() -> None:
    spread = b"notes; show info\n\n" + B.replace(b"-----\n-----BEGIN", b"-----\n\n\nx\n-----BEGIN")
    (change,) = planned(FileChange("/c/single.pem", A, spread)).changes
    assert change.commands[0].payload == B.decode()


def test_a_change_of_the_text_too_takes_one_reload() -> None:
    new = TEXT.replace("10.0.0.5:444", "10.0.0.5:445")
    files = [FileChange("/c/single.pem", A, B)]
    made = make_plan({"x": TEXT}, {"x": new}, files, find_capabilities("3.0"))
    assert made.step is Step.RELOAD
    assert made.reasons == ("listener f: bind changed, line 5",)
    assert made.words == ("certificate /c/single.pem replaced", "listener f: bind changed, line 5")
