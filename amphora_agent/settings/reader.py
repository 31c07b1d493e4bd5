"""The controller's INI file, read into one frozen value.

The controller writes the file (by config drive at boot, by `PUT /1.0/config` later) in
oslo.config's dialect; sections, keys and defaults are Octavia's (WIRE §7). What this agent does
not use is ignored with a warning: a newer controller may say more than an older agent knows.

No message quotes a value: any of them may be the heartbeat key, by a slip of whoever wrote the
file.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from amphora_agent.errors import AgentError

logger = logging.getLogger(__name__)


class SettingsError(AgentError):
    """The file cannot be used; the text names the file, and each section and key with the reason.

    `reasons` are the same, one by one, without the file.
    """

    def __init__(self, source: str, *reasons: str) -> None:
        super().__init__("Invalid agent configuration", f"{source}: {'; '.join(reasons)}")
        self.reasons = reasons


@dataclass(frozen=True)
class Settings:
    """What the controller has decided for this amphora. Times are seconds, paths absolute.

    The agent acts on all but three: it logs one way whatever `user_log_facility` and
    `administrative_log_facility` say, and has one `amphora_udp_driver`. Controllers write them;
    the agent checks their values and tells what a push changes of them.
    """

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
        SettingsError: not INI, values of the wrong kind (all are told), or no amphora_id.
    """
    assignments = _read_ini(text, source)
    ignored = [name for name in assignments if _key(*name) is None]
    _warn_of_ignored(ignored, source)
    written = {known.field: value for name, value in assignments.items() if (known := _key(*name))}
    values: dict[str, Any] = {}
    reasons = []
    for section, key in assignments:
        if known := _key(section, key):
            try:
                values[known.field] = known.read(written)
            except ValueError as error:
                reasons.append(f"[{known.section}] {key}: {error}")
    if not values.get("amphora_id") and not reasons:
        reasons.append("[amphora_agent] amphora_id: is missing")
    if reasons:
        raise SettingsError(source, *reasons)
    return Settings(**values)


def decode(data: bytes, source: str) -> Settings:
    """Read the bytes of a file. Raises as `parse`."""
    try:
        return parse(data.decode(), source)
    except UnicodeDecodeError as error:
        raise SettingsError(source, f"byte {error.start + 1}: is not UTF-8") from None


def locate(name: str) -> str:
    """Where a setting stands in the file: `[haproxy_amphora] base_path`."""
    return next(f"[{key.section}] {key.field}" for key in _KEYS if key.field == name)


# The INI file, as oslo.config reads it


def _read_ini(text: str, source: str) -> dict[tuple[str, str], str]:
    """Return the last value of each key by section and key. The names of sections are told
    without regard to case, those of keys with it."""
    found: dict[tuple[str, str], str] = {}
    section: str | None = None
    #: The key whose value an indented line continues.
    key: str | None = None
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.rstrip()
        if not line:
            key = None
        elif line[0] in " \t":
            if key is None or section is None:
                raise SettingsError(source, f"line {number}: continues no value")
            found[section, key] += "\n" + line.lstrip()
        elif line[0] == "[":
            if not line.endswith("]") or len(line) < 3:
                raise SettingsError(source, f"line {number}: not '[section]'")
            section, key = _normalize_section(line[1:-1]), None
        elif line[0] in "#;":
            key = None
        else:
            key, value = _split_assignment(line, number, source)
            if section is None:
                raise SettingsError(source, f"line {number}: no [section] before it")
            found.pop((section, key), None)
            found[section, key] = value
    return found


def _split_assignment(line: str, number: int, source: str) -> tuple[str, str]:
    separator = re.search("[:=]", line)
    if separator is None or not line[: separator.start()].strip():
        # The line is not quoted: it may hold the heartbeat key.
        raise SettingsError(source, f"line {number}: not 'key = value'")
    value = line[separator.end() :].strip()
    # One pair of quotes around the whole of a value is not part of it.
    if value and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return line[: separator.start()].strip(), value


def _normalize_section(name: str) -> str:
    return name if name == "DEFAULT" else name.lower()


#: Names that are told. What else stands before a `=` may be a part of a secret.
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
#: Ignored keys that are told one by one.
_MOST_WARNINGS = 20


def _warn_of_ignored(names: list[tuple[str, str]], source: str) -> None:
    for section, key in names[:_MOST_WARNINGS]:
        told = [
            name if _PLAIN_NAME.fullmatch(name) else "(a name not shown)" for name in (section, key)
        ]
        logger.warning("%s: [%s] %s: unknown, ignored", source, *told)
    if len(names) > _MOST_WARNINGS:
        logger.warning("%s: %d more keys: unknown, ignored", source, len(names) - _MOST_WARNINGS)


# Kinds of values


def _string(raw: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in raw):
        raise ValueError("has a control character")
    return raw


