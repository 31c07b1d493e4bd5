"""Whether a start will find descriptors and memory enough, as far as that is certain."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from amphora_agent.haproxy.headroom import Headroom
from amphora_agent.haproxy.preflight import Descriptors, descriptors, tls_cache

MANY = 1 << 40
MIB = 1 << 20


def a_text(limit: str = "maxconn 1000", *, defaults: str = "", more: str = "") -> str:
    return (
        f"global\n    {limit}\ndefaults\n    mode http\n    {defaults}\n"
        f"frontend f\n    bind 192.0.2.1:80\n    maxconn 600\n    default_backend b\n"
        f"backend b\n    fullconn 600\n    server s 192.0.2.9:80 check\n{more}"
    )


@pytest.mark.parametrize(
    ("text", "least"),
    [
        (a_text(), 2002),
        (a_text(more="frontend g\n    bind 192.0.2.1:81,192.0.2.2:81\n"), 2004),
        (a_text(more="backend c\n    server s 192.0.2.9:81\n"), 2002),
        (a_text(defaults="option splice-request"), 2302),
        (a_text(defaults="option splice-auto", more="frontend g\n    maxconn 500\n"), 2502),
        (a_text(defaults="option splice-auto", more="backend c\n"), 2502),
        (a_text("maxconn 1000\n    maxpipes 10", defaults="option splice-auto"), 2022),
        (a_text(defaults="no option splice-auto"), 2002),
        (a_text("maxconn 10\n    maxconn 1000"), 2002),
    ],
)
def test_a_start_needs_two_descriptors_for_each_connection_and_more(text: str, least: int) -> None:
    assert descriptors({"": text}, least - 1) == Descriptors(least, 1000)
    assert descriptors({"": text}, least) is None


@pytest.mark.parametrize(
    "text",
    [
        a_text(""),
        a_text("maxconn 0"),
        a_text("maxconn many"),
        a_text("# maxconn 1000"),
        a_text("no strict-limits\n    maxconn 1000"),
        a_text("ulimit-n 10\n    maxconn 1000"),
        a_text("fd-hard-limit 10\n    maxconn 1000"),
    ],
)
def test_where_haproxy_finds_its_own_way_nothing_is_certain(text: str) -> None:
    assert descriptors({"": text}, 100) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("global\n    tune.ssl.cachesize 1000000\nfrontend f\n    bind :1 ssl crt /x\n", 248000000),
        ("global\n    tune.ssl.cachesize 1000000\nbackend b\n    server s 192.0.2.1:1 ssl\n", 0),
        ("global\n    tune.ssl.cachesize many\nfrontend f\n    bind :1 ssl crt /x\n", 0),
        ("frontend f\n    bind :1 ssl crt /x\n", 0),
    ],
)
def test_the_tls_cache_is_there_where_tls_ends(text: str, size: int) -> None:
    assert tls_cache({"": text}) == size


# The machine


def headroom(root: Path, starter: str, contents: Mapping[str, str]) -> Headroom:
    """Of a machine whose kernel's files these are."""
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Headroom(starter, root)


HARD = "Limit            Soft Hard  Units\nMax open files   1024 20000 files\n"


@pytest.mark.parametrize("starter", ["self", "1"])
@pytest.mark.parametrize(
    ("capabilities", "most"), [("000001fffeffffff", 20000), ("000001ffffffffff", 1048576)]
)
def test_who_may_raise_limits_has_the_kernel_s(
    tmp_path: Path, starter: str, capabilities: str, most: int
) -> None:
    machine = headroom(
        tmp_path,
        starter,
        {
            f"proc/{starter}/status": f"Name:\tx\nCapEff:\t{capabilities}\n",
            f"proc/{starter}/limits": HARD,
            "proc/sys/fs/nr_open": "1048576\n",
        },
    )

    assert machine.descriptors() == most


MEMORY = "MemTotal: 4096 kB\nMemAvailable:    1048576 kB\nSwapTotal: 9 kB\nSwapFree:   1024 kB\n"
VERSION_1 = {
    "proc/self/cgroup": "5:cpu:/\n4:memory:/agents/one\n0::/\n",
    "sys/fs/cgroup/memory/agents/one/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/agents/one/memory.usage_in_bytes": f"{30 * MIB}\n",
    "sys/fs/cgroup/memory/agents/memory.limit_in_bytes": f"{100 * MIB}\n",
    "sys/fs/cgroup/memory/agents/memory.usage_in_bytes": f"{60 * MIB}\n",
    "sys/fs/cgroup/memory/agents/memory.stat": (
        f"active_file 1\ntotal_inactive_file {3 * MIB}\ntotal_active_file {4 * MIB}\n"
    ),
}
VERSION_2 = {
    "proc/self/cgroup": "0::/agents/one\n",
    "sys/fs/cgroup/agents/one/memory.max": "max\n",
    "sys/fs/cgroup/agents/one/memory.current": f"{30 * MIB}\n",
    "sys/fs/cgroup/agents/memory.max": f"{100 * MIB}\n",
    "sys/fs/cgroup/agents/memory.current": f"{60 * MIB}\n",
    "sys/fs/cgroup/agents/memory.stat": f"inactive_file {3 * MIB}\nactive_file {4 * MIB}\n",
}


@pytest.mark.parametrize(
    ("starter", "groups", "room"),
    [
        ("self", {}, 1025),
        ("self", VERSION_1, 48),
        ("self", VERSION_2, 48),
        ("1", VERSION_2, 1025),
    ],
    ids=["no groups", "version 1", "version 2", "those of others"],
)
def test_memory_is_what_the_machine_and_the_groups_have_left(
    tmp_path: Path, starter: str, groups: Mapping[str, str], room: int
) -> None:
    machine = headroom(tmp_path, starter, {"proc/meminfo": MEMORY, **groups})

    assert machine.memory() == room * MIB


def test_what_cannot_be_read_is_not_limited(tmp_path: Path) -> None:
    assert Headroom("self", tmp_path).descriptors() > MANY
    assert Headroom("self", tmp_path).memory() > MANY
