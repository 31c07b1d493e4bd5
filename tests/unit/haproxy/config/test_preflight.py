"""Whether a start will find descriptors and memory enough."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.config.preflight import DescriptorNeed, estimate_tls_cache, find_shortage
from amphora_agent.haproxy.validate.validator import ResourceLimits

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
    assert find_shortage({"": text}, least - 1) == DescriptorNeed(least, 1000)
    assert find_shortage({"": text}, least) is None


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
    assert find_shortage({"": text}, 100) is None


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
    assert estimate_tls_cache({"": text}) == size


# The machine


def headroom(root: Path, starter: str, contents: Mapping[str, str]) -> ResourceLimits:
    """Of a machine whose kernel's files these are."""
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return ResourceLimits(starter, root)


HARD = "Limit            Soft Hard  Units\nMax open files   1024 20000 files\n"


def test_e6_a_small_process_has_room_for_inherited_sockets() -> None:
    limits = preflight.choose_limits(a_text("maxconn 10"), MANY, None)
    assert (limits.maxconn, limits.maxpipes) == (None, 6000)


@pytest.mark.parametrize("text", ["maxconn 30000", "maxconn 10\n    maxpipes 3", "daemon"])
def test_e6_a_process_with_room_is_left_alone(text: str) -> None:
    assert preflight.choose_limits(a_text(text), MANY, None) == preflight.Limits()


def test_e6_room_is_the_same_whatever_the_number_of_connections() -> None:
    texts = [a_text(f"maxconn {connections}") for connections in (1, 10, 2000, 20_000)]
    assert {preflight.choose_limits(each, MANY, None).maxpipes for each in texts} == {6000}


@pytest.mark.parametrize("limit", [1024, 3000, 20_000])
def test_e6_room_and_what_is_needed_stay_within_the_limit(limit: int) -> None:
    text = a_text("maxconn 10")
    pipes = preflight.choose_limits(text, limit, None).maxpipes
    assert pipes is not None
    assert limit // 5 < 2 * pipes + 20 < limit


def test_a2_connections_are_what_the_descriptors_allow() -> None:
    text = a_text("maxconn 1000000")
    limits = preflight.choose_limits(text, 20_000, None)
    assert (limits.maxconn, limits.wanted) == (9800, 1_000_000)
    # One member more does not change it: that would be a reload.
    more = text + "    server t 192.0.2.3:80 check\n"
    assert preflight.choose_limits(more, 20_000, None).maxconn == limits.maxconn
    assert preflight.choose_limits(text, MANY, 1_000_000).maxconn == 1_000_000


def test_a2_what_no_limit_can_save_is_left_to_be_refused() -> None:
    assert preflight.choose_limits(a_text("maxconn 1000"), 200, None) == preflight.Limits()


@pytest.mark.parametrize("starter", ["self", "1"])
@pytest.mark.parametrize(
    ("capabilities", "most"), [("000001fffeffffff", 20000), ("000001ffffffffff", 1048576)]
)
def test_a_process_that_may_raise_its_limits_has_the_kernels(
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


def test_takes_no_limit_from_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert ResourceLimits("self", tmp_path).descriptors() > MANY
    assert ResourceLimits("self", tmp_path).memory() > MANY


def kibibytes(text: str, version: str = "2.6.12", threads: int = 2) -> tuple[int, int]:
    said = preflight.estimate_memory({"haproxy.cfg": text}, version, threads)
    return said.start >> 10, said.serving >> 10


@pytest.mark.parametrize(
    ("object_", "start", "serving"),
    [
        ("frontend f", 17.5, 13),
        ("listen f", 17.5, 13),
        ("backend b", 17.5, 13),
        ("\tserver\ts 192.0.2.9:80", 6, 6),
        ("    server s 192.0.2.9:80 check", 9.4, 7.5),
        ("    server s 192.0.2.9:80 ssl verify none", 20, 20),
        ("    server s 192.0.2.9:80 ssl verify none check inter 5s", 53.4, 51.5),
        ("    server checked 192.0.2.9:80 no-check", 6, 6),
        ("    bind 192.0.2.1:80", 0, 0),
        ("    use-server s if { always_true }", 0, 0),
    ],
)
def test_an_object_takes_memory_for_what_it_does(
    object_: str, start: float, serving: float
) -> None:
    none, many = kibibytes(""), kibibytes(f"{object_}\n" * 1000)
    assert many[0] - none[0] == pytest.approx(start * 1050, abs=1)
    assert many[1] - none[1] == pytest.approx(serving * 1050, abs=1)


def test_addresses_with_tls_have_a_session_cache_unless_the_text_says_how_large() -> None:
    bind = "frontend f\n    bind 192.0.2.1:443 ssl crt a.pem\n"
    sized = f"global\n    tune.ssl.cachesize 1000\n{bind}"
    assert kibibytes(bind)[0] - kibibytes(sized)[0] == 20_000 * 248 >> 10


def test_estimates_memory_for_each_thread_and_member() -> None:
    servers = "    server s 192.0.2.9:80\n" * 1000
    two, eight = kibibytes(servers), kibibytes(servers, threads=8)
    assert eight[0] - two[0] == pytest.approx(6 * 0.9 * 1050, abs=1)
    assert kibibytes(f"global\n    nbthread 8\n{servers}") == eight


def test_an_unknown_version_takes_what_the_nearest_known_one_takes() -> None:
    servers = "    server s 192.0.2.9:80\n" * 1000
    assert kibibytes(servers, "3.4-dev1") == kibibytes(servers, "3.0.8-1")
    assert kibibytes(servers, "2.9.1") == kibibytes(servers, "2.8.20")
    assert kibibytes(servers, "no version") == kibibytes(servers, "2.6.12")
