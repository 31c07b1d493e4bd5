"""Every command, and everything that may be wrong around it: one line, a status, no traceback.

The commands are those of click's tree; one that is new takes part without being named here. What is
asked of each: a status of 0, 1, 2 or 130; no traceback; where it is not 0, one line of the command
on standard error, the last one; where it is 0, the command has done its work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import click
import pytest

from amphora_agent.cli.agent import agent
from amphora_agent.cli.frame import walk_commands
from lab.agent import agent_executable, free_port
from lab.pki import Authority
from tests.integration.amphora import Amphora, LoadBalancer
from tests.integration.disks import FullDisk, ReadOnlyDisk

Done = subprocess.CompletedProcess[str]

#: What is given for the arguments of the commands.
ARGUMENTS = {"MAC": "02:00:00:00:00:01", "EVENT": "bound", "N": "1"}
OTHERS = ("amphora-interface", "prometheus-proxy")
#: Commands that go on until they are told to stop.
LASTING = {("run",), ("prometheus-proxy",)}
#: Those that read no configuration.
WITHOUT_CONFIGURATION = {("network", "namespace")}

COMMANDS = dict(walk_commands(agent))
#: Those that speak to an agent, from anywhere.
REMOTE = [
    words for words, each in COMMANDS.items() if any(option.name == "url" for option in each.params)
]
LOCAL = [words for words in COMMANDS if words not in REMOTE] + [
    ("amphora-interface", "up"),
    ("amphora-interface", "down"),
    ("prometheus-proxy",),
]
ENDING = [words for words in LOCAL if words not in LASTING]


def remote_commands() -> list[str]:
    return sorted(" ".join(words) for words in REMOTE)


def call(words: list[str], *, before: tuple[str, ...] = (), **how: object) -> Done:
    given: dict[str, object] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        **how,
    }
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "reason": "bound", "interface": "eth1"}
    done: Done = subprocess.run(  # type: ignore[call-overload]  # the types of `how` are its own
        [*before, *words], text=True, check=False, timeout=120, env=environment, **given
    )
    return done


def program(name: str) -> str:
    return str(Path(agent_executable()[0]).with_name(name))


class Bench:
    """A load balancer with two generations, and the command lines that concern it."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self.balancer = balancer
        self.amphora: Amphora = balancer.amphora

    def local(self, words: tuple[str, ...], config: Path | None = None) -> list[str]:
        agent = self.amphora.agent
        options = agent.command()[1:]
        if config is not None:
            options[options.index("--config-file") + 1] = str(config)
        if words[0] in OTHERS:
            end = options.index("--supervisor")
            rest = options.index("--netns")
            options = [*options[:end], *options[rest : rest + 4]]
            more = [*words[1:], "all"] if words[0] == "amphora-interface" else []
            return [program(words[0]), *options, *more]
        values = {**ARGUMENTS, "ID": self.balancer.id}
        arguments = [
            values[each.human_readable_name.strip("[]")]
            for each in COMMANDS[words].params
            if isinstance(each, click.Argument)
        ]
        return [agent_executable()[0], *options, *words, *arguments]

    def remote(self, command: str, **changed: str) -> list[str]:
        agent = self.amphora.agent
        given = {
            "url": agent.url,
            "amphora-id": agent.amphora_id,
            "cert": str(agent.pki.controller_pem),
            "ca": str(agent.pki.server_ca),
            **changed,
        }
        argument = given.pop("argument", None)
        if argument is None:
            argument = str(self.file) if command == "push" else self.declared
        options = [f"--{name}={value}" for name, value in given.items()]
        return [agent_executable()[0], command, argument, *options]

    declared = "matrix"
    file: Path


