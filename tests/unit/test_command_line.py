"""The command lines: what is taken, refused and explained; nothing is carried out."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from amphora_agent import __version__, cli
from amphora_agent.cli.agent import agent, agent_command, prometheus
from amphora_agent.cli.frame import CliCommand, walk_commands
from amphora_agent.cli.local import interface
from amphora_agent.daemon import run as daemon_run
from amphora_agent.wiring import DIRECTORIES, Options

COMMANDS = dict(walk_commands(agent))
PROGRAMS: dict[str, tuple[Callable[[list[str]], int], CliCommand]] = {
    "amphora-interface": (cli.interface_main, interface),
    "prometheus-proxy": (cli.prometheus_main, prometheus),
}
ALL = [*COMMANDS.values(), interface, prometheus]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """The options with which the agent was told to serve."""
    result: list[Options] = []
    monkeypatch.setattr(daemon_run, "run_agent", result.append)
    return result


@pytest.fixture(autouse=True)
def _place_of_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "ID", "CERT", "CA"):
        monkeypatch.setenv(f"AMPHORA_{name}", f"the {name}")


def record_calls(command: CliCommand, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The values with which a command is called, which then does nothing."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(command, "callback", lambda **values: calls.append(values))
    return calls


# What is taken


def test_options_alone_serve(served: list[Options]) -> None:
    assert cli.main(["--config-file", "/etc/a.conf"]) == 0
    assert served == [Options(Path("/etc/a.conf"))]


def test_no_words_at_all_serve_with_the_defaults(served: list[Options]) -> None:
    assert cli.main([]) == 0
    assert served == [Options(Path("/etc/octavia/amphora-agent.conf"))]


GIVEN: dict[tuple[str, ...], dict[str, Any]] = {
    ("--config-file", "/a.conf"): {"config_file": Path("/a.conf")},
    ("--config-file", "a.conf"): {"config_file": Path("a.conf").absolute()},
    ("--netns", "n"): {"namespace": "n"},
    ("--run-dir", "/r"): {"run_directory": Path("/r")},
    ("--supervisor", "embedded"): {"supervisor": "embedded"},
    ("--memory-limit", "512"): {"memory_limit": 512},
    ("--heartbeat-version", "0"): {"heartbeat_version": 0},
    ("--process-model", "listener"): {"process_model": "listener"},
    ("--directories-below", "/d"): {"directories": (Path("/d"),)},
    ("--client-crl", "crl.pem"): {"client_crl": Path("crl.pem").absolute()},
    ("--require-client-eku",): {"require_client_eku": True},
    ("--api-user", "n"): {"api_user": "n"},
    ("--json",): {},
}


@pytest.mark.parametrize("words", GIVEN, ids=" ".join)
def test_an_option_is_taken_before_the_command_after_it_and_without_it(
    words: tuple[str, ...], served: list[Options]
) -> None:
    for line in ([*words], [*words, "run"], ["run", *words]):
        assert cli.main(line) == 0
    expected = {"config_file": Path("/etc/octavia/amphora-agent.conf"), **GIVEN[words]}
    assert served == [Options(**expected)] * 3


def test_every_option_of_the_agent_is_tried_above() -> None:
    options = {name for option in agent.params for name in option.opts if name.startswith("--")}
    assert options - {"--help", "--version"} == {words[0] for words in GIVEN}


def test_the_option_after_the_command_wins(served: list[Options]) -> None:
    assert cli.main(["--netns", "first", "--run-dir", "/r", "run", "--netns", "second"]) == 0
    assert [(options.namespace, options.run_directory) for options in served] == [
        ("second", Path("/r"))
    ]


def test_directories_before_and_after_the_command_add_up(served: list[Options]) -> None:
    cli.main(["--directories-below", "/a", "run", "--directories-below=/b"])
    cli.main(["run"])
    assert [options.directories for options in served] == [(Path("/a"), Path("/b")), DIRECTORIES]


@pytest.mark.parametrize(
    "words", [["--conf", "/f"], ["--conf=/f"], ["run", "--conf", "/f"]], ids=str
)
def test_the_beginning_of_a_name_is_enough_for_an_option(
    words: list[str], served: list[Options]
) -> None:
    """Units may have been written with it."""
    assert cli.main(words) == 0
    assert served[0].config_file == Path("/f")


def test_a_value_is_not_taken_for_the_beginning_of_an_option(served: list[Options]) -> None:
    assert cli.main(["--netns", "--js"]) == 0
    assert served[0].namespace == "--js"


@pytest.mark.parametrize(
    "words",
    [words for words in COMMANDS if words[0] not in ("push", "pull", "status")],
    ids=" ".join,
)
def test_every_command_on_the_amphora_takes_every_option_on_either_side(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = COMMANDS[words]
    calls = record_calls(command, monkeypatch)
    arguments = [
        "x" for each in command.params if isinstance(each, click.Argument) if each.required
    ]
    options = [word for each in GIVEN for word in each]
    assert cli.main([*options, *words, *arguments]) == 0
    assert cli.main([*words, *options, *arguments]) == 0
    assert cli.main([*words, *arguments, *options]) == 0
    assert len(calls) == 3


@pytest.mark.parametrize(
    "words", [["--json", "history", "lb"], ["history", "lb", "--json"]], ids=str
)
def test_json_may_be_asked_for_on_either_side_of_history(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    @agent_command("history", example="", shown=("as_json",), lasts=True)
    @click.argument("name", metavar="[ID]", required=False)
    def history(options: Options, name: str | None, *, as_json: bool) -> None:
        asked.append(as_json)

    monkeypatch.setattr(agent, "entries", {"history": history})
    assert cli.main(words) == cli.main(["history", "lb"]) == 0
    assert asked == [True, False]


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dance"], "amphora-agent: error: unknown command: dance"),
        (["network"], "unknown command: network"),
        (["network", "down"], "unknown command: network down"),
        (
            ["network", "lease", "x"],
            "unknown command: network lease x: the following arguments are ",
        ),
        (["network", "up", "x"], "unknown command: network up x"),
        (["history", "a", "b"], "unknown command: history a b"),
        (["rollback"], "unknown command: rollback: the following arguments are required: ID"),
        (["rollback", "lb", "x"], "'x' is not the number of a generation"),
        (["rollback", "lb", "²"], "'²' is not the number of a generation"),
        (["--nonsense"], "No such option"),
        (["history", "--nonsense"], "No such option"),
        (["--supervisor", "none"], "'none' is not one of"),
        (["--memory-limit", "x"], "'x' is not a valid integer"),
        (["--heartbeat-version", "4"], "4 is not in the range"),
        (["--config-file"], "'--config-file' requires an argument"),
        (["--config-file", "f", "push", "x"], "unrecognized arguments: --config-file, before push"),
        (["pull"], "unknown command: pull: the following arguments are required: ID"),
        ([""], "unknown command: "),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_status_2_and_told_in_the_last_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], served: list[Options]
) -> None:
    assert cli.main(words) == 2
    said, told = capsys.readouterr()
    assert said == ""
    usage, line = told.splitlines()
    assert usage.startswith("usage: amphora-agent")
    assert line.startswith("amphora-agent")
    assert message in line
    assert served == []


def test_all_that_is_missing_is_told_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMPHORA_URL")
    monkeypatch.delenv("AMPHORA_CA")
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err.endswith("the following arguments are required: --url, --ca\n")


@pytest.mark.parametrize("words", [[], ["up"], ["sideways", "all"], ["up", "all", "x"]], ids=str)
def test_an_interface_is_set_up_or_down(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.interface_main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("amphora-interface: error: ")


# What is explained


def lines_of(command: CliCommand) -> list[list[str]]:
    """The command lines of its example, without the program and where the output goes."""
    lines = [line.partition(" > ")[0] for line in command.example.splitlines()]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_examples_of_a_command_are_of_it_and_are_taken(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_calls(COMMANDS[words], monkeypatch)
    lines = lines_of(COMMANDS[words])
    assert lines
    for program, *rest in lines:
        assert program == "amphora-agent"
        assert cli.main(rest) == 0
    assert len(calls) == len(lines)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_examples_of_a_program_are_of_it_and_are_taken(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, command = PROGRAMS[program]
    calls = record_calls(command, monkeypatch)
    for name, *rest in lines_of(command):
        assert name == program
        assert run(rest) == 0
    assert len(calls) == len(lines_of(command)) > 0


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help", "--hel"])
def test_help_of_a_command_has_its_example(
    words: tuple[str, ...], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, option]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: amphora-agent {' '.join(words)} [OPTIONS]")
    for line in COMMANDS[words].example.splitlines():
        assert f"  {line}\n" in said


def test_help_lists_every_command_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    for words in COMMANDS:
        assert f"\n  {' '.join(words)} " in said
    for option in GIVEN:
        assert option[0] in said


@pytest.mark.parametrize("command", ALL, ids=lambda command: str(command.name))
def test_every_option_of_every_command_says_what_it_is_for(command: CliCommand) -> None:
    assert command.help
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help


@pytest.mark.parametrize("words", [[], ["run"], ["history"]], ids=str)
def test_the_version_is_that_of_the_program(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, "--version"]) == 0
    assert cli.interface_main(["--version"]) == 0
    assert capsys.readouterr().out == (
        f"amphora-agent {__version__}\namphora-interface {__version__}\n"
    )


# What is loaded


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        ("--version", "msgspec requests pyroute2 flask amphora_agent.wiring amphora_agent.network"),
        ("--help", "msgspec requests pyroute2 flask amphora_agent.wiring amphora_agent.network"),
        (
            "network namespace --help",
            "requests flask amphora_agent.haproxy amphora_agent.daemon.run",
        ),
        (
            "history --help",
            "requests flask pyroute2 amphora_agent.network amphora_agent.daemon.run",
        ),
        (
            "push --help",
            "flask pyroute2 requests amphora_agent.client.v2 amphora_agent.network",
        ),
    ],
)
def test_a_command_loads_no_more_than_it_needs(words: str, absent: str) -> None:
    program = (
        "import sys\nfrom amphora_agent import cli\n"
        f"assert cli.main({words.split()}) == 0\n"
        f"print(*(name for name in {absent.split()} if name in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == "\n"
