"""The certificates of a state: those that are as before are kept, the others checked."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from amphora_agent.declarative import certificate_files, certificates
from amphora_agent.declarative.certificate_files import Given, Purpose
from amphora_agent.declarative.store import KeptCertificate, State
from amphora_agent.declarative.wanted import Wanted
from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy import pem
from amphora_agent.model.problem import Problem

#: Of what certificates are, by the last word of their files' names.
_PURPOSES = {"ca": Purpose.AUTHORITIES, "crl": Purpose.REVOCATIONS}


class Certificates(NamedTuple):
    """All files, by their names in the load balancer's directory, and what is known of those that
    are no crt-lists."""

    files: Mapping[str, bytes]
    known: Mapping[str, KeptCertificate]


class _Came(NamedTuple):
    """A file as it came: `digest` is that of what is in it, however it is written. `path` is where
    the model speaks of it."""

    content: bytes
    digest: str
    purpose: Purpose
    path: str


def of(
    processes: Sequence[Wanted], before: State | None, stored: Mapping[str, bytes]
) -> Certificates:
    """Those that processes need. What comes without a key, or not at all, is taken from the state
    `before`, or is among those that were `stored` beforehand.

    Raises:
        InvalidRequest: one is missing, or cannot serve.
    """
    came, lists = _extracted(processes, before, stored)
    had = before.record.certificates if before else {}
    contents: dict[str, bytes] = {}
    known: dict[str, KeptCertificate] = {}
    new: list[Given] = []
    for name, each in came.items():
        was = had.get(name)
        if was is not None and was.given == each.digest and before is not None:
            known[name] = was
            contents[name] = (before.directory / name).read_bytes()
        else:
            new.append(Given(name, each.content.decode(errors="replace"), each.purpose))
    wrong: dict[tuple[str, str], None] = {}
    for checked in certificate_files.check(new):
        each = came[checked.name]
        if checked.about is None:
            wrong[each.path, checked.problem] = None
            continue
        content = checked.pem.encode()
        contents[checked.name] = content
        known[checked.name] = KeptCertificate(each.digest, _digest(content), checked.about)
    if wrong:
        raise InvalidRequest.of(wrong)
    return Certificates({**contents, **lists}, known)


def _extracted(
    processes: Sequence[Wanted], before: State | None, stored: Mapping[str, bytes]
) -> tuple[dict[str, _Came], dict[str, bytes]]:
    """The certificates, and the crt-lists.

    Raises:
        InvalidRequest: one is missing.
    """
    came: dict[str, _Came] = {}
    lists: dict[str, bytes] = {}
    problems: dict[Problem, None] = {}
    for each in processes:
        directory = each.places.certificates
        extracted = certificates.extract(
            each.balancer, directory, before=_files_before(before, each.prefix), stored=stored
        )
        problems.update(dict.fromkeys(extracted.problems))
        for name, content in extracted.files.items():
            full = f"{each.prefix}certificates/{name}"
            if content.startswith(f"{directory}/".encode()):
                lists[full] = content
            else:
                purpose = name.removesuffix(".pem").rpartition(".")[2].rpartition("-")[2]
                came[full] = _Came(
                    content,
                    _digest_of_pem(content),
                    _PURPOSES.get(purpose, Purpose.CERTIFICATE),
                    extracted.paths.get(name, name),
                )
    if problems:
        raise InvalidRequest.of(problems)
    return came, lists


def _files_before(before: State | None, prefix: str) -> Mapping[str, bytes]:
    """The files of a process that a load balancer has now, for keys that do not come again. A load
    balancer whose process model changes has them elsewhere."""
    if before is None:
        return {}
    places = [prefix, "", *(f"{process}/" for process in before.record.processes)]
    return _Files([before.directory / place / "certificates" for place in places])


class _Files(Mapping[str, bytes]):
    """The files of some directories by name, read when asked for; the first that has one counts."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories

    def __getitem__(self, name: str) -> bytes:
        for directory in self._directories:
            try:
                return (directory / name).read_bytes()
            except OSError:
                continue
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({path.name: None for each in self._directories for path in each.glob("*")})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of_pem(content: bytes) -> str:
    try:
        blocks = pem.blocks(content.decode("ascii", errors="replace"))
    except pem.Unreadable:
        return _digest(content)
    return _digest(b"".join(f"{block.label}\n".encode() + block.content for block in blocks))
