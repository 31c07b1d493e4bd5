"""Plans: an old and a new configuration, and what to do to get from one to the other.

The rows for members are in plans/members.txt; each is played with every version.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from amphora_agent.haproxy.replies import Capabilities, find_capabilities
from amphora_agent.haproxy.update.planner import Plan, Step, make_plan

VERSIONS = {"2.6": "2.6.12-1+deb12u4", "2.8": "2.8.25", "3.0": "3.0.11-1+deb13u5"}

HEAD = """\
global
    maxconn 1000
defaults
    mode http
frontend f
    bind 10.0.0.5:80
    default_backend p
"""
TAIL = "backend other\n    server a 10.0.0.1:80\n"


class Row(NamedTuple):
    name: str
    old: str
    new: str
    commands: dict[str, list[str]]
    reasons: dict[str, list[str]]


def of_versions(mark: str) -> list[str]:
    """`2.6` is for that version alone, `2.8` for it and later ones, nothing for all."""
    return {"": list(VERSIONS), "2.6": ["2.6"], "2.8": ["2.8", "3.0"]}[mark]


def rows(file: str) -> Iterator[Row]:
    text = Path(__file__).with_name("plans").joinpath(file).read_text()
    for part in text.split("\n\n"):
        lines = [line for line in part.split("\n") if line and not line.startswith("#")]
        if not lines:
            continue
        row = Row(lines[0], "", "", {v: [] for v in VERSIONS}, {v: [] for v in VERSIONS})
        old, new = [], []
        for line in lines[1:]:
            sign, _, rest = line.partition(" ")
            if sign in ("", "-"):
                old.append(rest.strip())
            if sign in ("", "+"):
                new.append(rest.strip())
            if sign[:1] in (">", "!"):
                for version in of_versions(sign[1:]):
                    found = row.commands if sign[0] == ">" else row.reasons
                    found[version].append(rest)
        yield row._replace(old=pool(old), new=pool(new))


def pool(lines: list[str]) -> str:
    return HEAD + "backend p\n" + "".join(f"    {line}\n" for line in lines) + TAIL


def planned(old: str, new: str, version: str = "3.0") -> Plan:
    capabilities: Capabilities = find_capabilities(VERSIONS[version])
    return make_plan({"haproxy.cfg": old}, {"haproxy.cfg": new}, (), capabilities)


def commands(made: Plan) -> list[str]:
    return [command.text for change in made.changes for command in change.commands]


MEMBERS = list(rows("members.txt"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("row", MEMBERS, ids=[row.name for row in MEMBERS])
def test_members(row: Row, version: str) -> None:
    made = planned(row.old, row.new, version)
    assert list(made.reasons) == row.reasons[version]
    assert commands(made) == row.commands[version]
    if row.reasons[version]:
        assert made.step is Step.RELOAD
    elif row.commands[version]:
        assert made.step is Step.RUNTIME
    else:
        assert made.step is Step.NOTHING


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("row", MEMBERS, ids=[row.name for row in MEMBERS])
def test_a_command_about_a_member_carries_it(row: Row, version: str) -> None:
    for change in planned(row.old, row.new, version).changes:
        for command in change.commands:
            named = re.search(r"\S+/\S+", command.text)
            assert command.server == (named[0] if named else "")


# What an algorithm allows while haproxy runs: + is what can be done, - is what takes a reload.
OPERATIONS = {
    "add": ("server b 10.0.0.2:80", "server b 10.0.0.2:80\nserver c 10.0.0.3:80"),
    "remove": ("server b 10.0.0.2:80\nserver c 10.0.0.3:80", "server b 10.0.0.2:80"),
    "weight": ("server b 10.0.0.2:80 weight 3", "server b 10.0.0.2:80 weight 4"),
    "move": ("server b 10.0.0.2:80 check", "server b 10.0.0.3:80 check"),
    "disable": ("server b 10.0.0.2:80 check", "server b 10.0.0.2:80 check disabled"),
    "enable": ("server b 10.0.0.2:80 check disabled", "server b 10.0.0.2:80 check"),
    "order": (
        "server b 10.0.0.2:80\nserver c 10.0.0.3:80",
        "server c 10.0.0.3:80\nserver b 10.0.0.2:80",
    ),
}
ALGORITHMS = """
                                            add remove weight move disable enable order
