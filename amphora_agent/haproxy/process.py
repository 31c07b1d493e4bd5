"""The haproxy program: its version, its command line, its own check of a configuration."""

import re
import threading
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import capabilities, render
from amphora_agent.haproxy.capabilities import Capabilities
from amphora_agent.layout import InstanceLayout
from amphora_agent.processes.command import Completed, run

#: Seconds for `haproxy -c`; the controller waits 60 for its answer.
_CHECK_PATIENCE = 45.0
#: By this name haproxy reads a configuration that is in no file.
_INPUT = "/dev/stdin"


class Haproxy:
    """The haproxy at `program`. `scratch` is a directory for the files of checks."""

    def __init__(self, program: Path, scratch: Path) -> None:
        self._program = program
        self._check_addition = scratch / "check.cfg"
        self._lock = threading.Lock()
        self._known: tuple[object, Capabilities] | None = None

    def capabilities(self) -> Capabilities:
        """Those of the installed version; asked once for each program file."""
        signature = self.installed()
        with self._lock:
            if self._known is None or self._known[0] != signature:
                output = run((str(self._program), "-v"), timeout=10).output
                found = re.search(r"version (\S+)", output)
                if found is None:
                    raise OperationFailed("Cannot tell the version of haproxy", output[:200])
                self._known = signature, capabilities.of_version(found[1])
            return self._known[1]

    def installed(self) -> object:
        """A value that changes when another program is installed."""
        return files.signature(self._program)

    def check(self, configuration: bytes, name: Path, addition: Path, peer: str) -> Completed:
        """Let haproxy check a configuration, with the file `addition`, loading nothing into
        service. In what haproxy says, the configuration is called `name`."""
        if not self._check_addition.exists():
            files.write(self._check_addition, render.check_addition().encode())
        arguments = [str(self._program), "-c", "-f", _INPUT]
        for more in (addition, self._check_addition):
            arguments += ("-f", str(more))
        checked = run((*arguments, "-L", peer), timeout=_CHECK_PATIENCE, input=configuration)
        return Completed(checked.status, checked.output.replace(_INPUT, str(name)))

    def command(self, instance: InstanceLayout, peer: str, *, notify: bool) -> tuple[str, ...]:
        """The command line that runs an instance in master-worker mode, in the foreground.

        `notify`: tell systemd about the start and each reload.
        """
        return (
            str(self._program),
            # In the foreground also when the text says `daemon`, which it always does.
            *(("-Ws",) if notify else ("-W", "-db")),
            "-S",
            f"{instance.master_socket},mode,600",
            "-f",
            str(instance.configuration),
            "-f",
            str(instance.addition),
            "-p",
            str(instance.pid_file),
            "-L",
            peer,
        )
