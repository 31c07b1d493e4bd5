"""An agent whose effects fail, and what is told and what is there of it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.runtime.socket import MasterSocket
from lab.faults import Faults
from lab.http import FAILURES
from lab.network import Cable, Lab, Namespace
from lab.processes import Process
from tests.integration.amphora import ERRORS_UNDERSTOOD, Amphora, Answer, walk

State = dict[str, Any]

#: Seconds for an answer, whatever fails.
_PATIENCE = 75.0
#: What changes by itself, or is kept for a person to read.
_BESIDE = re.compile(
    r"\.log$|^octavia/(journal|heartbeat)/|^(octavia|run)/heartbeat|\.rejected$|/final-counters|^run/alarms$"
    r"|^faults|^run/vrrp-(notify|states)$"
)
#: Files of which another life, or another moment, has another content.
_CHANGING = re.compile(r"\.pid$|/activation\.json$|vrrp-check$")
#: The number of a generation, and a name that is a digest.
_NUMBER, _DIGEST = re.compile(r"(declared-)?\d+"), re.compile(r"[0-9a-f]{64}")


@dataclass
class Place:
    amphora: Amphora
    faults: Faults
    command_faults: Faults
    """Of commands beside the agent."""
    own_certificates: Sequence[bytes]
    """Some that the agent may have."""
    lab: Lab
    router: Namespace
    ending: ExitStack

    def __post_init__(self) -> None:
        self.config = self.amphora.agent.config_file.read_text()
        self.amphora.patience = _PATIENCE
        #: What is plugged, or may be.
        self.cable: Cable | None = None
        self.api = self.amphora.agents()["api"]

    @property
    def base(self) -> Path:
        return self.amphora.agent.base_path

    def ask(self, method: str, path: str, body: bytes | str = b"") -> Answer | None:
        """One request; None when there was no answer."""
        data = body.encode() if isinstance(body, str) else body
        try:
            return self.amphora.request(method, path, data)
        except FAILURES:
            return None

    def do(self, method: str, path: str, body: bytes | str = b"") -> Answer:
        """One request that succeeds."""
        answer = self.ask(method, path, body)
        assert answer is not None, f"{method} {path}: no answer"
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body.decode()}"
        return answer

    def told(self, path: str) -> Any:
        return self.amphora.api.request("GET", path).json()

    # What is there

    def state(self) -> State:
        """Everything, without what differs from run to run."""
        instances = self.told("/2.0/instances")["instances"]
        for instance in instances:
            instance.pop("generation")
            instance["alarms"] = [alarm["kind"] for alarm in instance["alarms"]]
        return {
            "files": dict(self._files()),
            "instances": instances,
            "listeners": self.told("/1.0/listeners"),
            "declared": [each["loadbalancer_id"] for each in self._declared()],
            "haproxy": {name: self._facts(name) for name in self.masters()},
            "others": sorted(
                process.program for process in self.services() if process.program != "haproxy"
            ),
            "network": self._network() if self.cable else {},
        }

    def _network(self) -> State:
        """What is in the namespace, without what the kernel does in its own time."""
        namespace = self.amphora.namespace
        links = json.loads(namespace.ip("-json", "address", "show"))
        routes = json.loads(namespace.ip("-json", "route", "show", "table", "all"))
        nft = json.loads(namespace.run(["nft", "--json", "list", "ruleset"]).stdout)["nftables"]
        for each in (each for entry in nft for each in entry.values()):
            each.pop("handle", None)
        return {
            "addresses": sorted(
                f"{link['ifname']} {address['local']}/{address['prefixlen']} {link['operstate']}"
                for link in links
                for address in link["addr_info"]
                if not address["local"].startswith("fe80")
            ),
            "routes": sorted(
                json.dumps(route)
                for route in routes
                if route.get("dev") != "lo" and not route["dst"].startswith(("fe80", "ff00"))
            ),
            "rules": namespace.ip("rule", "show"),
            "firewall": sorted(json.dumps(each) for each in nft if "metainfo" not in each),
        }

    def _declared(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.told("/2.0/loadbalancers")["loadbalancers"]
        return found

    def services(self) -> list[Process]:
        return self.amphora.agent.services()

    def masters(self) -> dict[str, list[Process]]:
        """haproxy's masters by their instance."""
        found: dict[str, list[Process]] = {}
        haproxies = [p for p in self.services() if p.program == "haproxy"]
        pids = {process.pid for process in haproxies}
        for process in haproxies:
            if process.parent in pids or "-c" in process.arguments:
                continue
            for word in process.arguments:
                if match := re.fullmatch(
                    rf"{re.escape(str(self.base))}/([\w-]+)/[\w.-]+\.pid", word
                ):
                    found.setdefault(match[1], []).append(process)
        return found

    def haproxy(self, name: str, command: str) -> str:
        return MasterSocket(self.amphora.agent.run_path / f"{name}.master").command(
            command, timeout=5
        )

    def frontends(self, name: str) -> set[str]:
        """Of the worker that serves."""
        rows = [line.split(",") for line in self.haproxy(name, "@1 show stat -1 1 -1").splitlines()]
        return {row[0] for row in rows if len(row) > 1 and not row[0].startswith("#")}

    def _facts(self, name: str) -> list[str]:
        """What haproxy has loaded, without what its health checks say."""
        try:
            servers = self.haproxy(name, "@1 show servers state").splitlines()
            frontends = self.frontends(name)
        except OperationFailed as error:  # it is just coming up, or should be
            return [str(error)]
        rows = [row.split() for row in servers if len(row.split()) > 18]
        # One that was removed waits, without work, for the end of its connections.
        rows = [row for row in rows if row[6] != "1"]
        # Backend, name, address, administrative state, weight, port.
        facts = [" ".join((row[1], row[3], row[4], row[6], row[7], row[18])) for row in rows]
        return sorted([*facts, *frontends])

    def _files(self) -> Iterator[tuple[str, str]]:
        top = self.amphora.agent.directory
        for path in walk(top):
            name = str(path.relative_to(top))
            if _BESIDE.search(name):
                continue
            try:
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    if path.parent.name != "revisions" or not _NUMBER.fullmatch(path.name):
                        yield name, os.readlink(path)
                elif path.parent.name == "revisions":
                    if not _DIGEST.fullmatch(path.name):
                        yield name, "a file"
                elif not stat.S_ISREG(mode) or _CHANGING.search(name):
                    yield name, stat.filemode(mode)
                elif path.suffix == ".alarm":
                    alarm = json.loads(path.read_bytes())
                    yield name, f"{alarm['kind']} of {alarm['subject']}"
                elif path.parent.name == "processes":
                    record = json.loads(path.read_bytes())
                    yield name, str((record["spec"], record["wanted"]))
                else:
                    content = path.read_text(errors="replace").replace(str(top), "~")
                    yield name, f"{stat.filemode(mode)} {content}"
            except FileNotFoundError:
                continue  # it was there a moment ago

    def unreferenced(self) -> list[str]:
        """Contents that no reference leads to."""
        found = []
        for directory in self.base.glob("*/revisions"):
            manifests = {os.readlink(path) for path in directory.iterdir() if path.is_symlink()}
            used = set(manifests)
            for digest in manifests:
                entries = json.loads((directory / digest).read_bytes())
                used |= {entry[0] for entry in entries.values()}
            names = {path.name for path in directory.iterdir() if not path.is_symlink()}
            found += [f"{directory}/{name}" for name in sorted(names - used)]
        return found

    def log_since(self, mark: int) -> str:
        """What the agent has said since its log had so many characters, without questions."""
        lines = self.amphora.agent.log[mark:].splitlines()
        return "\n".join(line for line in lines if "method=GET" not in line)

    def descriptors(self) -> dict[str, int]:
        """How many each process of the agent has open."""
        return {
            role: len(os.listdir(f"/proc/{process.pid}/fd"))
            for role, process in self.amphora.agents().items()
        }

    def more_descriptors(self, before: dict[str, int]) -> list[str]:
        return [
            f"{role} has {number} descriptors open, {before[role]} before"
            for role, number in self.descriptors().items()
            if number > before[role]
        ]

    # What must hold, whatever has failed

    def complaints(self) -> Iterator[str]:
        """What is told and is not so; who lives and should not."""
        if not self.api.alive:
            yield "the process that serves the API has died"
        instances = {each["id"]: each for each in self.told("/2.0/instances")["instances"]}
        masters = self.masters()
        for name, processes in masters.items():
            state = instances.get(name, {}).get("state")
            if state != "ACTIVE" or len(processes) != 1:
                yield f"{len(processes)} haproxy of {name} run, told as {state}"
        for name, each in instances.items():
            if each["state"] != "OFFLINE" and name not in masters:
                yield f"{name} is told as {each['state']} and does not run"
        yield from self._strangers()
        yield from self._wrong_configurations()
        ids = {each["uuid"] for each in self.told("/1.0/listeners")}
        if (self.base / "vrrp/octavia-keepalived.conf").exists() and not any(
            process.program == "keepalived" for process in self.services()
        ):
            return  # nothing is told: the amphora must look dead
        running: set[str] = set()
        for name in masters:
            try:
                running |= self.frontends(name)
            except OperationFailed as error:
                yield f"{name} does not answer: {error}"
        try:
            self.amphora.heartbeats.drain()
            self.amphora.heartbeats.wait_for(
                lambda beat: running <= beat.listeners.keys() <= running | ids, timeout=6
            )
        except TimeoutError as error:
            yield f"heartbeats do not tell the listeners {running} of {ids}: {error}"

    def _strangers(self) -> Iterator[str]:
        """Processes that live though nobody wants them, and the other way round."""
        wanted: dict[str, list[str]] = {}
        records = sorted((self.base / "processes").glob("*.json"))
        for path in (*records, *sorted(self.amphora.agent.run_path.glob("*.record"))):
            record = json.loads(path.read_bytes())
            wanted.pop(path.stem, None)
            if record["wanted"]:
                wanted[path.stem] = record["spec"]["argv"][1:]
        services = self.services()
        pids = {process.pid for process in services}
        # A master of haproxy that has reloaded has more arguments.
        living = [process.arguments[1:] for process in services if process.parent not in pids]
        for name, words in wanted.items():
            if not any(arguments[: len(words)] == words for arguments in living):
                yield f"{name} is wanted and does not live"
        for arguments in living:
            if not any(arguments[: len(words)] == words for words in wanted.values()):
                yield f"nobody wants {' '.join(arguments)}"

    def _wrong_configurations(self) -> Iterator[str]:
        for directory in self.base.iterdir():
            if not (directory / "revisions").is_dir() or (directory / "current").is_symlink():
                continue
            answer = self.ask("GET", f"/1.0/loadbalancer/{directory.name}/haproxy")
            file = directory / "haproxy.cfg"
            there = file.read_bytes() if file.exists() else None
            if answer is None or answer.status not in (200, 404):
                yield f"the configuration of {directory.name} cannot be read: {answer}"
            elif (answer.body if answer.status == 200 else None) != there:
                yield f"the configuration of {directory.name} is told as another than there is"

    def accepts(self, address: str, port: int) -> bool:
        try:
            self.amphora.namespace.connect(address, port).close()
        except OSError:
            return False
        return True


def complaint_about(answer: Answer | None, *, may_be_lost: bool) -> str | None:
    """What is wrong with an answer, as an answer."""
    if answer is None:
        return None if may_be_lost else "there was no answer"
    text = answer.body.decode(errors="replace")
    if answer.status < 300:
        return None
    if answer.status not in ERRORS_UNDERSTOOD:
        return f"status {answer.status}: {text}"
    body = json.loads(text)
    words = str(body.get("details") or body.get("detail") or "")
    if not words or "Traceback" in text or "defect of its own" in text:
        return f"no reason: {text}"
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 300 else f"{text[:60]}… ({len(text)} characters, {hash(text):x})"


def differences(wanted: State, found: State) -> list[str]:
    """Where two states differ, in words."""
    lines = []
    for part, value in wanted.items():
        other = found[part]
        if isinstance(value, dict) and isinstance(other, dict):
            for key in sorted(value.keys() | other.keys()):
                if value.get(key) != other.get(key):
                    was, is_ = (_short(each.get(key)) for each in (value, other))
                    lines.append(f"{part} {key}: {is_!r} instead of {was!r}")
        elif value != other:
            lines.append(f"{part}: {other!r} instead of {value!r}")
    return lines
