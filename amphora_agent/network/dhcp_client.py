"""DHCP: one client process for each interface that needs one.

The client (udhcpc) itself changes no address, route or file. For each event it runs a script, and
that the agent's command, which records the lease and reconciles the port: only the reconciler
changes interfaces.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.model.addressing import Mac
from amphora_agent.network.records import Leases
from amphora_agent.supervisor.contract import ProcessSpec, Supervisor

#: In the foreground, and asking only for the options that a lease has; four requests a second
#: apart, and ten seconds of rest if nobody answers. udhcpc's own three seconds between requests are
#: most of the time that a plug may take.
_MANNERS = ("-f", "-o", "-O", "subnet", "-O", "staticroutes", "-O", "mtu")
_PACE = ("-t", "4", "-T", "1", "-A", "10")


class DhcpClients:
    """The clients, which `supervisor` keeps alive in `namespace`.

    Their scripts are beside the leases: /run may be mounted so that nothing in it can be executed.

    Args:
        event_command: the command for events, to which the MAC address of the port and the event
            are added. It runs in the namespace, as root, with the environment of the client, which
            waits for it.
        writable: the directories in which the event command writes.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        leases: Leases,
        namespace: Path,
        event_command: Sequence[str],
        writable: Sequence[Path],
    ) -> None:
        self._supervisor = supervisor
        self._leases = leases
        self._namespace = namespace
        self._event_command = tuple(event_command)
        self._writable = tuple(writable)

    def start(self, mac: Mac, ifname: str) -> None:
        """Keep a client running for the port `mac`, which is the interface `ifname`.

        One that runs for the port stays; one of another port that had the name before is ended.

        Raises:
            OperationFailed, OSError: the system or the disk refuses.
        """
        script = self._script_path(ifname)
        text = templates.render(
            "systemd",
            "dhcp-event.sh.j2",
            lease=shlex.quote(str(self._leases.path(mac))),
            command=shlex.join((*self._event_command, mac)),
        )
        if not files.has(script, text.encode()):
            self._supervisor.stop(_process_name(ifname))
            files.write(script, text.encode(), files.PRIVATE_PROGRAM)
        spec = ProcessSpec(
            name=_process_name(ifname),
            description=f"DHCP client of {ifname}",
            template="dhcp.service.j2",
            argv=("/usr/sbin/udhcpc", "-i", ifname, "-s", str(script), *_MANNERS, *_PACE),
            namespace=self._namespace,
            writable=self._writable,
        )
        self._supervisor.start(spec)

    def restart(self, mac: Mac, ifname: str) -> None:
        """Start the client anew, for another interface of that port. The lease stays.

        Raises: as `start`.
        """
        self._supervisor.stop(_process_name(ifname))
        self.start(mac, ifname)

    def stop(self, ifname: str) -> None:
        """End the client of the interface and remove its files but the lease. Idempotent.

        Raises: as `start`.
        """
        self._supervisor.forget(_process_name(ifname))
        files.remove(self._script_path(ifname))

    def forget(self, mac: Mac, ifname: str) -> None:
        """Stop the client and remove the lease of the port `mac`.

        Raises: as `start`.
        """
        self.stop(ifname)
        self._leases.forget(mac)

    def interfaces(self) -> set[str]:
        """Return the names of interfaces with a client, also of earlier agents."""
        return {path.stem for path in self._leases.directory.glob("*.sh")}

    def _script_path(self, ifname: str) -> Path:
        return self._leases.directory / f"{ifname}.sh"


def _process_name(ifname: str) -> str:
    return f"amphora-dhcp-{ifname}"
