"""Every path, in one place, and the only way from an outside name to a path.

Ids and certificate names come from URLs. `object_id` and `certificate_name` are the one gate:
what passes them is a single path component that cannot climb, hide or collide with the agent's
own files; everything else is an `InvalidRequest`. The functions that build paths take only what
came through the gate (`ObjectId`, `CertificateName`), and the type checker holds callers to it.
"""

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NewType, TypeVar

from amphora_agent.errors import InvalidRequest
from amphora_agent.settings.reader import Settings

ObjectId = NewType("ObjectId", str)
CertificateName = NewType("CertificateName", str)
_Instance = TypeVar("_Instance", bound="InstanceLayout")

_OBJECT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_CERTIFICATE_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,123}\.pem")

#: The directory of what haproxy is given of a rendered instance, beside the files that it is made
#: of (haproxy/runtime/loaded_state.py). No id has a dot.
PARTS = "haproxy.d"

#: The live files of a rendered load balancer, in its directory. Agents of format 1 keep each state
#: in a directory of its own, by its number, and take this one for a state (revisions/adoption.py).
LIVE = "generations/0"

#: Before the names of references of rendered load balancers.
RENDERED_REFERENCES = "declared-"

#: Behind the id in the second name of a process.
SECOND = ".2"

_LVS_PREFIX = "octavia-keepalivedlvs-"

#: Directories of the agent itself below base_path: no load balancer may have such a name.
_RESERVED = frozenset(
    {"certs", "dhcp", "format", "heartbeat", "journal", "lvs", "processes", "vrrp"}
)


def object_id(text: str) -> ObjectId:
    """The id of an amphora, load balancer or listener, as it came in a URL (decoded).

    Raises:
        InvalidRequest: it is not 1 to 64 letters, digits, `-` and `_`, beginning with a letter
            or digit. Octavia's ids are UUIDs; what matters here is that no id leaves its
            directory or names one of the agent's own.
    """
    if not is_object_id(text):
        raise InvalidRequest("Invalid request", f"{text!r} is not an id")
    return ObjectId(text)


def is_object_id(text: str) -> bool:
    """Whether a name is an id: see `object_id`."""
    return bool(_OBJECT_ID.fullmatch(text)) and text not in _RESERVED


def certificate_name(text: str) -> CertificateName:
    """The file name of a certificate, as it came in a URL (decoded).

    Raises:
        InvalidRequest: it is not a plain file name that ends in `.pem`.
    """
    if not _CERTIFICATE_NAME.fullmatch(text):
        raise InvalidRequest("Filename has wrong format", f"{text!r} is not NAME.pem")
    return CertificateName(text)


