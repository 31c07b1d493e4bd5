"""What is known of the controller: the version of the API that it speaks.

It decides in which form heartbeats are sent. The process of the API learns it, that of the
heartbeat asks for it, and it has to outlive both: it is a file.
"""

import logging
import threading
from pathlib import Path

from amphora_agent import files

logger = logging.getLogger(__name__)


class ControllerApi:
    """The version of the API in which the controller has last changed something. `memory` is the
    file; `default` is believed until then."""

    def __init__(self, memory: Path, default: str) -> None:
        self._memory = memory
        self._default = default
        self._lock = threading.Lock()

    def version(self) -> str:
        try:
            return self._memory.read_text(errors="replace").strip() or self._default
        except OSError:
            return self._default

    def spoken(self, version: str) -> None:
        """Remember that something has been changed in this version.

        The change is made by now: that it cannot be remembered is no reason to call it failed.
        """
        with self._lock:
            if self.version() != version:
                try:
                    files.write(self._memory, f"{version}\n".encode())
                except OSError as error:
                    logger.error("%s: cannot be written: %s", self._memory, error)
                else:
                    logger.info("the controller speaks API %s", version)