def _boolean(raw: str) -> bool:
    lowered = raw.strip().lower()
    if lowered in {"true", "1", "on", "yes"}:
        return True
    if lowered in {"false", "0", "off", "no"}:
        return False
    raise ValueError("is not true or false")


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def convert(raw: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", raw.strip()) or not least <= int(raw) <= most:
            raise ValueError(f"is not a whole number from {least} to {most}")
        return int(raw)

    return convert


def _absolute_path(raw: str) -> str:
    if not _string(raw).startswith("/"):
        raise ValueError("is not an absolute path")
    if len(raw.encode()) > 4095:
        raise ValueError("is too long for a path")
    return raw


def _ip_address(raw: str) -> str:
    try:
        ipaddress.ip_address(raw)
    except ValueError:
        raise ValueError("is not an IP address") from None
    return raw


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(raw: str) -> str:
        if raw not in allowed:
            raise ValueError(f"is not one of {', '.join(allowed)}")
        return raw

    return convert


def _list(raw: str) -> tuple[str, ...]:
    # A list may go on in the next lines.
    parts = (part.strip() for part in raw.split(","))
    return tuple(_string(part) for part in parts if part)


#: What oslo.config takes for a reference to another setting.
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<plain>[_a-z][._a-z0-9]*)|\{(?P<braced>[_a-z][._a-z0-9]*)\})",
    re.ASCII | re.IGNORECASE,
)


class _Key(NamedTuple):
    """A key of the file. `literal`: its value is taken as it is written, `$` and all."""

    section: str
    field: str
    convert: Callable[[str], object]
    literal: bool = False

    def read(self, written: Mapping[str, str]) -> object:
        """Convert the value of this key; `written` are all values by their fields.

        Raises:
            ValueError
        """
        return self.convert(self._resolve(written, ()))

    def _resolve(self, written: Mapping[str, str], within: tuple["_Key", ...]) -> str:
        """Replace references to other settings, as oslo.config does."""
        if self.field not in written:
            default = Settings.__dataclass_fields__[self.field].default
            return ", ".join(default) if isinstance(default, tuple) else str(default)
        if self.literal:
            return written[self.field]

        def replace(match: re.Match[str]) -> str:
            if match["dollar"]:
                return "$"
            key = self._find(match["plain"] or match["braced"])
            if key is None or key.literal or key in (*within, self):
                raise ValueError("refers to a setting that it cannot refer to ($$ is a plain $)")
            return key._resolve(written, (*within, self))

        return _REFERENCE.sub(replace, written[self.field].replace("\\$", "$$"))

    def _find(self, name: str) -> "_Key | None":
        section, dot, key = name.partition(".")
        if dot:
            return _key(_normalize_section(section), key)
        return _key(self.section, name) or _key("DEFAULT", name)


_TLS_PROTOCOLS = ("SSLv2", "SSLv23", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_KEYS = (
    _Key("DEFAULT", "debug", _boolean),
    _Key("DEFAULT", "use_syslog", _boolean),
    _Key("DEFAULT", "syslog_log_facility", _string),
    _Key("haproxy_amphora", "base_path", _absolute_path),
    _Key("haproxy_amphora", "base_cert_dir", _absolute_path),
    _Key("haproxy_amphora", "bind_host", _ip_address),
    _Key("haproxy_amphora", "bind_port", _whole_number(1, 65535)),
    _Key("haproxy_amphora", "haproxy_cmd", _absolute_path),
    _Key("haproxy_amphora", "user_log_facility", _whole_number(0, 7)),
    _Key("haproxy_amphora", "administrative_log_facility", _whole_number(0, 7)),
    _Key("health_manager", "controller_ip_port_list", _list),
    _Key("health_manager", "heartbeat_interval", _whole_number(1, 86400)),
    # The controller writes the key that it checks signatures with, every `$` as it is.
    _Key("health_manager", "heartbeat_key", _string, literal=True),
    _Key("amphora_agent", "agent_server_ca", _absolute_path),
    _Key("amphora_agent", "agent_server_cert", _absolute_path),
    _Key("amphora_agent", "agent_server_network_dir", _absolute_path),
    _Key("amphora_agent", "agent_request_read_timeout", _whole_number(1, 86400)),
    _Key("amphora_agent", "amphora_id", _string),
    _Key("amphora_agent", "amphora_udp_driver", _string),
    _Key("amphora_agent", "agent_tls_protocol", _one_of(*_TLS_PROTOCOLS)),
    _Key("amphora_agent", "administrative_log_facility", _whole_number(0, 7)),
    _Key("amphora_agent", "user_log_facility", _whole_number(0, 7)),
    _Key("controller_worker", "loadbalancer_topology", _one_of("SINGLE", "ACTIVE_STANDBY")),
)
_BY_NAME = {(key.section, key.field): key for key in _KEYS}


def _key(section: str, name: str) -> _Key | None:
    return _BY_NAME.get((section, name))
