"""Whatever is sent as a certificate file is refused with a reason, or every haproxy loads it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amphora_agent.errors import InvalidRequest
from amphora_agent.events.alarms import Alarms
from amphora_agent.events.journal import ChangeRecord
from amphora_agent.haproxy.certificate_files import CertificateFiles
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.paths import Layout, certificate_name, object_id
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.processes import Completed
from lab import haproxies
from tests.fuzz.certificate_shapes import FILES, LISTS, SITE, Shape
from tests.integration import programs

ID = object_id("lb")
_numbers = itertools.count()


@dataclass
class Room:
    """The certificate files of one load balancer."""

    layout: Layout
    directory: Path
    files: CertificateFiles

    def put(self, sent: bytes) -> Path | None:
        """Where it is kept; None when it is refused."""
        name = certificate_name(f"f{next(_numbers)}.pem")
        try:
            self.files.put(ID, name, sent)
        except InvalidRequest as refusal:
            self._require_reason(name, str(refusal))
            return None
        assert self.files.md5(ID, name) == hashlib.md5(sent, usedforsecurity=False).hexdigest()
        return self.directory / name

    def has_all(self, path: Path) -> bool:
        """Whether the files are there that a list names; one in use is refused otherwise."""
        listed = certificate_content.read_entries(path.read_bytes())
        return certificate_content.holds_key(path.read_bytes()) or all(
            Path(entry.path).exists() for entry in listed if entry.path.startswith("/")
        )

    def _require_reason(self, name: str, reason: str) -> None:
        assert reason.isascii()
        assert len(reason) > len(f"Invalid request: {name}: ")
        assert not (self.directory / name).exists()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    layout = Layout.of(
        Settings(amphora_id="a", base_path=str(tmp_path), base_cert_dir=str(tmp_path / "certs")),
        run=tmp_path / "run",
        namespace="none",
    )
    bounds = Bounds(
        base=str(tmp_path), directory=str(tmp_path / "lb"), certificates=str(tmp_path / "certs/lb"),
        stats_socket="", state_file="", pid_file="", ping_wrapper="", group="", agent_port=1,
    )  # fmt: skip

    @contextlib.contextmanager
    def changing(*_: object) -> Iterator[ChangeRecord]:
        # No other process changes these files, and nobody reads a journal.
        yield ChangeRecord(ID)

    def trial(*_: object) -> Completed:
        raise AssertionError("no configuration names a file")

    store = RevisionStore(LiveFiles(Alarms(layout.alarms)))
    files = CertificateFiles(layout, store, changing, lambda _: bounds, trial)
    made = Room(layout, tmp_path / "certs/lb", files)
    files.put(ID, certificate_name("site.pem"), SITE.pem)
    files.put(ID, certificate_name("ca.pem"), SITE.chain)
    return made


def named(path: Path, room: Room) -> str:
    """A line that has haproxy load a file."""
    data = path.read_bytes()
    site, ca = room.directory / "site.pem", room.directory / "ca.pem"
    if certificate_content.holds_key(data):
        return f"bind 127.0.0.1:1 ssl crt {path}"
    if b"X509 CRL" in data:
        return f"bind 127.0.0.1:1 ssl crt {site} verify optional ca-file {ca} crl-file {path}"
    if b"BEGIN CERTIFICATE" in data:
        return f"bind 127.0.0.1:1 ssl crt {site} verify optional ca-file {path}"
    return f"bind 127.0.0.1:1 ssl crt-list {path}"


def require_loaded(room: Room, kept: list[Path], program: Path) -> None:
    lines = "".join(f"    {named(path, room)}\n" for path in kept)
    text = f"defaults\n    mode http\n    timeout client 1s\nfrontend f\n{lines}"
    checked = subprocess.run(
        [program, "-c", "-f", "/dev/stdin"], input=text.encode(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()


@settings(max_examples=10)
@given(st.lists(st.one_of(FILES, LISTS), min_size=6, max_size=12))
def test_c1_what_is_kept_is_loaded_by_every_haproxy(room: Room, shapes: list[Shape]) -> None:
    for old in room.directory.glob("f*.pem"):
        room.files.delete(ID, certificate_name(old.name))
    own = str(room.directory).encode()
    sent = [room.put(shape(own)) for shape in shapes]
    kept = [path for path in sent if path is not None and room.has_all(path)]
    for series in haproxies.SERIES if kept else ():
        require_loaded(room, kept, programs.of_series(series))


@given(st.one_of(FILES, LISTS))
def test_what_is_kept_is_in_one_form(room: Room, shape: Shape) -> None:
    path = room.put(shape(str(room.directory).encode()))
    if path is not None:
        first = path.read_bytes()
        again = room.put(first)
        assert again is not None
        assert again.read_bytes().partition(b"#")[0] == first.partition(b"#")[0]
        path.unlink()
        again.unlink()