@pytest.fixture(scope="module")
def bench(amphora: Amphora, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    balancer = amphora.new_balancer()
    balancer.push()
    balancer.push()
    made = Bench(balancer)
    made.file = tmp_path_factory.mktemp("matrix") / "lb.json"
    body = {"loadbalancer_id": made.declared, "vip_address": "127.0.0.1", "listeners": []}
    made.file.write_text(json.dumps(body))
    made.file.chmod(0o644)
    made.file.parent.chmod(0o755)
    sane(call(made.remote("push")), {0})
    yield made
    amphora.request("DELETE", f"/2.0/loadbalancers/{made.declared}")
    amphora.api.delete(balancer.id)


def sane(done: Done, statuses: set[int]) -> str:
    """See that a command has ended as a command should; the last line that it said."""
    name = "amphora-"
    said = done.stderr or ""
    assert done.returncode in statuses, done
    assert "Traceback" not in said + (done.stdout or ""), done
    assert "a defect of the agent" not in said, done
    lines = said.splitlines()
    own = [line for line in lines if line.startswith((name, "prometheus-proxy: "))]
    if done.returncode:
        assert len(own) == 1, done
        assert lines[-1] == own[0], done
    else:
        assert own == [], done
    return lines[-1] if lines else ""


# On the amphora


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_op13_a_command_without_rights_says_so(bench: Bench, words: tuple[str, ...]) -> None:
    done = call(bench.local(words), before=("setpriv", "--reuid=65534", "--clear-groups"))
    line = sane(done, {1})
    assert any(part in line for part in ("only root may", "Permission denied", "not permitted"))


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
@pytest.mark.parametrize("kind", ["missing", "unreadable", "a directory", "no INI", "binary"])
def test_op13_a_configuration_that_cannot_be_used_is_named(
    bench: Bench, tmp_path: Path, words: tuple[str, ...], kind: str
) -> None:
    config = tmp_path / "agent.conf"
    before: tuple[str, ...] = ()
    match kind:
        case "unreadable":
            config.write_text("[amphora_agent]\n")
            config.chmod(0)
            before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        case "a directory":
            config.mkdir()
        case "no INI":
            config.write_text("nonsense")
        case "binary":
            config.write_bytes(bytes(range(256)))
    done = call(bench.local(words, config), before=before)
    if words in WITHOUT_CONFIGURATION:
        sane(done, {0})
    else:
        assert str(config) in sane(done, {1})


@pytest.mark.parametrize("words", ENDING, ids=" ".join)
@pytest.mark.parametrize("output", ["closed", "full", "nobody reads"])
def test_op13_an_output_that_nobody_gets_is_no_success(
    bench: Bench, words: tuple[str, ...], output: str
) -> None:
    command = bench.local(words)
    usual = call(command)
    sane(usual, {0, 1})
    match output:
        case "closed":
            done = call(["sh", "-c", 'exec "$@" >&-', "sh", *command], stdout=None)
        case "full":
            with open("/dev/full", "w") as full:
                done = call(command, stdout=full)
        case _:
            reading, writing = os.pipe()
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                done = call(command, stdout=pipe)
    if output == "nobody reads":
        sane(done, {usual.returncode})
    elif usual.stdout:
        assert "cannot write the output" in sane(done, {1})
    else:
        sane(done, {usual.returncode})


@pytest.mark.parametrize("words", ENDING, ids=" ".join)
@pytest.mark.parametrize("disk", [FullDisk, ReadOnlyDisk])
def test_op13_a_disk_that_takes_nothing_is_said(
    bench: Bench, tmp_path: Path, words: tuple[str, ...], disk: type[FullDisk | ReadOnlyDisk]
) -> None:
    """In mounts of its own: the agent that runs does not notice."""
    agent = bench.amphora.agent
    places = [agent.base_path, agent.network_path, agent.run_path]
    with ExitStack() as ending:
        broken = disk(ending, tmp_path, *(place.name for place in places))
        for place in places:
            place.mkdir(exist_ok=True)
            copied = call(["cp", "-a", f"{place}/.", str(tmp_path / place.name)])
            assert copied.returncode in (0, 1), copied  # sockets cannot be copied
        broken.break_()
        mounts = "".join(f"mount --bind {tmp_path / place.name} {place}\n" for place in places)
        before = ("unshare", "--mount", "sh", "-ec", f'{mounts} exec "$@"', "sh")
        generation = bench.amphora.api.instance(bench.balancer.id)["generation"]
        done = call(bench.local(words), before=before)
    line = sane(done, {0, 1})
    if words == ("rollback",) and done.returncode == 0:
        # What it writes are names of contents that are there: a full disk may have room for them.
        assert disk is FullDisk
        assert "Generation 1 is committed" in done.stdout
    elif words == ("rollback",):
        assert any(part in line for part in ("No space left", "Read-only file system")), line
        assert bench.balancer.get() in ("web1", "web2")
        assert bench.amphora.api.instance(bench.balancer.id)["generation"] == generation
    if words == ("history",):
        assert done.returncode == 0, done
        assert "upload" in done.stdout


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_op13_an_interruption_leaves_no_traceback(bench: Bench, words: tuple[str, ...]) -> None:
    """At some moments of the first half second: the seed is printed."""
    seed = int(os.environ.get("CHAOS_SEED", time.time()))
    print(f"CHAOS_SEED={seed}")
    chosen = random.Random(seed)
    command = bench.local(words)
    if words == ("run",):
        other = bench.amphora.agent.directory / "matrix.conf"
        text = bench.amphora.agent.config_file.read_text()
        other.write_text(text.replace(str(bench.amphora.agent.port), str(free_port())))
        command = bench.local(words, other)
    for _ in range(40 if words == ("history",) else 4):
        process = subprocess.Popen(
            # These tests may run in the background, where shells have it ignored.
            ["env", "--default-signal=INT", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("amphora_agent.entry\n"):
                break
        time.sleep(chosen.uniform(0, 0.5))  # the moment is what is tried
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        said = "".join(
            line for line in said.splitlines(keepends=True) if not line.startswith("import time:")
        )
        # Without a lease it fails, if it gets there.
        usual = 1 if words[:2] == ("network", "lease") else 0
        sane(subprocess.CompletedProcess(command, process.returncode, out, said), {usual, 130})


# Whatever is installed

SCRIPTS = sorted(
    entry.name
    for entry in metadata.distribution("amphora-agent").entry_points
    if entry.group == "console_scripts"
)
WRONG = [
    ("--nonsense",),
    ("nonsense",),
    ("\udcff\udcfe", "\n", ""),
    ("sctp", "127.0.0.1", "70000"),
    ("sctp", "\udcff", "80"),
    ("sctp", "x" * 300 + ".example", "80"),
    ("-t", "nan", "sctp", "127.0.0.1", "80"),
    ("--memory-limit", "x"),
    ("up",),
    ("rollback",),
    ("history", "../.."),
    ("network", "lease", "x", "y"),
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("words", WRONG, ids=repr)
def test_op13_a_command_line_that_makes_no_sense_is_refused(
    script: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """With no configuration of an agent anywhere."""
    options = ["--config-file", str(tmp_path / "none"), "--run-dir", str(tmp_path / "run")]
    if script in ("amphora-health-checker", "haproxy-vrrp-check"):
        options = []
    done = call([program(script), *options, *words])
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr
    assert "a defect of the agent" not in done.stderr
    assert done.stdout == ""


#: The check takes paths, and has no help.
@pytest.mark.parametrize("script", [each for each in SCRIPTS if each != "haproxy-vrrp-check"])
def test_op13_help_that_nobody_gets_is_no_success(script: str) -> None:
    assert "usage" in call([program(script), "--help"]).stdout
    done = call(["sh", "-c", 'exec "$@" >&-', "sh", program(script), "--help"], stdout=None)
    assert "cannot write the output" in sane(done, {1})


# From elsewhere


def spoil(path: Path, kind: str) -> tuple[str, ...]:
    """Make a file that cannot be used, in one of the general ways; return the command by which a
    program is to be started, so that it is."""
    match kind:
        case "unreadable":
            path.write_text("{}")
            path.chmod(0)
            return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
        case "a directory":
            path.mkdir()
        case "garbage":
            path.write_bytes(bytes(range(256)))
    return ()


@pytest.mark.parametrize("command", remote_commands())
def test_op13_an_agent_that_is_down_is_said(bench: Bench, command: str) -> None:
    line = sane(call(bench.remote(command, url=f"https://127.0.0.1:{free_port()}")), {1})
    assert "nobody listens there" in line


@pytest.mark.parametrize("command", remote_commands())
@pytest.mark.parametrize("option", ["cert", "ca"])
@pytest.mark.parametrize("kind", ["missing", "unreadable", "a directory", "garbage", "of others"])
def test_op13_a_certificate_that_cannot_be_used_is_named(
    bench: Bench, tmp_path: Path, command: str, option: str, kind: str
) -> None:
    path = tmp_path / "a.pem"
    before = spoil(path, kind)
    if kind == "of others":
        other = Authority.create("another", key="ec")
        issued = other.issue("stranger", key="ec").pem
        path.write_bytes(other.certificate if option == "ca" else issued)
    line = sane(call(bench.remote(command, **{option: str(path)}), before=before), {1})
    if kind == "of others":
        assert "is not trusted" in line or "--cert" in line, line
    else:
        assert f"--{option} {path}" in line


@pytest.mark.parametrize("kind", ["missing", "unreadable", "a directory", "garbage", "no object"])
def test_op13_a_file_that_cannot_be_pushed_is_named(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "lb.json"
    before = spoil(path, kind)
    if kind == "no object":
        path.write_text("[1]")
    assert str(path) in sane(call(bench.remote("push", argument=str(path)), before=before), {1})


def test_op13_a_standard_input_that_is_closed_is_said(bench: Bench) -> None:
    command = bench.remote("push", argument="-")
    done = call(["sh", "-c", 'exec "$@" <&-', "sh", *command], stdin=None)
    assert "standard input is closed" in sane(done, {1})


@pytest.mark.parametrize("command", remote_commands())
@pytest.mark.parametrize("output", ["closed", "full"])
def test_op13_an_answer_that_cannot_be_printed_is_no_success(
    bench: Bench, command: str, output: str
) -> None:
    words = bench.remote(command)
    if output == "closed":
        done = call(["sh", "-c", 'exec "$@" >&-', "sh", *words], stdout=None)
    else:
        with open("/dev/full", "w") as full:
            done = call(words, stdout=full)
    assert "cannot write the output" in (done.stderr or "")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", remote_commands())
def test_op13_a_load_balancer_that_is_not_there_is_said(bench: Bench, command: str) -> None:
    argument = str(bench.file.with_name("no.json")) if command == "push" else "nobody"
    sane(call(bench.remote(command, argument=argument)), {1})
