"""Agents of other releases: a wheel becomes a program, with the libraries of this interpreter."""

from __future__ import annotations

import contextlib
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = """\
#!/bin/sh
PYTHONPATH={directory} exec {python} -P -m amphora_agent "$@"
"""


def install_wheel(wheel: Path, directory: Path) -> Path:
    """Unpack a wheel of the agent into a new directory. Return the program that runs this agent,
    and not the one that is installed."""
    directory.mkdir()
    with zipfile.ZipFile(wheel) as files:
        files.extractall(directory)
    program = directory / "amphora-agent"
    program.write_text(_PROGRAM.format(directory=directory, python=sys.executable))
    program.chmod(0o755)
    return program


@contextlib.contextmanager
def using_program(program: Path | None) -> Iterator[None]:
    """Have the laboratory start this agent meanwhile; None is the one of this tree."""
    before = os.environ.get("AMPHORA_AGENT")
    if program is not None:
        os.environ["AMPHORA_AGENT"] = str(program)
    try:
        yield
    finally:
        if program is not None:
            del os.environ["AMPHORA_AGENT"]
            if before is not None:
                os.environ["AMPHORA_AGENT"] = before
