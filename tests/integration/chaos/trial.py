"""One load balancer, the agents that come one after another, and what is found after each."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from amphora_agent.haproxy.runtime.socket import MasterSocket, master_of
from amphora_agent.paths import object_id
from lab import processes
from lab.crash_injection import NEVER
from lab.network import Lab, Namespace
from lab.pki import Authority
from lab.waiting import until
from tests.integration.chaos.doomed import Agents, Life, layout_below, worker_of
from tests.integration.chaos.states import VIP, Call, Disk, Place, State, View

#: Ports of a load balancer, and how many amphorae there are at once.
_PORTS, AMPHORAE = 8, 4
_FIRST_PORT = 21000

#: Of srv_admin_state: forced, inherited. (That it once was `disabled` in the configuration, 0x04,
#: keeps no traffic away.)
_IN_MAINTENANCE = 0x01 | 0x02


class Site:
    """Amphorae in one namespace, each with one load balancer at a time."""

    def __init__(self, lab: Lab, ending: ExitStack) -> None:
        namespace = lab.namespace("chaos")
        authority = Authority.create("certificates", key="ec")
        issued = [authority.issue(f"number {number}", key="ec") for number in range(4)]
        self.contents = [one.pem.decode() for one in issued]
        self._serials = {one.pem.decode(): f"{one.serial:X}" for one in issued}
        self._free: Queue[Amphora] = Queue()
        self._busy_port = _taken_port(namespace, ending)
        for number in range(AMPHORAE):
            directory = lab.directory()
            lab.record.add_workplace(directory)
            agents = Agents(directory, str(namespace.name))
            ending.callback(agents.close)
            first = _FIRST_PORT + _PORTS * number
            self._free.put(Amphora(directory, agents, range(first, first + _PORTS)))

    @contextmanager
    def trial(self, name: str, program: Path) -> Iterator[Trial]:
        """On an amphora that has nothing, as soon as one is free."""
        amphora = self._free.get()
        try:
            place = Place(
                id=name,
                base=str(amphora.directory / "o"),
                certificates=str(amphora.directory / "o" / "certs" / name),
                ports=amphora.ports,
                busy_port=self._busy_port,
                serials=self._serials,
            )
            yield Trial(amphora.directory, amphora.agents, str(program), place)
        finally:
            processes.end(processes.mentioning(amphora.directory / "o"))
            for path in amphora.directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._free.put(amphora)


@dataclass(frozen=True)
class Amphora:
    directory: Path
    agents: Agents
    ports: range


class Trial:
    """What is done to one load balancer, and the states in which it may be by now."""

    def __init__(self, directory: Path, agents: Agents, program: str, place: Place) -> None:
        self.place = place
        self._agents = agents
        self._program = program
        self._directory = directory
        self._layout = layout_below(directory, "")
        self._instance = self._layout.instance(object_id(place.id))
        self.possible = {State()}

    def live(
        self,
        *operations: Sequence[Call],
        counted_from: int = -1,
        before: int = NEVER,
        victim: str = "agent",
    ) -> tuple[str | None, int]:
        """One agent's life; returns the step before which somebody died, and how many there were.

        Its answers must be those to a load balancer in one of the states that are possible.
        """
        life = Life(self._program, operations, counted_from, victim)
        step, said = self._agents.live(life, before=before)
        if step:
            until(_all_execute, "what it has started is what it is to be")
        begun = {self.place.begun(state) for state in self.possible}
        if step and counted_from == -1:
            begun |= self.possible  # it may have died before
        self.possible = begun
        answered = [(0, -1)]
        for number, position, error in (each for each in said if isinstance(each, list)):
            call = operations[number][position]
            answered = [(number, position)] if not error else [(number + 1, -1)]
            if step is not None and victim != "agent" and number >= counted_from:
                self._interrupted(call, victim)
                continue
            fitting = {
                state for state in self.possible if self._is_refused(call, state) == bool(error)
            }
            assert fitting, f"{call[0]}: {error}"
            self.possible = {self.place.after(call, state) for state in fitting}
        if step is not None and victim == "agent":
            (number, position) = answered[0]
            following = [call for each in operations[number : number + 2] for call in each]
            for call in following[position + 1 :][:1]:
                self._interrupted(call, victim)
        return step and self._label(step), 0 if step else said[-1]

    def _interrupted(self, call: Call, victim: str) -> None:
        self.possible = {
            new for state in self.possible for new in self.place.interrupted(call, state, victim)
        }

    def look(self) -> None:
        """What is there must be one of the states that are possible; it is known then."""
        texts = {state.disk.text for state in self.possible}
        assert self.disk().text in texts, "the configuration is no whole one"
        disk = self.disk()
        if not any(self.place.fits(disk, state) for state in self.possible):
            may_be = "\n  or ".join(_told(state.disk) for state in self.possible)
            raise AssertionError(f"on disk is {_told(disk)}\n  not {may_be}")
        try:
            until(self._matches, "haproxy runs what it may", timeout=5)
        except TimeoutError:
            seen = self.view()
            views = {state.running and self.place.view(state.running) for state in self.possible}
            told = "\n  or ".join(_differences(seen, view) for view in views)
            raise AssertionError(f"haproxy runs {told}") from None
        self.possible = self._matching()
        # A master that executes itself has no command line for a moment; its workers seem orphans.
        until(lambda: self.masters() <= 1, "there is one haproxy at most", timeout=5)

    def disk(self) -> Disk:
        instance = self._instance
        try:
            text = instance.configuration.read_text()
        except FileNotFoundError:
            text = ""
        files = instance.certificates.glob("[!.]*")
        return Disk(text, frozenset((path.name, path.read_text()) for path in files))

    def view(self) -> View | None:
        worker = worker_of(self._instance)
        if worker is None:
            return None
        return _view(master_of(self._instance), worker)

    def masters(self) -> int:
        found = [
            process
            for process in processes.mentioning(self._instance.directory)
            if process.program == "haproxy" and "-c" not in process.arguments
        ]
        pids = {process.pid for process in found}
        return sum(process.parent not in pids for process in found)

    def left_over(self) -> list[Path]:
        """Files that nobody will ever read."""
        names = [path for path in self._directory.rglob("*") if path.name.startswith(".stage-")]
        if not self.disk().text and not self.disk().files:
            kept = [self._instance.directory, self._instance.certificates]
            names += [path for path in kept if path.exists()]
        return names

    @property
    def log(self) -> str:
        try:
            return (self._directory / "agent.log").read_text()
        except FileNotFoundError:
            return ""

    def _is_refused(self, call: Call, state: State) -> bool:
        match call[0]:
            case "upload":
                return bool(self.place.known[call[2]].refused)
            case "put_certificate":
                return self.place.refuses_file(state.disk, call[2], call[3])
            case "rollback":
                return not state.disk.text or state.first is None
            case "start" if state.running:
                return False
            case "stop":
                return not state.disk.text
            case "start" | "reload":
                return not state.disk.text or not self.place.loads(state.disk)
        return False

    def _matching(self) -> set[State]:
        disk, view = self.disk(), self.view()
        return {
            state._replace(disk=disk)
            for state in self.possible
            if self.place.fits(disk, state) and self.place.matches(view, state)
        }

    def _matches(self) -> bool:
        return self._matching() != set()

    def _label(self, step: str) -> str:
        """The kind of a step, without what differs from one load balancer to the next."""
        for path, name in (
            (f"{self._directory}/o/{self.place.id}", "DIRECTORY"),
            (f"{self._directory}/o/certs/{self.place.id}", "CERTIFICATES"),
            (f"{self._directory}/o", "BASE"),
            (f"{self._directory}/r", "RUN"),
            (self._program, "haproxy"),
            (self.place.id, "ID"),
        ):
            step = step.replace(path, name)
        step = re.sub(r"^open \d+", "open FILE (then it is empty)", step)
        step = re.sub(r"^os.chmod \d+", "os.chmod FILE (half of it is written)", step)
        step = re.sub(r"\.stage-\d+-[^ /]+", ".stage", step)
        step = re.sub(r"(?<=/)[^ /]+\.pem", "PEM", step)
        step = re.sub(r"(?<= )[0-9a-f-]{36}[^ ]*", "NAME", step)
        step = re.sub(r"@!?\d+ ", "", step)
        return re.sub(r"(?<=[/ -])\d+(?=$|[-/ ])", "N", step)


def _all_execute() -> bool:
    """A program that is just being executed has no command line yet, by which the next agent would
    know it. Real agents need far longer to come up than that lasts."""
    found = [process for process in processes.running() if process.program == "haproxy"]
    return all(process.arguments or not process.alive for process in found)


def _view(master: MasterSocket, worker: int) -> View:
    def ask(command: str) -> str:
        return master.command(f"@!{worker} {command}", timeout=5)

    stat = list(csv.DictReader(ask("show stat").lstrip("# ").splitlines()))
    backups = {(row["pxname"], row["svname"]): row["bck"] == "1" for row in stat}
    members = set()
    for line in ask("show servers state").splitlines()[2:]:
        columns = line.split()
        (_, backend, _, name, address, _, admin, weight), port = columns[:8], columns[18]
        in_use = not int(admin) & _IN_MAINTENANCE
        members.add(
            (backend, name, f"{address}:{port}", int(weight), in_use, backups[backend, name])
        )
    certificates = set()
    for path in _paths(ask("show ssl crt-list")):
        for certificate in _paths(ask(f"show ssl crt-list {path}")):
            serial = re.search(r"(?m)^Serial: (\w+)", ask(f"show ssl cert {certificate}"))
            certificates.add(
                (os.path.basename(certificate), serial[1].lstrip("0") if serial else "")
            )
    return View(
        frozenset((row["pxname"], int(row["slim"])) for row in stat if row["svname"] == "FRONTEND"),
        frozenset(members),
        frozenset(certificates),
    )


def _paths(reply: str) -> list[str]:
    return [line.split()[0] for line in reply.splitlines() if line.startswith("/")]


def _differences(seen: View | None, wanted: View | None) -> str:
    if seen is None or wanted is None:
        return f"{seen and 'something'}, not {wanted and 'something'}"
    parts = [
        f"{sorted(have - want)}, not {sorted(want - have)}"
        for have, want in zip(seen, wanted, strict=True)
        if have != want
    ]
    return " and ".join(parts) or "just that"


def _told(disk: Disk) -> str:
    """Without the contents."""
    return f"{hash(disk.text):x} {sorted((name, hash(text)) for name, text in disk.files)}"


def _taken_port(namespace: Namespace, ending: ExitStack) -> int:
    """One at which somebody else listens."""
    other = namespace.make_socket(VIP)
    ending.callback(other.close)
    other.bind((VIP, 0))
    other.listen()
    return int(other.getsockname()[1])
