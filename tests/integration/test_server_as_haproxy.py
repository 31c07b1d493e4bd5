"""What is taken for an understood `server` line, every supported haproxy takes, too."""

import random
import subprocess
from pathlib import Path

import pytest

from amphora_agent.haproxy.config.parser import split_words
from amphora_agent.haproxy.config.server_line import parse_server

#: Lines of a configuration.
_LINES = 500

HEAD = """\
global
    maxconn 10
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend f
    bind 127.0.0.1:1
"""
FLAGS = ["backup", "check", "disabled", "send-proxy", "send-proxy-v2", "send-proxy-v2-ssl",
         "send-proxy-v2-ssl-cn"]  # fmt: skip
TLS = ["", "ssl verify none", "check-ssl verify none", "verify none"]
TIMES = ["1", "999999999", "1ms", "999999999ms", "1s", "999999s", "1m", "9999m"]
COUNTS = ["1", "2", "999999"]
VALUES = {
    "weight": ["0", "1", "256"],
    "inter": TIMES,
    "fastinter": TIMES,
    "downinter": TIMES,
    "rise": COUNTS,
    "fall": COUNTS,
    "port": ["1", "65535"],
    "addr": ["10.0.0.1", "223.255.255.255"],
    "alpn": ["h2", "h2,http/1.1,http/1.0", "x-y.z"],
    "check-alpn": ["h2", "http/1.1"],
    "sni": ["ssl_fc_sni"],
}


def any_line(source: random.Random) -> str:
    """A line that the grammar allows."""

    def word(letters: str) -> str:
        return "".join(source.choices(letters, k=source.randrange(1, 40)))

    letters = "abcXYZ0189_.-"
    options = source.sample(FLAGS, source.randrange(4))
    keywords = source.sample(sorted(VALUES), source.randrange(len(VALUES)))
    options += [f"{keyword} {source.choice(VALUES[keyword])}" for keyword in keywords]
    options += [f"cookie {word(letters)}"] if source.random() < 0.3 else []
    options.append(source.choice(TLS))
    source.shuffle(options)
    address = source.choice(["10.0.0.1", "1.2.3.4", "fd00::1", "[FD00:0::1]", "2001:db8::1:2:3"])
    port = source.choice([1, 80, 65535])
    return f"server {word(letters + ':')} {address}:{port} {' '.join(options)}"


@pytest.mark.parametrize("seed", range(2))
def test_haproxy_takes_what_is_understood(program: Path, seed: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    lines = [any_line(source) for _ in range(_LINES)]
    for line in lines:
        parse_server(split_words(line))
    # Each in a backend of its own: the same name may come twice.
    backends = "".join(f"backend b{number}\n    {line}\n" for number, line in enumerate(lines))
    file = tmp_path / "servers.cfg"
    file.write_text(f"{HEAD}{backends}")
    checked = subprocess.run(
        [program, "-c", "-f", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, [
        line for line in checked.stderr.split("\n") if "ALERT" in line
    ][:5]