@dataclass(frozen=True)
class InstanceLayout(ABC):
    """The files of one haproxy instance. The controller's texts name some of them (WIRE §3).

    There are two kinds, `UploadedLayout` and `RenderedLayout`. Where they differ, they say how.
    """

    id: ObjectId
    directory: Path
    certificates: Path
    stats_socket: Path
    master_socket: Path
    #: Of its process for the supervisor, and of the unit.
    process: str = ""

    #: The name of the kind in `second`.
    kind: ClassVar[str]
    #: Before the names of its references to revisions.
    reference_prefix: ClassVar[str]
    #: The file that a whole revision has; certificates alone wait for it.
    landmark: ClassVar[str]
    #: Whether all that is below `live` is committed, or is removed.
    owns_live: ClassVar[bool]
    #: Whether a process that does not come up goes back without others to the files that did.
    goes_back_alone: ClassVar[bool]
    #: Whether no other load balancer may listen where this one does.
    claims_alone: ClassVar[bool]

    @property
    def second(self) -> Path:
        """Says which of two instances with this id, one of each kind, has the second name for its
        process: while one takes the other's place, both run."""
        return self.directory / "second"

    @property
    def owner(self) -> Path:
        """The directory of the load balancer that this instance belongs to."""
        return self.directory

    @property
    def prefix(self) -> str:
        """Before the names of its files in a revision of the load balancer."""
        return "" if self.owner == self.directory else f"{self.id}/"

    @property
    def revisions(self) -> Path:
        """What is committed, what came up, and the generations of the load balancer."""
        return self.owner / "revisions"

    @property
    @abstractmethod
    def live(self) -> Path:
        """The files of the load balancer as its processes load them."""

    @abstractmethod
    def live_certificates(self, prefix: str) -> Path:
        """Return where certificates are of the files below `prefix` in a revision."""

    @property
    @abstractmethod
    def configuration(self) -> Path:
        """What the controller sent, byte for byte, or what all rendered listeners share."""

    @property
    @abstractmethod
    def given(self) -> tuple[Path, ...]:
        """What haproxy is told to load on its command line, in this order."""

    @abstractmethod
    def texts_in(self, names: Collection[str]) -> list[str]:
        """Return which of these files of a revision haproxy loads, in its order."""

    @abstractmethod
    def texts_below(self, directory: Path) -> list[Path]:
        """Return the files that haproxy loads, where they are below the directory of an instance,
        or were below one of an older agent."""

    def may_be_named(self, name: str) -> bool:
        """Whether texts may name this file of a revision, which is no certificate."""
        return False

    @property
    def rejected(self) -> Path:
        """The last configuration that was refused or did not come up, for a person to read."""
        return self.directory / "haproxy.cfg.rejected"

    @property
    def state(self) -> Path:
        return self.directory / "servers-state"

    @property
    def pid_file(self) -> Path:
        return self.directory / f"{self.id}.pid"

    @property
    def last_good(self) -> Path:
        """What is known of the worker that came up last."""
        return self.directory / "last-good"

    @property
    def final_counters(self) -> Path:
        """Readings of workers taken just before they were asked to leave."""
        return self.directory / "final-counters"

    @property
    def old_journals(self) -> tuple[Path, ...]:
        """What agents wrote who kept a record for each instance; the newer entries first."""
        return self.directory / "journal.jsonl", self.directory / "journal.jsonl.1"


