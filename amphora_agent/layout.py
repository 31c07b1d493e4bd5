"""Every path, in one place, and the only way from an outside name to a path.

Ids and certificate names come from URLs. `object_id` and `certificate_name` are the one gate:
what passes them is a single path component that cannot climb, hide or collide with the agent's
own files; everything else is an `InvalidRequest`. The functions that build paths take only what
came through the gate (`ObjectId`, `CertificateName`), and the type checker holds callers to it.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NewType

from amphora_agent.errors import InvalidRequest
from amphora_agent.settings import Settings

ObjectId = NewType("ObjectId", str)
CertificateName = NewType("CertificateName", str)

_OBJECT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_CERTIFICATE_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,123}\.pem")

_LVS_PREFIX = "octavia-keepalivedlvs-"

#: Directories of the agent itself below base_path: no load balancer may have such a name.
_RESERVED = frozenset({"certs", "dhcp", "heartbeat", "lvs", "processes", "vrrp"})


def object_id(text: str) -> ObjectId:
    """The id of an amphora, load balancer or listener, as it came in a URL (decoded).

    Raises:
        InvalidRequest: it is not 1 to 64 letters, digits, `-` and `_`, beginning with a letter
            or digit. Octavia's ids are UUIDs; what matters here is that no id leaves its
            directory or names one of the agent's own.
    """
    if not _OBJECT_ID.fullmatch(text) or text in _RESERVED:
        raise InvalidRequest("Invalid request", f"{text!r} is not an id")
    return ObjectId(text)


def certificate_name(text: str) -> CertificateName:
    """The file name of a certificate, as it came in a URL (decoded).

    Raises:
        InvalidRequest: it is not a plain file name that ends in `.pem`.
    """
    if not _CERTIFICATE_NAME.fullmatch(text):
        raise InvalidRequest("Filename has wrong format", f"{text!r} is not NAME.pem")
    return CertificateName(text)


@dataclass(frozen=True)
class InstanceLayout:
    """The files of one haproxy instance. The controller's texts name some of them (WIRE §3).

    Of one that is `declared`, the agent has written all that haproxy loads, into one directory.
    """

    id: ObjectId
    directory: Path
    certificates: Path
    stats_socket: Path
    master_socket: Path
    declared: bool = False

    @property
    def current(self) -> Path:
        """Leads to the committed files of a declared instance."""
        return self.directory / "current"

    @property
    def configuration(self) -> Path:
        """What the controller sent, byte for byte; of a declared instance, what all its listeners
        share."""
        return (self.current if self.declared else self.directory) / "haproxy.cfg"

    @property
    def loads(self) -> tuple[Path, ...]:
        """What haproxy is told to load, in this order: files, or a directory of them."""
        return (self.current,) if self.declared else (self.configuration, self.addition)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The committed files that haproxy loads, in the order in which it does."""
        return _texts_in(self.current) if self.declared else self.loads

    @property
    def good_sources(self) -> tuple[Path, ...]:
        """The same of those with which haproxy last came up; they need not be there."""
        if self.declared:
            return _texts_in(self.good)
        return tuple(self.good / path.name for path in self.loads)

    @property
    def addition(self) -> Path:
        """What the agent adds, as a second file for haproxy."""
        return self.directory / "agent.cfg"

    @property
    def peer(self) -> Path:
        """The name for `-L`, remembered from the upload for the start."""
        return self.directory / "peer"

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
        """Links to the files with which haproxy last came up."""
        return self.directory / "last-good"

    @property
    def good(self) -> Path:
        """Where the last good files are; of a declared instance this leads to them."""
        return self.last_good / "current" if self.declared else self.last_good

    @property
    def final_counters(self) -> Path:
        """Readings of workers taken just before they were asked to leave."""
        return self.directory / "final-counters"

    @property
    def journal(self) -> Path:
        """What was changed, when and by whom; JSON lines."""
        return self.directory / "journal.jsonl"

    @property
    def journal_before(self) -> Path:
        """What `journal` had room for no more."""
        return self.directory / "journal.jsonl.1"

    @property
    def generations(self) -> Path:
        """What came up, numbered: to go back to."""
        return self.directory / "generations"


def _texts_in(directory: Path) -> tuple[Path, ...]:
    """What haproxy loads of a directory, in its order. There may be thousands."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return ()
    return tuple(directory / name for name in sorted(names) if name.endswith(".cfg"))


@dataclass(frozen=True)
class VrrpLayout:
    """The files of the VRRP service. The controllers' texts name that of the check (WIRE §3)."""

    directory: Path
    #: What the probe has found.
    verdict: Path
    #: Of keepalived's child.
    child_pid_file: Path

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


@dataclass(frozen=True)
class Layout:
    """Every path of one amphora.

    `run` holds what may vanish with a reboot (sockets, logs), everything else is kept.
    """

    base: Path
    certificates: Path
    network: Path
    agent_certificate: Path
    client_ca: Path
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
            agent_certificate=Path(settings.agent_server_cert),
            client_ca=Path(settings.agent_server_ca),
            run=run,
            namespace=Path("/run/netns") / namespace,
            units=units,
        )

    @property
    def processes(self) -> Path:
        """What the embedded supervisor keeps alive."""
        return self.base / "processes"

    @property
    def leases(self) -> Path:
        """What DHCP has given, and the scripts of its clients."""
        return self.base / "dhcp"

    @property
    def instance_locks(self) -> Path:
        return self.run / "instances"

    @property
    def network_locks(self) -> Path:
        return self.run / "network"

    @property
    def heartbeat_counters(self) -> Path:
        return self.base / "heartbeat" / "counters.json"

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
        """An instance as it is now: declared or uploaded, whichever was committed last."""
        declared = (self.base / instance_id / "current").is_symlink()
        return self.declared(instance_id) if declared else self.uploaded(instance_id)

    def uploaded(self, instance_id: ObjectId) -> InstanceLayout:
        """An instance whose text the controller sends."""
        return InstanceLayout(
            id=instance_id,
            directory=self.base / instance_id,
            certificates=self.certificates / instance_id,
            stats_socket=self.base / f"{instance_id}.sock",
            master_socket=self.run / f"{instance_id}.master",
        )

    def declared(self, instance_id: ObjectId) -> InstanceLayout:
        """An instance whose text the agent writes."""
        uploaded = self.uploaded(instance_id)
        return replace(
            uploaded,
            certificates=uploaded.current / "certificates",
            declared=True,
        )

    def certificate(self, instance_id: ObjectId, name: CertificateName) -> Path:
        return self.certificates / instance_id / name

    def instances(self) -> list[InstanceLayout]:
        """Those that have a configuration, sorted by id."""
        names = {path.parent.name for path in self.base.glob("*/haproxy.cfg")}
        names |= {path.parent.parent.name for path in self.base.glob("*/current/haproxy.cfg")}
        instances = (
            self.instance(ObjectId(name))
            for name in sorted(names)
            if _OBJECT_ID.fullmatch(name) and name not in _RESERVED
        )
        # Of a load balancer with a process for each listener, what is left of an earlier kind.
        return [instance for instance in instances if instance.configuration.is_file()]
