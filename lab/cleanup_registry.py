"""A record of what a laboratory made outside its own process, to remove it if that is killed.

One JSON file per laboratory below ``/run/amphora-lab``; whoever comes next can remove what the
owner, gone without cleaning up, left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import processes
from lab.processes import Process

RECORDS = Path("/run/amphora-lab")


class InUseError(RuntimeError):
    """Another process that still lives owns a laboratory of this name."""


@dataclass
class Record:
    """What one laboratory made. Every change is on disk before the thing itself is made."""

    file: Path
    owner: Process
    namespaces: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Interfaces in the host's namespace."""
    workplaces: list[str] = field(default_factory=list)
    """Directories that occur in the command lines of processes started for the laboratory."""
    directories: list[str] = field(default_factory=list)
    """Directories made for the laboratory."""

    @classmethod
    def open(cls, name: str, *, records: Path = RECORDS) -> Record:
        """Begin a record; removes what an earlier, dead owner of the same name left.

        Raises InUseError when the earlier owner lives (it may be this very process).
        """
        records.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = records / f"{name}.json"
        earlier = cls._read(file)
        if earlier is not None:
            if earlier.owner.alive:
                raise InUseError(f"laboratory {name} is in use by process {earlier.owner.pid}")
            earlier.remove()
        owner = Process.of(os.getpid())
        assert owner is not None, "this very process runs"
        record = cls(file, owner)
        record.save()
        return record

    @classmethod
    def _read(cls, file: Path) -> Record | None:
        try:
            data = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            # Cut off by a full disk or by the kill itself: nothing in it can be trusted.
            return None
        return cls(
            file,
            Process(**data["owner"]),
            namespaces=data["namespaces"],
            links=data["links"],
            workplaces=data["workplaces"],
            directories=data["directories"],
        )

    def save(self) -> None:
        data = asdict(self)
        del data["file"]
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(data))
        temporary.replace(self.file)

    def add_namespace(self, name: str) -> None:
        if name not in self.namespaces:
            self.namespaces.append(name)
            self.save()

    def add_link(self, ifname: str) -> None:
        self.links.append(ifname)
        self.save()

    def add_workplace(self, path: Path) -> None:
        """Processes whose command line mentions this directory are ended by remove()."""
        if str(path) not in self.workplaces:
            self.workplaces.append(str(path))
            self.save()

    def add_directory(self, path: Path) -> None:
        """The directory is deleted by remove()."""
        self.directories.append(str(path))
        self.save()

    def remove(self) -> None:
        """Remove everything in the record that is still there, and the record."""
        for workplace in self.workplaces:
            processes.end(processes.mentioning(Path(workplace)))
        for ifname in self.links:
            subprocess.run(["ip", "link", "delete", ifname], capture_output=True, check=False)
        for name in self.namespaces:
            delete_namespace(name)
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)
        self.file.unlink(missing_ok=True)


def remove_leftovers(*, records: Path = RECORDS) -> list[str]:
    """Remove what laboratories of dead owners left behind; return their names."""
    removed = []
    for file in sorted(records.glob("*.json")):
        record = Record._read(file)
        if record is not None and not record.owner.alive:
            record.remove()
            removed.append(file.stem)
    return removed


def delete_namespace(name: str) -> None:
    """End every process in a namespace and delete it; nothing happens when there is none."""
    listing = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    inside = [Process.of(int(pid)) for pid in listing.stdout.split()]
    processes.end(process for process in inside if process is not None)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
