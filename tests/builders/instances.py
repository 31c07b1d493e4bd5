"""An instance on disk, somewhere."""

from pathlib import Path

from amphora_agent.events.alarms import Alarms
from amphora_agent.paths import InstanceLayout, ObjectId, UploadedLayout
from amphora_agent.revisions.contents import CERTIFICATES, Manifest, Revisions
from amphora_agent.revisions.live import LiveFiles


def layout(top: Path) -> UploadedLayout:
    return UploadedLayout(
        id=ObjectId("lb"),
        directory=top / "lb",
        certificates=top / "certs/lb",
        stats_socket=top / "lb.sock",
        master_socket=top / "lb.master",
    )


def live_files(instance: InstanceLayout) -> LiveFiles:
    """Those of an instance, as another agent would find them."""
    return LiveFiles(Alarms(instance.directory.parent / "alarms"))


def commit(instance: InstanceLayout, text: str, **certificates: bytes) -> Manifest:
    """Commit a text and these certificates, in the place of all others."""
    contents = {"haproxy.cfg": text.encode(), "agent.cfg": b"addition of " + text.encode()}
    contents |= {"peer": b"peer"}
    contents |= {f"{CERTIFICATES}{name}": data for name, data in certificates.items()}
    manifest = Revisions.of(instance).keep(contents)
    live_files(instance).commit(instance, manifest, {})
    return manifest
