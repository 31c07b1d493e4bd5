"""Resolve the certificates of a state: those that are as before are kept, the others checked."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.loadbalancer.render import WantedProcess
from amphora_agent.loadbalancer.states import KeptCertificate, State
from amphora_agent.loadbalancer.translate import certificate_files
from amphora_agent.model.resolved import ResolvedLoadBalancer
from amphora_agent.model.responses import Checked, Given, Purpose
from amphora_agent.revisions.contents import digest_of
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
    came, lists = _extract(balancer, processes, before, stored)
    kept = before.record.certificates if before else {}
    # Whose a file is is in its name; which process has it may change.
    had = {(Path(name).name, kept_file.given): name for name, kept_file in kept.items()}
    contents: dict[str, bytes] = {}
    known: dict[str, KeptCertificate] = {}
    new: list[Given] = []
    for name, given in came.items():
        was = had.get((Path(name).name, given.digest))
        if was is not None and before is not None:
            known[name] = kept[was]
            contents[name] = before.content(was)
        else:
            new.append(Given(name, given.content.decode(errors="replace"), given.purpose))
    wrong: dict[tuple[str, str], None] = {}
    for checked in check(new):
        given = came[checked.name]
        if checked.about is None:
            wrong[given.path, checked.problem] = None
            continue
        content = checked.pem.encode()
        contents[checked.name] = content
        known[checked.name] = KeptCertificate(given.digest, digest_of(content), checked.about)
    if wrong:
        raise InvalidRequest.from_problems(wrong)
    return Certificates({**contents, **lists}, known)


def _extract(
    balancer: ResolvedLoadBalancer,
    processes: Sequence[WantedProcess],
    before: State | None,
    stored: Mapping[str, bytes],
) -> tuple[dict[str, _GivenFile], dict[str, bytes]]:
    """Return the certificates, and the crt-lists.

    Raises:
        InvalidRequest: one is missing.
    """
    extracted = [
        (
            wanted.prefix,
            certificate_files.extract(
                balancer,
                [frontend.id for frontend in wanted.process.frontends],
                wanted.places.certificates,
                before=partial(_find_before, before, wanted.prefix),
                stored=stored,
            ),
        )
        for wanted in processes
    ]
    problems = dict.fromkeys(problem for _, files in extracted for problem in files.problems)
    if problems:
        raise InvalidRequest.from_problems(problems)
    needed = {name for _, files in extracted for name in files.files}
    find = partial(_find_before, before, "")
    idle = certificate_files.extract_idle(balancer, needed, before=find, stored=stored)
    came: dict[str, _GivenFile] = {}
    lists: dict[str, bytes] = {}
    for prefix, files in (*extracted, ("", idle)):
        for name, content in files.files.items():
            full = f"{prefix}certificates/{name}"
            if path := files.paths.get(name):
                word = name.removesuffix(".pem").rpartition(".")[2].rpartition("-")[2]
                purpose = _PURPOSES.get(word, Purpose.CERTIFICATE)
                came[full] = _GivenFile(content, _digest_of_pem(content), purpose, path)
            else:
                lists[full] = content
    return came, lists


def _find_before(before: State | None, prefix: str, name: str) -> bytes | None:
    """Return a file of a process that a load balancer has now, for a key that does not come again.
    A load balancer whose process model changes has it elsewhere."""
    if before is None:
        return None
    for place in (prefix, "", *(f"{process}/" for process in before.record.processes)):
        with contextlib.suppress(FileNotFoundError):
            return before.content(f"{place}certificates/{name}")
    return None


def _digest_of_pem(content: bytes) -> str:
    try:
        blocks = pem.parse_pem(content).blocks
    except pem.Unreadable:
        return digest_of(content)
    return digest_of(b"".join(f"{block.label}\n".encode() + block.content for block in blocks))
