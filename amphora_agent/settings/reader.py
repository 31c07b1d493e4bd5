"""Read the controller's INI file into one frozen value.

The controller writes the file (by config drive at boot, by `PUT /1.0/config` later) in
oslo.config's dialect; sections, keys and defaults are Octavia's (WIRE §7). Unknown
keys are ignored with a warning: a newer controller may write more than an older agent knows.

No message quotes a value: by a mistake in the file, any value may be the heartbeat key.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from amphora_agent.errors import AgentError

logger = logging.getLogger(__name__)


class SettingsError(AgentError):
    """The file cannot be used; the text has the file, and each section and key with the reason.

    `reasons` are the same, one by one, without the file.
    """

    def __init__(self, source: str, *reasons: str) -> None:
        super().__init__("Invalid agent configuration", f"{source}: {'; '.join(reasons)}")
        self.reasons = reasons


# Kinds of values: each converts a text, or raises ValueError


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


# The settings


#: Further sections of a key.
_OTHER_SECTIONS = {
    "user_log_facility": ("amphora_agent",),
    "administrative_log_facility": ("amphora_agent",),
}
_TLS_PROTOCOLS = ("SSLv2", "SSLv23", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


def _setting(
    section: str, convert: Callable[[str], object], default: object, *, secret: bool = False
) -> Any:
    """Define a key of the file. The value of a `secret` is taken as it is written, `$` and all."""
    return field(
        default=default, repr=not secret, metadata={"section": section, "convert": convert}
    )


@dataclass(frozen=True)
class Settings:
    """What the controller has decided for this amphora. Times are seconds, paths absolute.

    The agent acts on all but three: it logs one way whatever `user_log_facility` and
    `administrative_log_facility` say, and has one `amphora_udp_driver`. Controllers write them, so
    the agent checks their values and reports what a push changes of them.
    """

    amphora_id: str = field(metadata={"section": "amphora_agent", "convert": _string})
    debug: bool = _setting("DEFAULT", _boolean, False)
    use_syslog: bool = _setting("DEFAULT", _boolean, False)
    syslog_log_facility: str = _setting("DEFAULT", _string, "LOG_USER")
    base_path: str = _setting("haproxy_amphora", _absolute_path, "/var/lib/octavia")
    base_cert_dir: str = _setting("haproxy_amphora", _absolute_path, "/var/lib/octavia/certs")
    bind_host: str = _setting("haproxy_amphora", _ip_address, "::")
    bind_port: int = _setting("haproxy_amphora", _whole_number(1, 65535), 9443)
    haproxy_cmd: str = _setting("haproxy_amphora", _absolute_path, "/usr/sbin/haproxy")
    user_log_facility: int = _setting("haproxy_amphora", _whole_number(0, 7), 0)
    administrative_log_facility: int = _setting("haproxy_amphora", _whole_number(0, 7), 1)
    controller_ip_port_list: tuple[str, ...] = _setting("health_manager", _list, ())
    heartbeat_interval: int = _setting("health_manager", _whole_number(1, 86400), 10)
    heartbeat_key: str = _setting("health_manager", _string, "", secret=True)
    agent_server_ca: str = _setting(
        "amphora_agent", _absolute_path, "/etc/octavia/certs/client_ca.pem"
    )
    agent_server_cert: str = _setting(
        "amphora_agent", _absolute_path, "/etc/octavia/certs/server.pem"
    )
    agent_server_network_dir: str = _setting(
        "amphora_agent", _absolute_path, "/etc/octavia/interfaces/"
    )
    agent_request_read_timeout: int = _setting("amphora_agent", _whole_number(1, 86400), 180)
    agent_tls_protocol: str = _setting("amphora_agent", _one_of(*_TLS_PROTOCOLS), "TLSv1.2")
    amphora_udp_driver: str = _setting("amphora_agent", _string, "keepalived_lvs")
    loadbalancer_topology: str = _setting(
        "controller_worker", _one_of("SINGLE", "ACTIVE_STANDBY"), "SINGLE"
    )

    @property
    def single(self) -> bool:
        """True if this amphora holds its VIPs itself, without keepalived."""
        return self.loadbalancer_topology == "SINGLE"


def parse_settings(text: str, source: str) -> Settings:
    """Read the INI `text`; `source` is its name for messages.

    Raises:
        SettingsError: not INI, values of the wrong kind (all are in the error), or no amphora_id.
    """
    assignments = _read_ini(text, source)
    _warn_of_ignored([name for name in assignments if name not in _KEYS], source)
    written = {_KEYS[n].field: value for n, value in assignments.items() if n in _KEYS}
    values: dict[str, Any] = {}
    reasons = []
    for key in (_KEYS[name] for name in assignments if name in _KEYS):
        try:
            values[key.field] = key.read(written)
        except ValueError as error:
            reasons.append(f"[{key.section}] {key.field}: {error}")
    if not values.get("amphora_id") and not reasons:
        reasons.append("[amphora_agent] amphora_id: is missing")
    if reasons:
        raise SettingsError(source, *reasons)
    return Settings(**values)


def decode_settings(data: bytes, source: str) -> Settings:
    """Read the bytes of a file. Raises as `parse`."""
    try:
        return parse_settings(data.decode(), source)
    except UnicodeDecodeError as error:
        raise SettingsError(source, f"byte {error.start + 1}: is not UTF-8") from None


def locate(name: str) -> str:
    """Return the place of a setting in the file: `[haproxy_amphora] base_path`."""
    return next(f"[{key.section}] {key.field}" for key in _KEYS.values() if key.field == name)


# The INI file, as oslo.config reads it


def _read_ini(text: str, source: str) -> dict[tuple[str, str], str]:
    """Return the last value of each key by section and key. The case of keys matters, that of
    sections does not."""
    values: dict[tuple[str, str], str] = {}
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
            values[section, key] += "\n" + line.lstrip()
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
            values.pop((section, key), None)
            values[section, key] = value
    return values


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


#: Names that warnings quote. Other text before a `=` may be a part of a secret.
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
#: Ignored keys that get a warning of their own.
_MOST_WARNINGS = 20


def _warn_of_ignored(names: list[tuple[str, str]], source: str) -> None:
    for section, key in names[:_MOST_WARNINGS]:
        shown = [
            name if _PLAIN_NAME.fullmatch(name) else "(a name not shown)" for name in (section, key)
        ]
        logger.warning("%s: [%s] %s: unknown, ignored", source, *shown)
    if len(names) > _MOST_WARNINGS:
        logger.warning("%s: %d more keys: unknown, ignored", source, len(names) - _MOST_WARNINGS)


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
    literal: bool

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
            return _KEYS.get((_normalize_section(section), key))
        return _KEYS.get((self.section, name)) or _KEYS.get(("DEFAULT", name))


_KEYS = {
    (section, known.name): _Key(section, known.name, known.metadata["convert"], not known.repr)
    for known in fields(Settings)
    for section in (known.metadata["section"], *_OTHER_SECTIONS.get(known.name, ()))
}
