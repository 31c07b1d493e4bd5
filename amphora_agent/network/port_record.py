"""What has been plugged, on disk: one file for each port, named by its MAC address.

A record keeps what the controller has said, not what was made of it: it is read again under the
topology of the day, by the agent of the day. It is written before the kernel is changed, so that
a plug that was interrupted is completed by its repetition, or at the next start.
"""

import logging
import re
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import InvalidRequest
from amphora_agent.model.addressing import Interface, Mac
from amphora_agent.model.decode import decode, encode
from amphora_agent.model.plugging import InterfaceRule, NetworkPlug, PluggedVip

logger = logging.getLogger(__name__)

_FILE_NAME = re.compile(r"[0-9a-f]{2}(-[0-9a-f]{2}){5}\.json")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One port: its MAC address, the name it has in the namespace, and its plugs.

    `rules` is None until the controller has sent rules for the interface. `owned` are the
    addresses that the agent has put on the interface, or is about to. `missing`: when it was
    looked for last, there was no such port.
    """

    mac: Mac
    name: str
    vip: PluggedVip | None = None
    network: NetworkPlug | None = None
    rules: tuple[InterfaceRule, ...] | None = None
    owned: tuple[Interface, ...] = ()
    missing: bool = False

    @property
    def guarded(self) -> bool:
        """Whether only what the rules allow may come in: nobody else filters for an SR-IOV port."""
        plugs = (self.vip, self.network)
        return self.rules is not None or any(plug and plug.is_sriov for plug in plugs)


class Records:
    """The records below `directory`. What is kept is what was put, also after a power cut."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, mac: Mac) -> Record | None:
        return self._read(self._path(mac))

    def put(self, record: Record) -> None:
        """Raises OSError when the disk refuses; the earlier record is as it was."""
        if record != self.get(record.mac):
            files.write(self._path(record.mac), encode(record))

    def remove(self, mac: Mac) -> None:
        files.remove(self._path(mac))

    def all(self) -> list[Record]:
        """Those that can be read, in the order of their interface's number."""
        found = []
        for path in sorted(self.directory.glob("*.json")):
            # The directory is the controller's setting: other files in it are not ours.
            if _FILE_NAME.fullmatch(path.name) and (record := self._read(path)):
                found.append(record)
        return sorted(found, key=lambda record: (len(record.name), record.name))

    def _path(self, mac: Mac) -> Path:
        return self.directory / f"{mac.replace(':', '-')}.json"

    def _read(self, path: Path) -> Record | None:
        try:
            return decode(path.read_bytes(), Record)
        except FileNotFoundError:
            return None
        except (OSError, InvalidRequest) as error:
            logger.error("%s cannot be read and is left aside: %s", path, error)
            return None
