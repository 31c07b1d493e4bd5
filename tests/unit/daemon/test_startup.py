"""What is done to files before an agent serves."""

import stat
from pathlib import Path

import pytest

from amphora_agent.daemon import run
from amphora_agent.settings.reader import Settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As a config drive or user data leave it: everybody may read everything."""
    home = tmp_path / "etc/octavia"
    (home / "certs").mkdir(parents=True)
    for name in ("amphora-agent.conf", "certs/server.pem"):
        for file in (home / name, home / f"{name}.previous"):
            file.write_text("a secret")
            file.chmod(0o644)
    home.chmod(0o755)
    return home


def tighten(home: Path, *, allowed: Path, base_path: str = "/var/lib/octavia") -> None:
    settings = Settings(
        amphora_id="a",
        agent_server_cert=str(home / "certs/server.pem"),
        base_path=base_path,
        base_cert_dir=f"{base_path}/certs",
    )
    run.protect_secrets(
        home / "amphora-agent.conf", settings, [allowed], Path("/run/amphora-agent")
    )


def test_b7_what_was_delivered_too_open_is_the_agents_alone(home: Path) -> None:
    tighten(home, allowed=home)
    assert mode(home) == 0o700
    assert {mode(path) for path in home.rglob("*") if path.is_file()} == {0o600}


def test_b7_a_directory_that_is_not_the_agents_stays_as_it_is(home: Path) -> None:
    tighten(home, allowed=home / "elsewhere")
    assert mode(home) == 0o755
    assert mode(home / "amphora-agent.conf") == 0o600


def test_b7_a_directory_that_others_must_get_through_stays_as_it_is(home: Path) -> None:
    tighten(home, allowed=home, base_path=str(home / "data"))
    assert mode(home) == 0o755
    assert mode(home / "certs/server.pem") == 0o600
