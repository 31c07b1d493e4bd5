"""The controller's INI file, read into one frozen value.

The controller writes the file (by config drive at boot, by `PUT /1.0/config` later) in
oslo.config's dialect; sections, keys and defaults are Octavia's (WIRE §7). What this agent does
not use is ignored with a warning: a newer controller may say more than an older agent knows.
"""

import configparser
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amphora_agent import files
from amphora_agent.errors import AgentError

logger = logging.getLogger(__name__)


class SettingsError(AgentError):
    """The file cannot be used; the text names the file, the section, the key and the reason."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__("Invalid agent configuration", f"{source}: {reason}")


@dataclass(frozen=True)
class Settings:
    """What the controller has decided for this amphora. Times are seconds, paths absolute."""

    amphora_id: str
    debug: bool = False
    use_syslog: bool = False
    syslog_log_facility: str = "LOG_USER"
    base_path: str = "/var/lib/octavia"
    base_cert_dir: str = "/var/lib/octavia/certs"
    bind_host: str = "::"
    bind_port: int = 9443
    haproxy_cmd: str = "/usr/sbin/haproxy"
    user_log_facility: int = 0
    administrative_log_facility: int = 1
    controller_ip_port_list: tuple[str, ...] = ()
    heartbeat_interval: int = 10
    heartbeat_key: str = field(default="", repr=False)
    agent_server_ca: str = "/etc/octavia/certs/client_ca.pem"
    agent_server_cert: str = "/etc/octavia/certs/server.pem"
    agent_server_network_dir: str = "/etc/octavia/interfaces/"
    agent_request_read_timeout: int = 180
    agent_tls_protocol: str = "TLSv1.2"
    amphora_udp_driver: str = "keepalived_lvs"
    loadbalancer_topology: str = "SINGLE"

    @property
    def single(self) -> bool:
        """Whether this amphora holds its VIPs itself, without keepalived."""
        return self.loadbalancer_topology == "SINGLE"


def parse(text: str, source: str) -> Settings:
    """Read the INI `text`; `source` is its name for messages.

    Raises:
        SettingsError: not INI, a value of the wrong kind, or no amphora_id.
    """
    values: dict[str, Any] = {}
    for section, keys in _read_ini(text, source).items():
        for key, raw in keys.items():
            known = _KEYS.get((section, key))
            if known is None:
                logger.warning("%s: [%s] %s: unknown, ignored", source, section, key)
                continue
            try:
                values[known.field] = known.convert(_unquoted(raw.strip()))
            except ValueError as error:
                raise SettingsError(source, f"[{section}] {key}: {error}") from None
    if not values.get("amphora_id"):
        raise SettingsError(source, "[amphora_agent] amphora_id: is missing")
    return Settings(**values)


def read(path: Path) -> Settings:
    """Read the file at `path`.

    Raises:
        SettingsError: as `parse`, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), str(error)) from None
    return parse(text, str(path))