(none)                                       +    +      +     +      +      +      +
roundrobin                                   +    +      +     +      +      +      +
leastconn                                    +    +      +     +      +      +      +
random                                       +    +      +     +      +      +      +
random(3)                                    +    +      +     +      +      +      +
static-rr                                    -    +      -     +      +      +      -
first                                        -    +      -     +      +      +      -
source                                       -    +      -     +      +      +      -
source/hash-type map-based                   -    +      -     +      +      +      -
source/hash-type map-based sdbm avalanche    -    +      -     +      +      +      -
source/hash-type consistent                  +    +      +     +      +      +      -
source/hash-type consistent djb2             +    +      +     +      +      +      -
uri                                          -    +      -     +      +      +      -
uri/hash-type consistent                     +    +      +     +      +      +      -
url_param id                                 -    +      -     +      +      +      -
url_param id/hash-type consistent            +    +      +     +      +      +      -
hdr(Host)                                    -    +      -     +      +      +      -
hdr(Host)/hash-type consistent               +    +      +     +      +      +      -
rdp-cookie                                   -    +      -     +      +      +      -
hash src                                     -    +      -     +      +      +      -
hash src/hash-type consistent                +    +      +     +      +      +      -
static-rr/hash-type consistent               -    +      -     +      +      +      -
first/hash-type consistent                   -    +      -     +      +      +      -
something-new                                -    +      -     +      +      +      -
"""


def of_algorithms() -> Iterator[tuple[str, str, bool]]:
    header, *lines = ALGORITHMS.strip("\n").split("\n")
    for line in lines:
        algorithm, cells = line[:43].strip(), line[43:].split()
        for operation, cell in zip(header.split(), cells, strict=True):
            yield algorithm, operation, cell == "+"


@pytest.mark.parametrize("where", ["in the pool", "in its defaults"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("algorithm", "operation", "possible"), list(of_algorithms()))
def test_algorithms(
    algorithm: str, operation: str, possible: bool, version: str, where: str
) -> None:
    balance, _, hash_type = algorithm.partition("/")
    lines = [] if balance == "(none)" else [f"balance {balance}"]
    lines += [hash_type] if hash_type else []
    old, new = OPERATIONS[operation]
    texts = [
        pool([*lines, *members.split("\n")])
        if where == "in the pool"
        else pool(members.split("\n")).replace("mode http", "\n".join(["mode http", *lines]))
        for members in (old, new)
    ]
    made = planned(texts[0], texts[1], version)
    unless = Step.NOTHING if operation == "order" else Step.RUNTIME
    assert made.step is (unless if possible else Step.RELOAD)


WHOLE = """\
# Configuration
global
    daemon
    user nobody
    maxconn 1000
    stats socket /s mode 0666 level user
defaults
    log global
    retries 3
    option redispatch
peers x_peers
    peer me 10.0.0.7:1025
frontend f
    maxconn 50
    bind 10.0.0.5:80
    bind 10.0.0.6:443 ssl crt-list /c/l.pem ca-file /c/ca.pem verify required
    mode http
    acl x path -m beg /x
    use_backend q if x
    default_backend p
    timeout client 50000
backend p
    mode http
    balance roundrobin
    option httpchk GET /
    timeout server 50000
    server a 10.0.0.1:80 weight 1 check
backend q
    mode http
    server a 10.0.0.1:80
