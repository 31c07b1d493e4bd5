"""Replace the configuration by a pushed one, once everything that it changes is shown to work."""

import contextlib
import errno
import ipaddress
import logging
import os
import re
import socket
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amphora_agent import files
from amphora_agent.agent import trust
from amphora_agent.agent.settings_file import SettingsFile, read
from amphora_agent.errors import AgentError, InvalidRequest
from amphora_agent.settings import policy
from amphora_agent.settings.policy import (
    AddressIsFree,
    AuthorityKnowsCaller,
    CallerSpeaks,
    CertificateServes,
    DirectoryIsUsable,
    ProgramIsHaproxy,
    Proof,
)
from amphora_agent.settings.reader import Settings, SettingsError, decode_settings
from amphora_agent.supervisor.processes import run

logger = logging.getLogger(__name__)

#: Symbolic links that are followed, as many as the kernel follows.
_MOST_LINKS = 40
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def find_stranger(path: Path, *, sticky: bool = False) -> str | None:
    """Return why another user than root could exchange the file or directory `path`; None when
    nobody could. Checks every directory and every symbolic link on the way.

    With `sticky`, directories like /tmp are accepted: root's files stay in there.

    Raises:
        OSError: the path leads nowhere.
    """
    pending = list(reversed(path.parts[1:]))
    here, links = Path("/"), 0
    while True:
        status = here.lstat()
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                return "it has too many symbolic links"
            if status.st_uid != 0:
                return "a symbolic link on the way to it does not belong to root"
            target = Path(os.readlink(here))
            here = Path("/") if target.is_absolute() else here.parent
            pending += reversed([part for part in target.parts if part != "/"])
        elif problem := _find_write_access(status, sticky):
            return f"{'a directory above it' if pending else 'it'} {problem}"
        if not pending:
            return None
        part = pending.pop()
        here = here.parent if part == ".." else here / part


def _find_write_access(status: os.stat_result, sticky: bool) -> str | None:
    if status.st_uid != 0:
        return "does not belong to root"
    if status.st_mode & _WRITABLE_BY_OTHERS:
        directory = stat.S_ISDIR(status.st_mode)
        if not (sticky and directory and status.st_mode & stat.S_ISVTX):
            return "can be written by others than root"
    return None


#: The largest file of certificates, in bytes.
_LARGEST_PEM = 1 << 20
#: Names that the program may have: nothing else is started and asked what it is.
_HAPROXY_NAME = re.compile(r"haproxy[A-Za-z0-9._-]*")
_HAPROXY_WORDS = re.compile(rb"HA-?Proxy version")
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class Peer:
    """The client's end of a TLS connection: `version` such as "TLSv1.3", `chain` the certificates
    (DER) that verified it, its own first, `reached` the agent's address that it used."""

    version: str = ""
    chain: tuple[bytes, ...] = ()
    reached: str = ""


#: A client without TLS.
NOBODY = Peer()


class Reconfiguration:
    """Replaces the configuration. The agent's directories may be below `parents`, which the command
    line names, never the file."""

    def __init__(self, settings: SettingsFile, parents: Sequence[Path]) -> None:
        self._settings = settings
        self._parents = tuple(map(str, parents))
        self._lock = threading.Lock()

    def replace(self, data: bytes, peer: Peer = NOBODY) -> None:
        """Put the new configuration of `peer` in place.

        Raises:
            InvalidRequest: it cannot be used, or changes what it may not; nothing is changed. The
                details name sections and keys, never a value.
        """
        path = str(self._settings.path)
        with self._lock:
            try:
                wanted = decode_settings(data, path)
            except SettingsError as error:
                raise _refusal(path, error.reasons) from None
            in_force = self._settings.in_force()
            decision = policy.decide(
                in_force, wanted, parents=self._parents, known=self._list_known(in_force)
            )
            prover = _Prover(in_force, peer)
            unproven = {place: prover.find_flaw(proof) for proof, place in decision.proofs.items()}
            reasons = (
                *decision.refusals,
                *(f"{place}: {flaw}" for place, flaw in unproven.items() if flaw is not None),
            )
            if reasons:
                raise _refusal(path, reasons)
            if later := policy.differs_at_start(in_force, wanted):
                logger.warning("taken up when the agent starts again: %s", ", ".join(later))
            self._settings.store(data)

    def _list_known(self, in_force: Settings) -> list[str]:
        """Return the directories that the agent uses, has used, or would use without a file."""
        settings = [in_force, Settings(amphora_id="")]
        with contextlib.suppress(SettingsError):  # there need not be one
            settings.append(read(self._settings.previous))
        return [
            path.rstrip("/")
            for values in settings
            for path in (values.base_path, values.base_cert_dir, values.agent_server_network_dir)
        ]


def _refusal(path: str, reasons: Sequence[str]) -> InvalidRequest:
    message = "Unable to update amphora-agent configuration."
    return InvalidRequest(message, f"{path}: {'; '.join(reasons)}")


