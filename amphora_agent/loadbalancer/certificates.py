"""Resolve the certificates of a state: those that are as before are kept, the others checked."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.loadbalancer.render import WantedProcess
from amphora_agent.loadbalancer.states import KeptCertificate, State
from amphora_agent.loadbalancer.translate import certificate_files
from amphora_agent.model.decode import Problem
from amphora_agent.model.resolved import ResolvedLoadBalancer
from amphora_agent.model.responses import Checked, Given, Purpose
from amphora_agent.supervisor.processes import run
from amphora_agent.x509 import pem

#: Run as a program: see there.
_CHECK = "amphora_agent.loadbalancer.certificate_check"
#: Seconds: a quarter of one to load the libraries, and a millisecond a certificate.
_PATIENCE = 45.0
#: Characters that the answer may have: all that was given, and what is said of it.
_MOST_OUTPUT = 64 << 20


def check(given: Sequence[Given]) -> list[Checked]:
    """Check each in a process of its own; return the results in order.

    Raises:
        OperationFailed: the check itself failed.
    """
    if not given:
        return []
    done = run(
        (sys.executable, "-m", _CHECK),
        timeout=_PATIENCE,
        input=msgspec.json.encode(given),
        most_output=_MOST_OUTPUT,
    )
    if not done.succeeded:
        # What it says could have a key in it.
        raise OperationFailed("Cannot check certificates", done.last_words)
    return msgspec.json.decode(done.output, type=list[Checked])


#: Of what certificates are, by the last word of their files' names.
_PURPOSES = {"ca": Purpose.AUTHORITIES, "crl": Purpose.REVOCATIONS}


class Certificates(NamedTuple):
    """All files, by their names in the load balancer's directory, and what is known of those that
    are no crt-lists."""

    files: Mapping[str, bytes]
    known: Mapping[str, KeptCertificate]


class _GivenFile(NamedTuple):
    """A file as it came: `digest` is that of what is in it, however it is written. `path` is where
    the model speaks of it."""

    content: bytes
    digest: str
    purpose: Purpose
    path: str


def resolve_certificates(
    balancer: ResolvedLoadBalancer,
    processes: Sequence[WantedProcess],
    before: State | None,
    stored: Mapping[str, bytes],
) -> Certificates:
    """Return the files that processes need, and others that the model names. What comes without a
    key, or not at all, is taken from the state `before`, or is among those that were `stored`
    beforehand.

    Raises:
        InvalidRequest: one is missing, or cannot serve.
    """
    came, lists = _extracted(balancer, processes, before, stored)
    had = _known_before(before)
    contents: dict[str, bytes] = {}
    known: dict[str, KeptCertificate] = {}
    new: list[Given] = []
    for name, each in came.items():
        was = had.get((Path(name).name, each.digest))
        if was is not None and before is not None:
            known[name] = before.record.certificates[was]
            contents[name] = before.content(was)
        else:
            new.append(Given(name, each.content.decode(errors="replace"), each.purpose))
    wrong: dict[tuple[str, str], None] = {}
    for checked in check(new):
        each = came[checked.name]
        if checked.about is None:
            wrong[each.path, checked.problem] = None
            continue
        content = checked.pem.encode()
        contents[checked.name] = content
        known[checked.name] = KeptCertificate(each.digest, _digest(content), checked.about)
    if wrong:
        raise InvalidRequest.from_problems(wrong)
    return Certificates({**contents, **lists}, known)


def _known_before(before: State | None) -> dict[tuple[str, str], str]:
    """The files of the state `before` in its directory, by their own names and by digests of what
    came: whose they are is in their names, and which process has them may change."""
    if before is None:
        return {}
    kept = before.record.certificates
    return {(Path(name).name, each.given): name for name, each in kept.items()}


def _extracted(
    balancer: ResolvedLoadBalancer,
    processes: Sequence[WantedProcess],
    before: State | None,
    stored: Mapping[str, bytes],
) -> tuple[dict[str, _GivenFile], dict[str, bytes]]:
    """Return the certificates, and the crt-lists.

    Raises:
        InvalidRequest: one is missing.
    """
    came: dict[str, _GivenFile] = {}
    lists: dict[str, bytes] = {}
    problems: dict[Problem, None] = {}

    def add(prefix: str, extracted: certificate_files.ExtractedFiles) -> None:
        problems.update(dict.fromkeys(extracted.problems))
        for name, content in extracted.files.items():
            full = f"{prefix}certificates/{name}"
            path = extracted.paths.get(name)
            if path is None:
                lists[full] = content
            else:
                purpose = name.removesuffix(".pem").rpartition(".")[2].rpartition("-")[2]
                came[full] = _GivenFile(
                    content,
                    _digest_of_pem(content),
                    _PURPOSES.get(purpose, Purpose.CERTIFICATE),
                    path,
                )

    for each in processes:
        listeners = [frontend.id for frontend in each.process.frontends]
        has = _files_before(before, each.prefix)
        where = each.places.certificates
        add(
            each.prefix,
            certificate_files.extract(balancer, listeners, where, before=has, stored=stored),
        )
    needed = {Path(name).name for name in came}
    has = _files_before(before, "")
    add("", certificate_files.extract_idle(balancer, needed, before=has, stored=stored))
    if problems:
        raise InvalidRequest.from_problems(problems)
    return came, lists


def _files_before(before: State | None, prefix: str) -> Mapping[str, bytes]:
    """The files of a process that a load balancer has now, for keys that do not come again. A load
    balancer whose process model changes has them elsewhere."""
    if before is None:
        return {}
    places = [prefix, "", *(f"{process}/" for process in before.record.processes)]
    return _Files(before, [f"{place}certificates/" for place in places])


class _Files(Mapping[str, bytes]):
    """The files of some directories of a state by name, read when asked for; the first that has one
    counts."""

    def __init__(self, state: State, directories: Sequence[str]) -> None:
        self._state = state
        self._directories = directories

    def __getitem__(self, name: str) -> bytes:
        for directory in self._directories:
            with contextlib.suppress(FileNotFoundError):
                return self._state.content(f"{directory}{name}")
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        names = (
            name.removeprefix(each)
            for each in self._directories
            for name in self._state.files
            if name.startswith(each)
        )
        return iter(dict.fromkeys(names))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_pem(content: bytes) -> str:
    try:
        blocks = pem.parse_pem(content).blocks
    except pem.Unreadable:
        return _digest(content)
    return _digest(b"".join(f"{block.label}\n".encode() + block.content for block in blocks))