"""

#: What takes a reload: what stands there now, what shall stand there, and the reason given.
RELOADS = [
    ("    daemon\n", "", "global: daemon changed"),
    ("user nobody", "user root", "global: user changed, line 4"),
    ("maxconn 1000", "maxconn 2000", "connection limit of all listeners 1000 -> 2000"),
    ("    maxconn 1000\n", "", "connection limit of all listeners 1000 -> none"),
    ("maxconn 1000", "maxconn 0", "connection limit of all listeners 1000 -> 0"),
    ("maxconn 1000", 'maxconn "$N"', "connection limit of all listeners 1000 -> $N"),
    ("maxconn 1000", "maxconn 900\n    maxconn 800", "connection limit of all listeners"),
    ("maxconn 1000", "maxconn 1000\n    nbthread 2", "global: nbthread changed, line 6"),
    ("maxconn 1000", "maxconn 1000\n    tune.bufsize 1", "global: tune.bufsize changed, line 6"),
    ("level user", "level admin", "global: stats changed, line 6"),
    ("retries 3", "retries 4", "defaults: retries changed, line 9"),
    ("retries 3", "retries 3\n    maxconn 8", "defaults: maxconn changed, line 10"),
    ("    log global\n", "", "defaults: log changed"),
    ("peer me 10.0.0.7:1025", "peer me 10.0.0.8:1025", "peers x_peers: peer changed, line 12"),
    ("    peer me 10.0.0.7:1025\n", "", "peers x_peers: peer changed"),
    ("bind 10.0.0.5:80", "bind 10.0.0.5:81", "listener f: bind changed, line 15"),
    ("bind 10.0.0.5:80", "bind 10.0.0.5:80 tfo", "listener f: bind changed, line 15"),
    ("    bind 10.0.0.5:80\n", "", "listener f: bind changed"),
    ("verify required", "verify none", "listener f: bind changed, line 16"),
    ("/c/l.pem", "/c/other.pem", "listener f: bind changed, line 16"),
    ("    maxconn 50\n", "", "listener f: connection limit 50 -> none"),
    ("maxconn 50\n", "maxconn 0\n", "listener f: connection limit 50 -> 0"),
    ("maxconn 50\n", "maxconn 5k\n", "listener f: connection limit 50 -> 5k"),
    ("maxconn 50\n", "maxconn 50\n    maxconn 60\n", "listener f: connection limit 50 -> 50 60"),
    ("beg /x", "beg /y", "listener f: acl changed, line 18"),
    ("use_backend q if x", "use_backend p if x", "listener f: use_backend changed, line 19"),
    ("default_backend p", "default_backend q", "listener f: default_backend changed, line 20"),
    ("timeout client 50000", "timeout client 1", "listener f: timeout changed, line 21"),
    (
        "    acl x path -m beg /x\n    use_backend q if x\n",
        "    use_backend q if x\n    acl x path -m beg /x\n",
        "listener f: lines follow one another otherwise",
    ),
    ("    mode http\n    acl", "    mode tcp\n    acl", "listener f: mode changed, line 17"),
    ("frontend f\n", "frontend f from x\n", "listener f: frontend changed, line 13"),
    ("frontend f\n", "frontend g\n", "listener g added"),
    ("frontend f\n", "frontend g\n", "listener f removed"),
    ("backend q\n", "backend r\n", "pool q removed"),
    ("backend q\n", "backend r\n", "pool r added"),
    ("backend q\n", "backend q from x\n", "pool q: backend changed, line 28"),
    ("backend q\n", "listen l\nbackend q\n", "listen l added"),
    ("backend q\n", "ring r\n    size 1\nbackend q\n", "ring r added"),
    ("balance roundrobin", "balance leastconn", "pool p: balance changed, line 24"),
    ("option httpchk GET /", "option httpchk GET /x", "pool p: option changed, line 25"),
    ("timeout server 50000", "timeout server 5", "pool p: timeout changed, line 26"),
    ("weight 1 check", "weight 1 check\n    http-reuse safe", "pool p: http-reuse changed"),
    ("weight 1 check", "weight 1 check\n    disabled", "pool p: disabled changed, line 28"),
    ("weight 1 check", "weight 1 check\n    cookie X insert", "pool p: cookie changed, line 28"),
    ("# Configuration\n", "user root\n", "what is before all sections: user changed, line 1"),
    ("retries 3", "'retries' 3", "defaults: line 9 changed: it is not plainly written"),
    ("    server a 10.0.0.1:80\n", "    server a 10.0.0.1:80", "pool q: line 30 changed"),
    ("weight 1 check", "weight 1 check # \0", "pool p: line 27 changed"),
    ("weight 1 check", "weight 1 check\n    fullconn x", "pool p: fullconn none -> x"),
    ("weight 1 check", "weight 1 check\n    \x7f", "pool p: "),
    ("backend q\n    mode http\n", ".if 1\nbackend q\n    mode http\n.endif\n", "configuration"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("now", "then", "reason"), RELOADS, ids=[row[2] for row in RELOADS])
def test_plans_a_reload_for_other_changes(now: str, then: str, reason: str, version: str) -> None:
    assert WHOLE.count(now) == 1
    made = planned(WHOLE, WHOLE.replace(now, then), version)
    assert made.step is Step.RELOAD
    assert any(given.startswith(reason) for given in made.reasons), made.reasons
    assert set(made.reasons) & set(made.words) or any(
        reason.startswith(words) for words in made.words for reason in made.reasons
    )
    assert made.changes == ()


SAME = [
    ("", ""),
    ("# Configuration\n", ""),
    ("# Configuration", "# Another load balancer"),
    ("    daemon\n", "    daemon # it is\n\n\n"),
    ("    retries 3\n", "\tretries   3\n"),
    ("    retries 3\n", "    retries 3\r\n"),
    ("    server a 10.0.0.1:80 weight 1 check\n", "  server a 10.0.0.1:80 check weight 1 # x\n"),
    ("    maxconn 50\n", "    maxconn   50\n"),
    ("    maxconn 50\n    bind 10.0.0.5:80\n", "    bind 10.0.0.5:80\n    maxconn 50\n"),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("now", "then"), SAME)
def test_plans_nothing_for_texts_that_mean_the_same(now: str, then: str, version: str) -> None:
    made = planned(WHOLE, WHOLE.replace(now, then), version)
    assert made == Plan(Step.NOTHING)


LIMITS = [
    ("maxconn 50\n", "maxconn 60\n", ["set maxconn frontend f 60"]),
    ("maxconn 50\n", "maxconn 1\n", ["set maxconn frontend f 1"]),
    ("maxconn 1000", "maxconn 999", ["set maxconn global 999"]),
    ("mode http\n    acl", "mode http\n    disabled\n    acl", ["disable frontend f"]),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("now", "then", "expected"), LIMITS)
def test_limits(now: str, then: str, expected: list[str], version: str) -> None:
    made = planned(WHOLE, WHOLE.replace(now, then), version)
    assert made.step is Step.RUNTIME
    assert commands(made) == expected


def test_a_listener_that_was_switched_off_by_its_configuration_has_no_sockets() -> None:
    off = WHOLE.replace("mode http\n    acl", "mode http\n    disabled\n    acl")
    assert planned(off, WHOLE).reasons == ("listener f: enabled: it has no sockets",)


def test_reloads_for_all_changes_when_one_takes_a_reload() -> None:
    new = WHOLE.replace("maxconn 50\n", "maxconn 60\n").replace("retries 3", "retries 4")
    made = planned(WHOLE, new)
    assert made.step is Step.RELOAD
    assert made.reasons == ("defaults: retries changed, line 9",)
    assert made.words == (
        "defaults: retries changed, line 9",
        "listener f: connection limit 50 -> 60",
    )
    assert made.changes == ()


def test_changes_of_several_sections_come_together() -> None:
    new = WHOLE.replace("weight 1 check", "weight 2 check").replace("maxconn 50\n", "maxconn 60\n")
    made = planned(WHOLE, new.replace("maxconn 1000", "maxconn 500"))
    assert made.step is Step.RUNTIME
    assert made.words == (
        "connection limit of all listeners 1000 -> 500",
        "listener f: connection limit 50 -> 60",
        "pool p: member a: weight 1 -> 2",
    )
    assert [change.words for change in made.changes] == list(made.words)


def test_starts_a_haproxy_that_does_not_run() -> None:
    made = make_plan(None, {"haproxy.cfg": WHOLE}, (), find_capabilities(VERSIONS["2.6"]))
    assert made.step is Step.START
    assert made.reasons == ("it does not run",)


def test_another_file_counts() -> None:
    texts = {"haproxy.cfg": WHOLE, "agent.cfg": "global\n    group x\n"}
    other = texts | {"agent.cfg": "global\n    group y\n"}
    made = make_plan(texts, other, (), find_capabilities(VERSIONS["2.8"]))
    assert made.reasons == ("global: group changed, line 2",)
    gone = make_plan(texts, {"haproxy.cfg": WHOLE}, (), find_capabilities(VERSIONS["2.8"]))
    assert gone.step is Step.RELOAD
    weight = texts | {"haproxy.cfg": WHOLE.replace("weight 1", "weight 2")}
    assert make_plan(texts, weight, (), find_capabilities(VERSIONS["2.8"])).step is Step.RUNTIME


@pytest.mark.parametrize("version", ["2.4.22", "1.8", "unknown"])
def test_older_versions_are_told_to_reload_for_new_members(version: str) -> None:
    old = pool(["server a 10.0.0.1:80"])
    new = pool(["server a 10.0.0.1:80", "server b 10.0.0.2:80"])
    made = make_plan({"x": old}, {"x": new}, (), find_capabilities(version))
    assert made.step is Step.RELOAD
    assert "this version cannot add members" in made.reasons[0]


def test_sections_in_another_order_take_a_reload() -> None:
    first, second = "backend a\n    mode http\n", "backend b\n    mode tcp\n"
    made = planned(f"{HEAD}{first}{second}", f"{HEAD}{second}{first}")
    assert made.reasons == ("sections follow one another otherwise",)


def test_words_are_bounded() -> None:
    old = "".join(f"backend p{n}\n    server a 10.0.0.1:80\n" for n in range(362))
    new = old.replace("10.0.0.1", "10.0.0.2")
    made = planned(old, new)
    assert len(made.changes) == 362
    assert len(made.words) == 51
    assert made.words[-1] == "and 312 more"
    members = [f"server m{n} 10.0.0.1:80" for n in range(362)]
    one = planned(pool([]), pool(members))
    assert len(one.words) == 1
    assert one.words[0].endswith("; and 312 more")
    assert one.changes[0].words == one.words[0]


def test_words_are_printable_and_short() -> None:
    name = "x" * 5000
    made = planned(pool([f"server {name} 10.0.0.1:80"]), pool([]))
    assert all(len(words) < 300 for words in made.words)
    for odd in ("a\x1b[31mb", "a\u2028b", "caf\u00e9", "\udcff"):
        made = planned(pool([]), pool([f"server {odd} 10.0.0.1:80"]))
        assert all(words.isascii() and words.isprintable() for words in made.words)


def test_asks_a_single_question_for_all_members_of_a_pool() -> None:
    old = [f"server m{n} 10.0.0.1:80" for n in range(20)]
    new = [f"server m{n} 10.0.0.1:80 weight {n + 2}" for n in range(20)]
    made = planned(pool(old), pool(new))
    assert [inquiry.text for change in made.changes for inquiry in change.proof] == [
        "show servers state p"
    ]


def test_nothing_in_a_command_separates_commands() -> None:
    for row in MEMBERS:
        for version in VERSIONS:
            for command in commands(planned(row.old, row.new, version)):
                assert not set(command) & set(";\n\r\\\"'\0"), command
