"""What haproxy says of a portion is what it says of the whole, and it has nothing to say of what
the agent understands: over many changes, right and wrong, of many configurations whose sections
refer to each other in every way that there is."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from amphora_agent.haproxy.config.diff import build_minimal_config, compare_configs
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.update.planner import Step, make_plan

#: Configurations for each version, and changes of each.
_CONFIGURATIONS, _CHANGES = 12, 10

_NAME = "haproxy.cfg"

#: A configuration: its sections by header, each with its lines.
Sections = dict[str, list[str]]
Edit = Callable[[random.Random, Sections], None]


@pytest.fixture
def haproxy(program: Path, tmp_path: Path) -> Haproxy:
    return Haproxy(program, tmp_path)


def test_less_than_the_whole_has_the_verdict_of_the_whole(haproxy: Haproxy, tmp_path: Path) -> None:
    addition = tmp_path / "agent.cfg"
    addition.write_text("global\n    group nogroup\n")

    def complaints(text: str) -> list[str] | None:
        """Where something is wrong, one for each; None when nothing is."""
        checked = haproxy.check(text.encode(), Path(_NAME), addition, "me")
        if checked.succeeded:
            return None
        # Some of the words depend on what else haproxy has in its memory.
        alerts = re.findall(r"\[ALERT\] +\(\d+\) : (.*)", checked.output)
        return sorted(re.sub(r"^.*?(\[\S+:\d+\]|'\S+'|$).*", r"\1", alert) for alert in alerts)

    portions, refused, understood = 0, 0, 0
    for number in range(_CONFIGURATIONS):
        source = random.Random(number)
        before = a_configuration(source)
        assert complaints(written(before)) is None
        for _ in range(_CHANGES):
            after = {header: list(lines) for header, lines in before.items()}
            for _ in range(source.choice((1, 1, 2, 3))):
                source.choice(EDITS)(source, after)
            wanted = {_NAME: written(after)}
            committed = {_NAME: written(before)}
            step = make_plan(committed, wanted, (), haproxy.capabilities()).step
            part = build_minimal_config(wanted, compare_configs(committed, wanted))
            if step in (Step.NOTHING, Step.RUNTIME):
                understood += 1
                assert complaints(wanted[_NAME]) is None, f"{number}: {wanted[_NAME]}"
            if part is None:
                continue
            whole = complaints(wanted[_NAME])
            assert complaints(part[_NAME]) == whole, f"{number}: {wanted[_NAME]}"
            portions += 1
            refused += whole is not None
    # Most changes are no reason to check all, and a good part of them is wrong.
    assert portions > _CONFIGURATIONS * _CHANGES * 0.5, portions
    assert refused > portions * 0.15, (refused, portions)
    assert understood > _CONFIGURATIONS * _CHANGES * 0.05, understood


def written(sections: Sections) -> str:
    return "".join(
        f"{header}\n" + "".join(f"    {line}\n" for line in lines)
        for header, lines in sections.items()
    )


# Configurations


def a_configuration(source: random.Random) -> Sections:
    """One that haproxy accepts."""
    sections: Sections = {
        "global": ["user nobody", "stats socket /tmp/unused.sock", "maxconn 100"],
        "defaults": ["mode http", "timeout client 1s", "timeout server 1s", "timeout connect 1s"],
        "userlist people": ["user one insecure-password two"],
        "peers others": ["peer me 127.0.0.1:1025", "peer other 127.0.0.2:1025"],
        "cache small": ["total-max-size 1"],
    }
    if source.random() < 0.3:
        sections["defaults tuned"] = ["mode http", "timeout client 2s", "retries 2"]
    pools = [f"pool{number}" for number in range(source.randrange(3, 9))]
    proxies: Sections = {}
    for pool in pools:
        # Who refers to another has the higher number, so that none follows itself.
        proxies[f"backend {pool}"] = a_backend(source, [p for p in pools if p < pool])
    for number in range(source.randrange(1, 6)):
        proxies[f"frontend web{number}"] = a_frontend(source, number, pools)
    headers = list(proxies)
    source.shuffle(headers)
    for header in headers:
        sections[header] = proxies[header]
    return sections


def a_backend(source: random.Random, others: list[str]) -> list[str]:
    lines = ["balance roundrobin", "stick-table type ip size 10 peers others"]
    for number in range(source.randrange(1, 4)):
        lines.append(f"server s{number} 10.0.0.{number + 1}:80 check")
    if others:
        other = source.choice(others)
        lines += source.sample(
            [
                f"server tracking 10.0.0.9:80 track {other}/s0",
                f"stick match src table {other}",
                f"http-request track-sc0 src table {other}",
                f"http-request deny if {{ nbsrv({other}) lt 1 }}",
                f"use-server s0 if {{ srv_is_up({other}/s0) }}",
                "http-request cache-use small",
                "http-request auth unless { http_auth(people) }",
                f"http-request set-header X %[src,table_conn_cnt({other})]",
                "retries 3",
            ],
            source.randrange(0, 4),
        )
    return lines


def a_frontend(source: random.Random, number: int, pools: list[str]) -> list[str]:
    one, two, three = (source.choice(pools) for _ in range(3))
    return [
        f"bind 127.0.0.1:{8000 + number}",
        f"default_backend {one}",
        *source.sample(
            [
                f"use_backend {two} if {{ path_beg /a }}",
                f'use_backend "{three}" if {{ nbsrv({two}) gt 1 }}',
                "use_backend %[req.hdr(host)]",
                f"http-request track-sc1 src table {three}",
                f"http-request set-header X-Up %[nbsrv({three})]",
                "log-format %ci\\ %{+Q}r",
                "maxconn 10",
                "# a comment",
            ],
            source.randrange(0, 5),
        ),
    ]


# Changes


def a_proxy(source: random.Random, sections: Sections, kind: str = "") -> str:
    headers = [h for h in sections if h.startswith(kind or ("backend", "frontend"))]
    return source.choice(headers)


def add_line(source: random.Random, sections: Sections) -> None:
    line = source.choice(
        [
            "server more 10.0.0.77:80 check weight 3",
            "server s0 10.0.0.78:80",
            "server named 10.0.0.79:80 track pool0/s0",
            "server named 10.0.0.79:80 track pool1/nobody",
            "nonsense",
            "mode tcp",
            "mode http",
            "option httpchk GET /",
            "default_backend pool0",
            "default_backend nobody",
            "use_backend pool2 if TRUE",
            "use_backend nobody if { path /x }",
            "http-request deny if { nbsrv(pool1) lt 2 }",
            "http-request deny if { nbsrv(nobody) lt 2 }",
            "http-request track-sc2 src table pool0",
            "stick match src table web0",
            "stick-table type string len 10 size 5",
            "cookie insert x indirect nocache",
            "http-request cache-use none",
            "http-request auth unless { http_auth(nobody) }",
            "timeout client 5",
            "disabled",
            "id 7",
            "bind 127.0.0.1:9999",
            "bind 127.0.0.1:9999 ssl",
            'use_backend "#3" if { path /y }',
            "acl broken path -m nothing",
            "# only words",
        ]
    )
    lines = sections[a_proxy(source, sections)]
    lines.insert(source.randrange(len(lines) + 1), line)


def change_member(source: random.Random, sections: Sections) -> None:
    """What the agent may understand, and what it may take for that."""
    lines = sections[a_proxy(source, sections, "backend")]
    members = [number for number, line in enumerate(lines) if line.startswith("server s")]
    address = source.choice(["10.0.0.7:80", "10.0.0.7:8080", "[2001:db8::7]:80", "10.0.0.7"])
    address = source.choice([address, address, address, "10.0.0.7:99999", "10.0.0.777:80"])
    options = source.sample(
        [
            "weight 5", "weight 256", "weight 300", "weight -1", "check", "check inter 5s",
            "check inter never", "inter 1", "rise 0", "fall 3 rise 2", "backup", "disabled",
            "maxconn 10", "maxconn x", "maxqueue 3", "cookie c", "send-proxy-v2", "send-proxy",
            "ssl verify none", "ssl", "sni", "id 4", "slowstart 1s", "check port 81", "weight",
            "on-marked-down shutdown-sessions", "on-marked-down nothing", "error-limit 0",
        ],
        source.randrange(3),
    )  # fmt: skip
    name = source.choice(["s0", "s1", "s9", "t"])
    line = " ".join(["server", name, address, *options])
    if members and source.random() < 0.7:
        lines[source.choice(members)] = line
    else:
        lines.append(line)


def change_backend(source: random.Random, sections: Sections) -> None:
    lines = sections[a_proxy(source, sections, "backend")]
    lines[:] = [
        re.sub(*change, line)
        for change in [
            source.choice(
                [
                    (r" check", ""),
                    (r" check", " check weight 5"),
                    (r"10\.0\.0\.1:80", "10.0.0.1:81"),
                    (r"10\.0\.0\.1:80", "10.0.0.1:port"),
                    (r"server s0", "server t0"),
                    (r"type ip", "type integer"),
                    (r"size 10", "size 20"),
                    (r"roundrobin", "leastconn"),
                    (r"roundrobin", "roundabout"),
                    (r"^balance.*", "mode tcp"),
                    (r"^stick-table.*", "retries 1"),
                    (r" peers others", " peers nobody"),
                ]
            )
        ]
        for line in lines
    ]


def change_frontend(source: random.Random, sections: Sections) -> None:
    lines = sections[a_proxy(source, sections, "frontend")]
    change = source.choice(
        [
            (r"pool\d", "pool0"),
            (r"pool\d", "nobody"),
            (r"^default_backend .*", "maxconn 7"),
            (r"^bind.*", "maxconn 8"),
            (r"maxconn 10", "maxconn 20"),
            (r"maxconn 10", "maxconn many"),
            (r"path_beg", "path_of"),
        ]
    )
    lines[:] = [re.sub(*change, line) for line in lines]


def remove_line(source: random.Random, sections: Sections) -> None:
    lines = sections[a_proxy(source, sections)]
    if len(lines) > 1:
        lines.pop(source.randrange(len(lines)))


def remove_backend(source: random.Random, sections: Sections) -> None:
    if sum(header.startswith("backend") for header in sections) > 1:
        del sections[a_proxy(source, sections, "backend")]


def remove_frontend(source: random.Random, sections: Sections) -> None:
    if sum(header.startswith("frontend") for header in sections) > 1:
        del sections[a_proxy(source, sections, "frontend")]


def add_proxy(source: random.Random, sections: Sections) -> None:
    number = source.randrange(100)
    if source.random() < 0.5:
        sections[f"backend added{number}"] = a_backend(source, ["pool0", "pool1", "nobody"])
    else:
        sections[f"frontend added{number}"] = a_frontend(source, number, ["pool0", "added1"])


def add_namesake(source: random.Random, sections: Sections) -> None:
    """A section with another's name."""
    kind, name = a_proxy(source, sections).split(" ")
    other = {"backend": "frontend", "frontend": "backend"}[kind]
    lines = ["retries 1", "stick-table type ip size 10"]
    sections[source.choice((f"{other} {name}", f"{kind} {name} from tuned"))] = lines


EDITS: list[Edit] = [
    change_member,
    change_member,
    change_member,
    add_line,
    add_line,
    change_backend,
    change_backend,
    change_frontend,
    remove_line,
    remove_backend,
    remove_frontend,
    add_proxy,
    add_namesake,
]
