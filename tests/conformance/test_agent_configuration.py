"""The agent reads its file as oslo.config does, the library of the controller."""

import logging
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from octavia.amphorae.backends.agent.agent_jinja_cfg import AgentJinjaTemplater
from octavia.common.config import cfg

from amphora_agent.settings import reader

SEED = int(os.environ.get("FUZZ_SEED", random.randrange(1 << 32)))
FILES = 400

GROUPS = {
    "DEFAULT": [
        cfg.BoolOpt("debug", default=False),
        cfg.StrOpt("syslog_log_facility", default="LOG_USER"),
    ],
    "haproxy_amphora": [
        cfg.StrOpt("base_path", default="/var/lib/octavia"),
        cfg.StrOpt("base_cert_dir", default="/var/lib/octavia/certs"),
        cfg.IPOpt("bind_host", default="::"),
        cfg.PortOpt("bind_port", default=9443),
        cfg.StrOpt("haproxy_cmd", default="/usr/sbin/haproxy"),
    ],
    "health_manager": [
        cfg.ListOpt("controller_ip_port_list", default=[]),
        cfg.IntOpt("heartbeat_interval", default=10),
    ],
    "amphora_agent": [cfg.StrOpt("amphora_id")],
    "controller_worker": [cfg.StrOpt("loadbalancer_topology", default="SINGLE")],
}

VALUES = (
    *("/a/b", "/x$base_path", "${haproxy_amphora.base_path}/c", "True", "no", "12", "a", '"a"'),
    *("'/q'", '"', "'\"", "/a # b", "/a ; c", "%(x)s", "/50%", "/$$", "/a$", "/a\\$b", "/$nope"),
    *("192.0.2.1:5, [::1]:6", "192.0.2.1:5,\n 192.0.2.2:6", "::", "127.0.0.1", " /sp ", "/\u00fc"),
    *("/x\u2028y", "SINGLE", "", "/a\n  b"),
)
LINES = ("# c", "; c", " # c", "", "  ", "nonsense", "=x", ":", "  goes on", "\ufeff", "[x", "[]")
SEPARATORS, ENDS = (" = ", "=", ":", " : ", "\t=\t"), ("\n", "\n", "\r\n", "\r")


def read_as_oslo(text: str) -> "dict[str, Any] | None":
    """The values that oslo.config finds; None when it refuses the file or one of them."""
    conf = cfg.ConfigOpts()
    for group, options in GROUPS.items():
        conf.register_opts(options, group=None if group == "DEFAULT" else group)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "agent.conf")
        file.write_text(text, encoding="utf-8", newline="")
        try:
            conf(args=["--config-file", str(file)], project="x", default_config_dirs=[])
            found = {}
            for group, options in GROUPS.items():
                values = conf if group == "DEFAULT" else conf[group]
                found.update({option.name: values[option.name] for option in options})
        except (cfg.Error, ValueError, RecursionError):
            return None
    return {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}


def read_as_agent(text: str) -> "dict[str, Any] | None":
    try:
        found = reader.parse_settings(text, "agent.conf")
    except reader.SettingsError:
        return None
    names = (option.name for options in GROUPS.values() for option in options)
    return {name: getattr(found, name) for name in names}


def make_file(chance: random.Random) -> str:
    lines = ["[amphora_agent]", "amphora_id = a"]
    keys = [(group, option.name) for group, options in GROUPS.items() for option in options]
    for _ in range(chance.randint(1, 6)):
        group, key = chance.choice(keys)
        if chance.random() < 0.6:
            lines.append(f"[{chance.choice((group, group.upper(), group.title()))}]")
        if chance.random() < 0.15:
            lines.append(chance.choice(LINES))
        key = key if chance.random() < 0.95 else key.upper()
        lines.append(key + chance.choice(SEPARATORS) + chance.choice(VALUES))
    return "".join(line + chance.choice(ENDS) for line in lines)


def test_generated_files_are_read_alike(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    chance, compared = random.Random(SEED), 0
    for _ in range(FILES):
        text = make_file(chance)
        ours, theirs = read_as_agent(text), read_as_oslo(text)
        if ours is not None:  # the agent is stricter about paths, addresses and numbers
            assert ours == theirs, f"FUZZ_SEED={SEED}: {text!r}"
            compared += 1
    assert compared > FILES // 20


@pytest.mark.parametrize("key", ["plain", "a$b", "a$$b", "${x}", "50%", "a=b:c", "a#b;c", "k=="])
def test_the_heartbeat_key_is_the_one_that_the_controller_signs_with(key: str) -> None:
    """Other than oslo.config, which would look for a setting after the `$`: the controller writes
    its own value into the file, and signs with that."""
    cfg.CONF.set_override("heartbeat_key", key.replace("$", "$$"), group="health_manager")
    try:
        build = AgentJinjaTemplater().build_agent_config
        arguments = ("amphora-1", "SINGLE")[: build.__code__.co_argcount - 1]
        text = build(*arguments)
    finally:
        cfg.CONF.clear_override("heartbeat_key", group="health_manager")
    assert reader.parse_settings(text, "agent.conf").heartbeat_key == key
