"""DHCP: one client process for each interface that wants one.

The client (udhcpc) touches no address, route or file itself. For each event it runs a script,
which runs the agent's own command, which remembers the lease and makes the interface agree: the
reconciler stays the only one who changes interfaces, and a lease is one more thing it reads.
"""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from amphora_agent import files, templates
from amphora_agent.model.addressing import Mac
from amphora_agent.network.dhcp_leases import Leases
from amphora_agent.supervisor.contract import ProcessSpec, Supervisor

logger = logging.getLogger(__name__)

#: In the foreground, with no option asked for but what a lease has, four requests a second apart
#: and ten seconds of rest when nobody answers. The client's usual three seconds between requests
#: are most of the time that a plug may take.
_MANNERS = ("-f", "-o", "-O", "subnet", "-O", "staticroutes", "-O", "mtu")
_PACE = ("-t", "4", "-T", "1", "-A", "10")


class DhcpClients:
    """The clients, kept alive by `supervisor` in `namespace`, restarted when they die.

    Their scripts are beside the leases: where the agent's other scripts are, since /run may be
    mounted so that nothing in it can be executed.

    Args:
        event_command: what is run for an event, with the port's MAC address and the event added
            and the client's environment. In the namespace, as root, and the client waits for it.
        writable: the directories in which the event command writes.
        program: udhcpc.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        leases: Leases,
        namespace: Path,
        event_command: Sequence[str],
        writable: Sequence[Path],
        program: Path = Path("/usr/sbin/udhcpc"),
    ) -> None:
        self._supervisor = supervisor
        self._leases = leases
        self._namespace = namespace
        self._event_command = tuple(event_command)
        self._writable = tuple(writable)
        self._program = program

    def start(self, mac: Mac, ifname: str) -> None:
        """Keep a client running for the port `mac`, which is the interface `ifname`.

        One that runs for it already is left alone; one that runs for another port, of which the
        name was before, is ended.

        Raises:
            OperationFailed, OSError: the system or the disk refuses.
        """
        script = self._script(ifname)
        text = self._script_text(mac).encode()
        if not files.has(script, text):
            self._supervisor.stop(_name(ifname))
            files.write(script, text, files.PRIVATE_PROGRAM)
        self._supervisor.start(self._spec(ifname, script))

    def restart(self, mac: Mac, ifname: str) -> None:
        """`start` anew: the interface is not the one that it was. The lease is kept.

        Raises: as `start`.
        """
        self._supervisor.stop(_name(ifname))
        self.start(mac, ifname)

    def stop(self, ifname: str) -> None:
        """End the client of the interface and leave no trace but the lease. Idempotent.

        Raises: as `start`.
        """
        self._supervisor.forget(_name(ifname))
        files.remove(self._script(ifname))

    def forget(self, mac: Mac, ifname: str) -> None:
        """`stop`, and remember no lease of the port `mac` either.

        Raises: as `start`.
        """
        self.stop(ifname)
        self._leases.forget(mac)

    def interfaces(self) -> set[str]:
        """The names of those whose client was started and not stopped, also by earlier agents."""
        return {path.stem for path in self._leases.directory.glob("*.sh")}

    def _script(self, ifname: str) -> Path:
        return self._leases.directory / f"{ifname}.sh"

    def _script_text(self, mac: Mac) -> str:
        return templates.render(
            "systemd",
            "dhcp-event.sh.j2",
            lease=shlex.quote(str(self._leases.path(mac))),
            command=shlex.join((*self._event_command, mac)),
        )

    def _spec(self, ifname: str, script: Path) -> ProcessSpec:
        return ProcessSpec(
            name=_name(ifname),
            description=f"DHCP client of {ifname}",
            template="dhcp.service.j2",
            argv=(str(self._program), "-i", ifname, "-s", str(script), *_MANNERS, *_PACE),
            namespace=self._namespace,
            writable=self._writable,
        )


def _name(ifname: str) -> str:
    return f"amphora-dhcp-{ifname}"
