"""The haproxy program: its version, its command line, and its check of a configuration.

What only the daemon needs is imported on first use: `restart`, which each start of haproxy awaits,
loads this module.
"""

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from amphora_agent import files
from amphora_agent.errors import OperationFailed, Unavailable
from amphora_agent.paths import InstanceLayout
from amphora_agent.revisions.contents import ADDITION, CONFIGURATION, PEER, Manifest, Revisions
from amphora_agent.supervisor.processes import Completed, run

if TYPE_CHECKING:
    from amphora_agent.haproxy.replies import Capabilities

#: Seconds for `haproxy -c`; the controller waits 60 for its answer.
_CHECK_PATIENCE = 45.0
#: By this name haproxy reads a configuration that is in no file.
_INPUT = "/dev/stdin"
_IN_INPUT = re.compile(rf"{_INPUT}(?::(\d+))?")


class Haproxy:
    """The haproxy at `program`. `scratch` is a directory for the files of checks."""

    def __init__(self, program: Path, scratch: Path) -> None:
        self.program = program
        self._scratch = scratch
        self._check_addition = scratch / "check.cfg"
        self._lock = threading.Lock()
        self._known: tuple[object, Capabilities] | None = None

    def find_fault(self) -> str | None:
        """Return why the program cannot be run; None if it can."""
        try:
            if not self.program.is_file():
                return "it is no file" if self.program.exists() else "there is no such file"
        except OSError as error:
            return error.strerror or str(error)
        return None if os.access(self.program, os.X_OK) else "the file may not be executed"

    def _require_program(self) -> None:
        fault = self.find_fault()
        if fault is not None:
            raise Unavailable("Cannot run haproxy", f"{self.program}: {fault}")

    def capabilities(self) -> "Capabilities":
        """Return what the installed version can do; it is asked once for each program file.

        Raises:
            Unavailable: there is no program that could be run.
        """
        from amphora_agent.haproxy import replies

        self._require_program()
        signature = self.installed()
        with self._lock:
            if self._known is None or self._known[0] != signature:
                output = run((str(self.program), "-v"), timeout=10).output
                found = re.search(r"version (\S+)", output)
                if found is None:
                    raise OperationFailed("Cannot tell the version of haproxy", output[:200])
                self._known = signature, replies.find_capabilities(found[1])
            return self._known[1]

    def installed(self) -> object:
        """Return a value that changes when another program is installed."""
        return files.signature(self.program)

    def check(self, configuration: bytes, name: Path, addition: Path, peer: str) -> Completed:
        """Let haproxy check a configuration, with the file `addition`, loading nothing into
        service. In what haproxy says, the configuration is called `name`."""
        checked = self._check(configuration, "-f", str(addition), "-L", peer)
        return Completed(checked.status, checked.output.replace(_INPUT, str(name)))

    def check_files(
        self, instance: InstanceLayout, manifest: Manifest, configuration: bytes | None = None
    ) -> Completed:
        """Let haproxy check the configuration of a manifest, whose certificates are in place; or
        another `configuration` instead."""
        revisions = Revisions.of(instance)
        if configuration is None:
            configuration = revisions.read(manifest[CONFIGURATION].digest)
        return self.check(
            configuration,
            instance.configuration,
            revisions.path(manifest[ADDITION].digest),
            revisions.read(manifest[PEER].digest).decode(),
        )

    def check_directory(
        self, texts: Mapping[str, str], named: Mapping[str, Path], name: Path
    ) -> Completed:
        """Let haproxy check `texts`, files of a directory that is called `name` in them, and will
        be. `named` says where the files are now that they name, by their names in there. What
        haproxy says calls the directory `name`, too."""

        def here(text: str) -> bytes:
            return text.replace(f"{name}/", f"{room}/").encode(errors="surrogateescape")

        files.make_directory(self._scratch)
        with files.scratch_directory(self._scratch) as room:
            for inside, path in named.items():
                made = room / inside
                files.make_private_directory(made.parent)
                content = path.read_text(errors="surrogateescape")
                if content.startswith(f"{name}/"):  # a crt-list
                    files.fill(made, here(content), sync=False)
                else:
                    files.refer(made, str(path))
            # In one piece: to make thousands of files takes longer than to check them.
            checked = self._check(here("".join(texts.values())))
            said = _IN_INPUT.sub(lambda found: _locate_line(texts, name, found[1]), checked.output)
            return Completed(checked.status, said.replace(str(room), str(name)))

    def _check(self, configuration: bytes, *options: str) -> Completed:
        self._require_program()
        if not self._check_addition.exists():
            # With its templates it takes longer to load than everything else that a start awaits.
            from amphora_agent.haproxy.process import render

            files.write(self._check_addition, render.check_addition().encode())
        # haproxy takes the last value that it reads.
        own = ("-f", str(self._check_addition))
        argv = (str(self.program), "-c", "-f", _INPUT, *options, *own)
        return run(argv, timeout=_CHECK_PATIENCE, input=configuration)

    def command(self, instance: InstanceLayout, peer: str, *, notify: bool) -> tuple[str, ...]:
        """Return the command line that runs an instance in master-worker mode, in the foreground.

        `notify`: tell systemd about the start and each reload.
        """
        return (
            str(self.program),
            # In the foreground also when the text says `daemon`, which it always does.
            *(("-Ws",) if notify else ("-W", "-db")),
            "-S",
            f"{instance.master_socket},mode,600",
            *(word for path in instance.given for word in ("-f", _show_path(path))),
            "-p",
            str(instance.pid_file),
            *(("-L", peer) if peer else ()),
        )


def _locate_line(texts: Mapping[str, str], directory: Path, number: str | None) -> str:
    """Return the file and line of a line that is counted through all texts, one after another."""
    left = int(number or 0)
    for file, text in texts.items():
        lines = text.count("\n")
        if 0 < left <= lines:
            return f"{directory}/{file}:{left}"
        left -= lines
    return str(directory)


def _show_path(path: Path) -> str:
    """Return a file, or a directory, as haproxy is told to load it."""
    return f"{path}/" if path.is_dir() else str(path)
