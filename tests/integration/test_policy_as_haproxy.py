"""What the policy lets through makes haproxy read no file of others, wherever its name stands.

haproxy itself says which keywords, functions and options it has; the name of a file is put into
every place of each. Whether the file was read is told by its time of access.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from amphora_agent.haproxy.config.parser import split_sections
from amphora_agent.haproxy.policy import table as table
from amphora_agent.haproxy.policy.engine import find_violations
from amphora_agent.haproxy.policy.values import Bounds

#: Lines to a configuration: haproxy goes on after an error.
_AT_ONCE = 60

_HEADS = {
    "global": "global\n",
    "frontend": "frontend f\n    mode http\n",
    "backend": "backend b\n    mode http\n",
}


class Canary:
    """A file that is not the instance's."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "canary"
        self.path.write_text("a b\n")
        self.forget()

    def forget(self) -> None:
        # A time of access is only kept up where it is older than that of the last change.
        os.utime(self.path, (0, 1_000_000_000))

    def was_read(self) -> bool:
        return self.path.stat().st_atime != 0


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path)


def bounds(directory: Path) -> Bounds:
    own = directory / "instance"
    return Bounds(
        base=str(own),
        directory=str(own / "id"),
        certificates=str(own / "certs"),
        stats_socket=str(own / "id.sock"),
        state_file=str(own / "state"),
        pid_file=str(own / "pid"),
        ping_wrapper=str(own / "ping-wrapper.sh"),
        group="nogroup",
        agent_port=9443,
    )


class Keywords:
    """What a haproxy says that it has."""

    def __init__(self, program: Path, directory: Path) -> None:
        empty = directory / "empty.cfg"
        empty.write_text("global\n")
        said = subprocess.run(
            [program, "-dKall", "-c", "-f", empty], capture_output=True, text=True, check=False
        ).stdout
        self._parts = re.split(r"^# List of registered (.*):$", said, flags=re.MULTILINE)

    def of(self, part: str) -> list[str]:
        place = self._parts.index(part)
        return self._parts[place + 1].splitlines()

    def configuration(self, section: str) -> set[str]:
        found, inside = set(), ""
        for line in self.of("configuration keywords"):
            if not line.startswith("\t"):
                inside = line.strip()
            elif inside == section:
                found.add(line.strip().removesuffix("*"))
        return found

    def functions(self, part: str) -> set[str]:
        names = set()
        for line in self.of(part):
            if not line.startswith("#") and (found := re.search(r"([\w.+-]+)(?:\(.*?\))?:", line)):
                names.add(found[1])
        return names


def lines(keywords: Keywords, path: Path) -> Iterator[tuple[str, str]]:
    """Section and line, with the path in every place of every keyword."""

    def placed(words: str) -> Iterator[str]:
        for before in ("", "a ", "1 ", "503 ", "a b ", "if { path -m str "):
            yield f"{words} {before}{path}"
        for answer in ("file", "lf-file", "errorfile"):
            yield f"{words} status 503 content-type a {answer} {path}"
        for argument in ("file", "-f", "config", "unix@"):
            yield f"{words} {argument} {path}".replace("@ ", "@")
        yield f"{words}({path}) src"

    for keyword in keywords.configuration("global") | table.GLOBAL | table.REFUSED.keys():
        yield from (("global", line) for line in placed(keyword))
    for keyword in keywords.configuration("listen") | table.PROXY | table.REFUSED.keys():
        words = re.sub(r" (?:\[.*|\+-?\d)$", "", keyword)
        words = re.sub(r"^bind <addr>", "bind 127.0.0.1:1 ssl", words)
        words = re.sub(r"^server <name> <addr>", "server s 127.0.0.1:1 ssl", words)
        for line in placed(words):
            yield "frontend", line
            yield "backend", line
    fetches = keywords.functions("sample fetch functions") | keywords.functions("ACL keywords")
    for fetch in fetches:
        yield "frontend", f"acl a {fetch}({path}) -m found"
        yield "frontend", f"acl a {fetch} -f {path}"
        yield "frontend", f"http-request set-header X %[{fetch}({path})]"
    for converter in keywords.functions("sample converter functions"):
        for arguments in (f"{path}", f"a,{path}", f"1,{path},a", f"a,b,{path}"):
            yield "frontend", f"acl a str(a),{converter}({arguments}) -m found"
            yield "frontend", f"http-request set-header X %[str(a),{converter}({arguments})]"
            yield "frontend", f"http-request set-var(txn.a) str(a),{converter}({arguments})"
            yield "frontend", f"http-request set-var(txn.a) str(a) {converter}({arguments})"


def check(program: Path, directory: Path, section: str, body: Sequence[str]) -> None:
    configuration = directory / "haproxy.cfg"
    configuration.write_text(_HEADS[section] + "".join(f"    {line}\n" for line in body))
    subprocess.run(
        [program, "-c", "-f", configuration], capture_output=True, check=False, timeout=60
    )


def test_no_file_of_others_is_read(program: Path, canary: Canary, tmp_path: Path) -> None:
    within = bounds(tmp_path)
    allowed: dict[str, list[str]] = {}
    refused = 0
    for section, line in lines(Keywords(program, tmp_path), canary.path):
        text = f"{_HEADS[section]}    {line}\n"
        if find_violations(split_sections({"haproxy.cfg": text}), within):
            refused += 1
        else:
            allowed.setdefault(section, []).append(line)
    # Most keywords have nothing to do with files.
    assert refused > 2000
    assert sum(map(len, allowed.values())) > 2000

    guilty = []
    for section, body in allowed.items():
        for start in range(0, len(body), _AT_ONCE):
            check(program, tmp_path, section, body[start : start + _AT_ONCE])
            if canary.was_read():
                guilty += _who(program, tmp_path, section, body[start : start + _AT_ONCE], canary)
    assert guilty == []


def _who(
    program: Path, directory: Path, section: str, body: Sequence[str], canary: Canary
) -> list[str]:
    found = []
    for line in body:
        canary.forget()
        check(program, directory, section, [line])
        if canary.was_read():
            found.append(line)
    canary.forget()
    return found or list(body)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("frontend", "acl a path -f {}"),
        ("frontend", "errorfile 503 {}"),
        ("frontend", "http-request set-header X %[src,map_ip({})]"),
        ("frontend", "http-request return status 200 content-type a file {}"),
        ("frontend", "bind 127.0.0.1:1 ssl crt {}"),
        ("backend", "server s 127.0.0.1:1 ssl ca-file {}"),
        ("global", "no lua-load {}"),
    ],
)
def test_without_the_policy_it_would_be_read(
    program: Path, canary: Canary, tmp_path: Path, section: str, line: str
) -> None:
    check(program, tmp_path, section, [line.format(canary.path)])
    assert canary.was_read()
    text = f"{_HEADS[section]}    {line.format(canary.path)}\n"
    assert find_violations(split_sections({"haproxy.cfg": text}), bounds(tmp_path))