def require_listening(host: str, port: int) -> None:
    """Check that a TCP server can listen at this address.

    Raises:
        OSError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        probe.listen(1)


class _Prover:
    """Checks whether a proof holds now; changes nothing."""

    def __init__(self, in_force: Settings, peer: Peer) -> None:
        self._in_force = in_force
        self._peer = peer

    def find_flaw(self, proof: Proof) -> str | None:
        """Return what contradicts the proof, without the value; None when it holds."""
        try:
            match proof:
                case AddressIsFree(host, port):
                    return self._find_address_flaw(host, port)
                case CertificateServes(path, amphora_id):
                    _require_file(Path(path), most=_LARGEST_PEM, sticky=True)
                    trust.check_own(Path(path), amphora_id)
                case AuthorityKnowsCaller(path):
                    _require_file(Path(path), most=_LARGEST_PEM, sticky=True)
                    if not self._peer.chain:
                        return "cannot be proven without your certificate"
                    trust.check_authority(Path(path), self._peer.chain)
                case DirectoryIsUsable():
                    _require_directory(proof)
                case ProgramIsHaproxy(path):
                    _require_haproxy(Path(path))
                case CallerSpeaks(version):
                    if self._peer.version != version:
                        return "your own connection does not use it: you would be locked out"
        except _Flaw as flaw:
            return str(flaw)
        except OSError as error:
            return f"cannot be used: {error.strerror or type(error).__name__}"
        except InvalidRequest as error:
            return error.details
        except AgentError:  # its text may have the path
            return "cannot be checked"
        return None

    def _find_address_flaw(self, host: str, port: int) -> str | None:
        if not _reaches(host, self._peer.reached):
            return "you would not reach the API there"
        try:
            require_listening(host, port)
        except OSError as error:
            held = port == self._in_force.bind_port
            if not (error.errno == errno.EADDRINUSE and held):
                return f"the API cannot listen there: {error.strerror}"
            # The agent itself listens at this port: at another address, or at all of them.
            try:
                require_listening(host, 0)
            except OSError as other:
                return f"the API cannot listen there: {other.strerror}"
            if _others_listen_at(port):
                return "another process listens at this port"
        return None


class _Flaw(Exception):
    """A proof does not hold; the text says why."""


def _require_file(path: Path, *, most: int, sticky: bool) -> None:
    if stranger := find_stranger(path, sticky=sticky):
        raise _Flaw(f"somebody else could exchange it: {stranger}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _Flaw("is not a file")
    if not 0 < status.st_size <= most:
        raise _Flaw(f"is empty, or larger than {most} bytes")


def _require_haproxy(path: Path) -> None:
    _require_file(path, most=1 << 30, sticky=False)
    real = path.resolve(strict=True)
    if not _HAPROXY_NAME.fullmatch(real.name):
        raise _Flaw("is not called haproxy")
    content = real.read_bytes()
    if not content.startswith(_ELF) or not _HAPROXY_WORDS.search(content):
        raise _Flaw("is not haproxy")
    version = run((str(path), "-v"), timeout=10)
    if not version.succeeded or not _HAPROXY_WORDS.match(version.output.encode()):
        raise _Flaw("does not answer -v as haproxy does")


def _require_directory(proof: DirectoryIsUsable) -> None:
    path, parent = Path(proof.path), Path(proof.parent)
    for part in (*reversed(path.parents), path):
        if not part.is_relative_to(parent) or part == parent:
            continue
        try:
            status = part.lstat()
        except FileNotFoundError:
            break
        if not stat.S_ISDIR(status.st_mode):
            raise _Flaw("a part of it is no directory (symbolic links are not followed)")
        if status.st_uid != 0 or status.st_mode & _WRITABLE_BY_OTHERS:
            raise _Flaw("a part of it can be written by others than root")
    known = any(path.is_relative_to(directory) for directory in proof.known)
    if path.is_dir() and not known and next(path.iterdir(), None) is not None:
        raise _Flaw("is not empty, and not the agent's")
    existing = next(part for part in (path, *path.parents) if part.is_dir())
    if existing in parent.parents:
        raise _Flaw("the directory that it has to be below is not there")
    with files.scratch_directory(existing):
        pass  # it can be written


def _reaches(host: str, reached: str) -> bool:
    """Return whether a client that has reached the address `reached` may reach `host`, too, as far
    as the kinds of both tell."""
    address = ipaddress.ip_address(host)
    if address.is_multicast or address == ipaddress.ip_address("255.255.255.255"):
        return False
    if not reached:
        return True
    before = ipaddress.ip_address(reached)
    before = getattr(before, "ipv4_mapped", None) or before
    if host == "0.0.0.0":  # noqa: S104  # every address of IPv4
        return before.version == 4
    return before.is_loopback or not address.is_loopback


def _others_listen_at(port: int) -> bool:
    """Return whether another process listens at a TCP port."""
    own = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            own.add(link.readlink().name)
        except OSError:
            continue  # closed meanwhile
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        for line in lines:
            fields = line.split()
            listens = fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
            if listens and f"socket:[{fields[9]}]" not in own:
                return True
    return False