@dataclass(frozen=True)
class UploadedLayout(InstanceLayout):
    """An instance whose text the controller sends. Its live files are in its directory, among
    others; its certificates are where the text names them."""

    kind = "uploaded"
    reference_prefix = ""
    landmark = "haproxy.cfg"
    owns_live = False
    goes_back_alone = True
    claims_alone = False

    @property
    def live(self) -> Path:
        return self.directory

    def live_certificates(self, prefix: str) -> Path:
        return self.certificates

    @property
    def configuration(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def addition(self) -> Path:
        """What the agent adds, as a second file for haproxy."""
        return self.directory / "agent.cfg"

    @property
    def peer(self) -> Path:
        """The name for `-L`, remembered from the upload for the start."""
        return self.directory / "peer"

    @property
    def given(self) -> tuple[Path, ...]:
        return self.configuration, self.addition

    def texts_in(self, names: Collection[str]) -> list[str]:
        return [path.name for path in self.given if path.name in names]

    def texts_below(self, directory: Path) -> list[Path]:
        return [directory / path.name for path in self.given]


@dataclass(frozen=True)
class RenderedLayout(InstanceLayout):
    """An instance whose texts the agent renders (API 2.0). Its load balancer may have several
    processes: they share its revisions and its directory of live files, to which `current` leads.
    """

    kind = "declared"
    reference_prefix = RENDERED_REFERENCES
    landmark = "model.json"
    owns_live = True
    goes_back_alone = False
    claims_alone = True

    @property
    def current(self) -> Path:
        """Leads to the live files of this instance."""
        return self.directory / "current"

    @property
    def owner(self) -> Path:
        with contextlib.suppress(OSError):
            target = self.current.readlink().parts
            if target[0] == "..":
                return self.directory.parent / target[1]
        return self.directory

    @property
    def live(self) -> Path:
        return self.owner / LIVE

    def live_certificates(self, prefix: str) -> Path:
        return self.live / prefix / "certificates"

    @property
    def configuration(self) -> Path:
        return self.current / "haproxy.cfg"

    @property
    def given(self) -> tuple[Path, ...]:
        """States that an older agent has made have no parts."""
        parts = self.current / PARTS
        return (parts if parts.is_dir() else self.current,)

    def texts_in(self, names: Collection[str]) -> list[str]:
        return sorted(name for name in names if name.endswith(".cfg") and "/" not in name)

    def texts_below(self, directory: Path) -> list[Path]:
        return sorted((directory / self.current.name).glob("*.cfg"))

    def may_be_named(self, name: str) -> bool:
        return "/" not in name and Path(name).suffix not in {".cfg", ".json"}


@dataclass(frozen=True)
class VrrpLayout:
    """The files of the VRRP service. The controllers' texts name that of the check (WIRE §3)."""

    directory: Path
    #: What the probe has found.
    verdict: Path
    #: Of keepalived's child.
    child_pid_file: Path
    #: Of a part of keepalived that does not run.
    bfd_pid_file: Path
    #: keepalived tells here of each change of its state.
    fifo: Path
    #: The states that are in the record.
    states: Path

    @property
    def configuration(self) -> Path:
        """What the controller sent, byte for byte."""
        return self.directory / "octavia-keepalived.conf"

    @property
    def given(self) -> Path:
        """What keepalived reads: that, in its own words, and the agent's addition."""
        return self.directory / "agent.conf"

    @property
    def pid_file(self) -> Path:
        return self.directory / "octavia-keepalived.pid"

    @property
    def check_script(self) -> Path:
        return self.directory / "check_script.sh"


@dataclass(frozen=True)
class LvsLayout:
    """The files of one UDP or SCTP listener."""

    id: ObjectId
    directory: Path

    @property
    def name(self) -> str:
        """Of its keepalived for the supervisor, and of the unit (WIRE §3)."""
        return f"{_LVS_PREFIX}{self.id}"

    @property
    def configuration(self) -> Path:
        """What the controller sent, byte for byte."""
        return self.directory / f"{self.name}.conf"

    @property
    def given(self) -> Path:
        """What keepalived reads: what was committed when it was last told to, and the agent's
        addition."""
        return self.directory / f"agent-{self.id}.conf"

    @property
    def pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    @property
    def child_pid_file(self) -> Path:
        return self.directory / f"{self.name}-check.pid"

    @property
    def bfd_pid_file(self) -> Path:
        """Of a part of keepalived that does not run."""
        return self.directory / f"{self.name}-bfd.pid"


def alarms_directory(run: Path) -> Path:
    """Where the alarms are: known before the settings are."""
    return run / "alarms"


def namespace_file(name: str) -> Path:
    """The file of a network namespace, where `ip netns` has it, too."""
    return Path("/run/netns") / name


@dataclass(frozen=True)
class Layout:
    """Every path of one amphora.

    `run` holds what may vanish with a reboot (sockets, logs), everything else is kept.
    """

    base: Path
    certificates: Path
    network: Path
    run: Path
    namespace: Path
    units: Path

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        run: Path,
        namespace: str,
        units: Path = Path("/etc/systemd/system"),
    ) -> "Layout":
        return cls(
            base=Path(settings.base_path),
            certificates=Path(settings.base_cert_dir),
            network=Path(settings.agent_server_network_dir),
            run=run,
            namespace=namespace_file(namespace),
            units=units,
        )

    @property
    def processes(self) -> Path:
        """What the embedded supervisor keeps alive."""
        return self.base / "processes"

    @property
    def format(self) -> Path:
        """The number of the format of all state (revisions/state_format.py)."""
        return self.base / "format"

    @property
    def journal(self) -> Path:
        """The directory of the record of what happened."""
        return self.base / "journal"

    @property
    def journal_beside(self) -> Path:
        """The same while nothing below `base` may be changed."""
        return self.run / "journal"

    @property
    def kept_client_crl(self) -> Path:
        """The last good revocation lists of the controllers' certificates."""
        return self.base / "client-crl.pem"

    @property
    def leases(self) -> Path:
        """What DHCP has given, and the scripts of its clients."""
        return self.base / "dhcp"

    @property
    def alarms(self) -> Path:
        """The lasting conditions that an operator must know of."""
        return alarms_directory(self.run)

    @property
    def instance_locks(self) -> Path:
        return self.run / "instances"

    def instance_lock(self, name: str) -> Path:
        """The lock of a load balancer, by its id, or of a keepalived, by its process."""
        return self.instance_locks / f"{name}.lock"

    @property
    def network_locks(self) -> Path:
        return self.run / "network"

    @property
    def heartbeat_counters(self) -> tuple[Path, Path]:
        """What heartbeats have told of counters: on disk, and in memory."""
        return self.base / "heartbeat" / "counters", self.run / "heartbeat" / "counters"

    @property
    def controller_api(self) -> Path:
        """The version of the API that the controller speaks."""
        return self.base / "heartbeat" / "controller-api"

    @property
    def vrrp(self) -> VrrpLayout:
        return VrrpLayout(
            directory=self.base / "vrrp",
            verdict=self.run / "vrrp-check",
            child_pid_file=self.run / "octavia-keepalived-vrrp.pid",
            bfd_pid_file=self.run / "octavia-keepalived-bfd.pid",
            fifo=self.run / "vrrp-notify",
            states=self.run / "vrrp-states",
        )

    @property
    def ping_wrapper(self) -> Path:
        """The program that configurations name for checks of PING monitors (WIRE §3)."""
        return self.base / "ping-wrapper.sh"

    @property
    def lvs_directory(self) -> Path:
        return self.base / "lvs"

    @property
    def udp_check(self) -> Path:
        """The script that configurations name for checks of UDP members (WIRE §3)."""
        return self.lvs_directory / "check" / "udp_check.sh"

    def lvs(self, listener_id: ObjectId) -> LvsLayout:
        return LvsLayout(listener_id, self.lvs_directory)

    def lvs_listeners(self) -> list[LvsLayout]:
        """Those that have a configuration, sorted by id."""
        found = []
        for configuration in sorted(self.lvs_directory.glob(f"{_LVS_PREFIX}*.conf")):
            name = configuration.stem.removeprefix(_LVS_PREFIX)
            if _OBJECT_ID.fullmatch(name):
                found.append(self.lvs(ObjectId(name)))
        return found

    def instance(self, instance_id: ObjectId) -> InstanceLayout:
        """An instance as it is now: rendered, also while an uploaded text waits to take its place,
        or uploaded."""
        rendered = self.rendered(instance_id)
        return rendered if rendered.current.is_symlink() else self.uploaded(instance_id)

    def uploaded(self, instance_id: ObjectId) -> UploadedLayout:
        """An instance whose text the controller sends."""
        return self._instance(UploadedLayout, instance_id, self.certificates / instance_id)

    def rendered(self, instance_id: ObjectId) -> RenderedLayout:
        """An instance whose texts the agent renders."""
        certificates = self.base / instance_id / "current" / "certificates"
        return self._instance(RenderedLayout, instance_id, certificates)

    def processes_of(self, balancer: RenderedLayout) -> list[RenderedLayout]:
        """The processes that have directories of their own in a load balancer, or had."""
        found = []
        for path in self.base.iterdir():
            with contextlib.suppress(OSError):  # the link may lead nowhere any more
                if (path / "current").readlink().parts[:2] == ("..", balancer.id):
                    found.append(self.rendered(ObjectId(path.name)))
        return found

    def other_kind(self, instance: InstanceLayout) -> InstanceLayout:
        """The instance of the other kind with the same id."""
        make = self.rendered if isinstance(instance, UploadedLayout) else self.uploaded
        return make(instance.id)

    def _instance(
        self, kind: type[_Instance], instance_id: ObjectId, certificates: Path
    ) -> _Instance:
        directory, name = self.base / instance_id, str(instance_id)
        with contextlib.suppress(OSError):
            if os.readlink(directory / "second") == kind.kind:
                name += SECOND
        return kind(
            id=instance_id,
            directory=directory,
            certificates=certificates,
            stats_socket=self.base / f"{instance_id}.sock",
            master_socket=self.run / f"{name}.master",
            process=f"haproxy-{name}",
        )

    def certificate(self, instance_id: ObjectId, name: CertificateName) -> Path:
        return self.certificates / instance_id / name
