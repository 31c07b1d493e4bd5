"""What is refused for want of descriptors does not start, and what is not fails by little; and a
TLS session cache takes what it is said to take."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from amphora_agent.haproxy.config import preflight
from lab.pki import Authority

#: Descriptors that a haproxy may have here.
LIMIT = 3000
#: haproxy's own, for its threads and for its master: not counted, nobody is refused for them.
ITS_OWN = 100


def complaint(program: Path, directory: Path, text: str, limit: int) -> str:
    """Why haproxy does not start with a hard limit of descriptors; empty when it does."""
    configuration = directory / "haproxy.cfg"
    configuration.write_text(text)
    limited = ("prlimit", f"--nofile={limit}:{limit}", "setpriv", "--bounding-set=-sys_resource")
    said = []
    with subprocess.Popen(
        [*limited, program, "-W", "-db", "-S", directory / "master", "-f", configuration],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        assert started.stdout
        for line in started.stdout:
            said.append(line)
            if "New worker" in line:
                started.terminate()
                started.communicate()
                return ""
    return "".join(said)


def a_text(source: random.Random, directory: Path) -> str:
    """One that needs about as many descriptors as there are."""
    frontends, backends = source.randrange(1, 30), source.randrange(1, 30)
    splice = source.random() < 0.5
    connections = int(LIMIT / (2.5 if splice else 2)) - source.randrange(-40, 200)
    lines = ["global", "    stats socket " + str(directory / "stats"), f"    maxconn {connections}"]
    lines += ["    maxpipes 20"] if source.random() < 0.2 else []
    lines += ["defaults", "    mode http"]
    lines += [f"    timeout {side} 1s" for side in ("client", "server", "connect")]
    lines += ["    option splice-auto"] if splice else []
    lines += ["    maxconn 30"] if source.random() < 0.2 else []
    for number in range(frontends):
        lines += [f"frontend f{number}", f"    bind abns@{directory.name}{number}"]
        lines += [f"    maxconn {source.randrange(1, 100)}"] if source.random() < 0.5 else []
        lines += ["    disabled"] if number and source.random() < 0.1 else []
    for number in range(backends):
        lines += [f"backend b{number}"]
        lines += [f"    fullconn {source.randrange(1, 200)}"] if source.random() < 0.5 else []
        for member in range(source.randrange(0, 8)):
            options = source.choice(["", " check", " check disabled", " disabled"])
            lines += [f"    server s{member} 127.0.0.1:9{options}"]
    return "\n".join(lines) + "\n"


def test_what_is_refused_cannot_start_and_what_is_not_fails_only_by_haproxy_s_own(
    program: Path, tmp_path: Path
) -> None:
    refusals = 0
    for number in range(30):
        text = a_text(random.Random(number), tmp_path)
        short = preflight.find_shortage({"": text}, LIMIT)
        if short:
            refusals += 1
            assert "Cannot raise FD limit" in complaint(program, tmp_path, text, LIMIT), text
            assert complaint(program, tmp_path, text, short.least + ITS_OWN) == "", text
        else:
            assert complaint(program, tmp_path, text, LIMIT + ITS_OWN) == "", text
    assert 5 < refusals < 25, refusals


#: Runs a program and prints the most memory that it had, in KiB. What starts a program counts for
#: it as well, and this is small.
MOST_MEMORY = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (1, 2)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(status)
"""


def test_the_tls_cache_takes_what_it_is_said_to_take(program: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "site.pem"
    certificate.write_bytes(Authority.create("CA", key="ec").issue("site", dns=["site"]).pem)
    configuration = tmp_path / "haproxy.cfg"

    def taken(blocks: int) -> tuple[int, int]:
        """The most bytes that haproxy took when it loaded this; what was said of the cache."""
        text = (
            f"global\n    tune.ssl.cachesize {blocks}\n"
            f"frontend f\n    timeout client 1s\n    bind abns@x ssl crt {certificate}\n"
        )
        configuration.write_text(text)
        measured = subprocess.run(
            [sys.executable, "-c", MOST_MEMORY, str(program), "-c", "-f", str(configuration)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(measured.stdout) << 10, preflight.estimate_tls_cache({"": text})

    (some, said_of_some), (more, said_of_more) = taken(1_000_000), taken(1_400_000)

    assert more - some == pytest.approx(said_of_more - said_of_some, rel=0.05)