class SettingsFile:
    """The settings as they are now: read again when the file has been replaced.

    Each process has its own; that is how a change reaches them all without a message between
    them. A file that turned bad (by hand: the API refuses such) is reported once and the last
    good settings stay.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._signature = files.signature(path)
        self._settings = read(path)

    def current(self) -> Settings:
        """The settings now in force. Costs one `stat` when nothing changed."""
        signature = files.signature(self.path)
        if signature == self._signature:
            return self._settings
        with self._lock:
            if signature != self._signature:
                self._signature = signature
                try:
                    self._settings = read(self.path)
                except SettingsError as error:
                    logger.error("%s; the previous settings stay in force", error)
                else:
                    logger.info("settings taken up again from %s", self.path)
        return self._settings

    def replace(self, data: bytes) -> None:
        """Put a new file in place, if it can be used; the one before is kept as `.previous`.

        Raises:
            SettingsError: it cannot be used; nothing is changed.
        """
        try:
            wanted = parse(data.decode(), str(self.path))
        except UnicodeDecodeError as error:
            raise SettingsError(str(self.path), str(error)) from None
        later = _read_at_start_only(self.current(), wanted)
        if later:
            logger.warning("taken up when the agent starts again: %s", ", ".join(later))
        files.keep_as(self.path, self.path.with_name(f"{self.path.name}.previous"))
        files.write(self.path, data)


#: Read at each use; what the controller calls mutable is among them (WIRE §7).
_TAKEN_UP_RUNNING = frozenset(
    {
        "agent_request_read_timeout",
        "agent_tls_protocol",
        "controller_ip_port_list",
        "debug",
        "heartbeat_interval",
        "heartbeat_key",
        "loadbalancer_topology",
    }
)


def _read_at_start_only(running: Settings, wanted: Settings) -> list[str]:
    """The names of changed settings that are only read when the agent starts."""
    return [
        f.name
        for f in fields(Settings)
        if f.name not in _TAKEN_UP_RUNNING and getattr(running, f.name) != getattr(wanted, f.name)
    ]


def _read_ini(text: str, source: str) -> dict[str, dict[str, str]]:
    # oslo.config allows a key and a section twice (the last wins) and has no interpolation.
    parser = configparser.RawConfigParser(
        strict=False, default_section="\0none", inline_comment_prefixes=None
    )
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        raise SettingsError(source, f"line {error.lineno}: no [section] before it") from None
    except configparser.ParsingError as error:
        # The message of the exception quotes the line, which may hold the heartbeat key.
        lines = ", ".join(str(number) for number, _ in error.errors)
        raise SettingsError(source, f"line {lines}: not 'key = value'") from None
    except configparser.Error as error:
        raise SettingsError(source, type(error).__name__) from None
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _unquoted(raw: str) -> str:
    """As oslo.config reads a value: one pair of quotes around the whole of it is not part of it."""
    return raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'" else raw


def _string(raw: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in raw):
        raise ValueError("has a control character")
    return raw


def _boolean(raw: str) -> bool:
    lowered = raw.lower()
    if lowered in {"true", "1", "on", "yes"}:
        return True
    if lowered in {"false", "0", "off", "no"}:
        return False
    raise ValueError(f"{raw!r} is not true or false")


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def convert(raw: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", raw) or not least <= int(raw) <= most:
            raise ValueError(f"{raw!r} is not a whole number from {least} to {most}")
        return int(raw)

    return convert


def _absolute_path(raw: str) -> str:
    if not _string(raw).startswith("/"):
        raise ValueError(f"{raw!r} is not an absolute path")
    return raw


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(raw: str) -> str:
        if raw not in allowed:
            raise ValueError(f"{raw!r} is not one of {', '.join(allowed)}")
        return raw

    return convert


def _list(raw: str) -> tuple[str, ...]:
    return tuple(entry for entry in (part.strip() for part in _string(raw).split(",")) if entry)


@dataclass(frozen=True)
class _Key:
    field: str
    convert: Callable[[str], object]


_TLS_PROTOCOLS = ("SSLv2", "SSLv23", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_KEYS: dict[tuple[str, str], _Key] = {
    (section, key): _Key(key, convert)
    for section, key, convert in (
        ("DEFAULT", "debug", _boolean),
        ("DEFAULT", "use_syslog", _boolean),
        ("DEFAULT", "syslog_log_facility", _string),
        ("haproxy_amphora", "base_path", _absolute_path),
        ("haproxy_amphora", "base_cert_dir", _absolute_path),
        ("haproxy_amphora", "bind_host", _string),
        ("haproxy_amphora", "bind_port", _whole_number(1, 65535)),
        ("haproxy_amphora", "haproxy_cmd", _absolute_path),
        ("haproxy_amphora", "user_log_facility", _whole_number(0, 7)),
        ("haproxy_amphora", "administrative_log_facility", _whole_number(0, 7)),
        ("health_manager", "controller_ip_port_list", _list),
        ("health_manager", "heartbeat_interval", _whole_number(1, 86400)),
        ("health_manager", "heartbeat_key", _string),
        ("amphora_agent", "agent_server_ca", _absolute_path),
        ("amphora_agent", "agent_server_cert", _absolute_path),
        ("amphora_agent", "agent_server_network_dir", _absolute_path),
        ("amphora_agent", "agent_request_read_timeout", _whole_number(1, 86400)),
        ("amphora_agent", "amphora_id", _string),
        ("amphora_agent", "amphora_udp_driver", _string),
        ("amphora_agent", "agent_tls_protocol", _one_of(*_TLS_PROTOCOLS)),
        ("amphora_agent", "administrative_log_facility", _whole_number(0, 7)),
        ("amphora_agent", "user_log_facility", _whole_number(0, 7)),
        ("controller_worker", "loadbalancer_topology", _one_of("SINGLE", "ACTIVE_STANDBY")),
    )
}
