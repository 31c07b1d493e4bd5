"""Read, refuse and explain command lines, for all commands.

click reads command lines. This module adds three things: errors and output go through `entry`,
which has one rule for all failures; commands are loaded when they are named; and the command lines
that argparse accepted, which read them before, stay valid.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import click
from click.core import ParameterSource

from amphora_agent import entry

_WRONG_COMMAND_LINE = 2


def run_command(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Run a command with these arguments, or with those of this process; return the exit status.
    A wrong command line is reported on standard error."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with command.make_context(command.name, given) as context:
            command.invoke(context)
        return 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as error:
        context = error.ctx or click.Context(command, info_name=command.name)
        entry.say(context.get_usage())
        entry.say(f"{context.command_path}: error: {error.format_message()}")
        return _WRONG_COMMAND_LINE


class _Explained(click.Command):
    """A command with the help of all commands."""

    def __init__(
        self, name: str | None, *, params: Sequence[click.Parameter] = (), **attributes: Any
    ) -> None:
        help_option = make_printing_option(
            "-h", "--help", make=click.Context.get_help, help="show this and exit"
        )
        super().__init__(name, params=[*params, help_option], add_help_option=False, **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _complete_option_names(self, args))

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, pieces, prefix="usage: ")


class CliCommand(_Explained):
    """A command; `example` is a command line, or several, for the end of its help."""

    def __init__(self, name: str | None, *, example: str, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.example = example
        self.allow_extra_args = True  # `parse_args` refuses them, in its own words

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        line = [*args]
        try:
            rest = super().parse_args(ctx, args)
        except click.MissingParameter:
            ctx.fail(self._describe_missing(ctx, line))
        if rest:
            fail_unknown(ctx, line)
        return rest

    def _describe_missing(self, ctx: click.Context, args: list[str]) -> str:
        # Read once more, without stopping at the first that is missing.
        reading = click.Context(self, ctx.parent, ctx.info_name, resilient_parsing=True)
        super().parse_args(reading, [*args])
        missing = [
            p for p in self.params if p.required and reading.params.get(p.name or "") is None
        ]
        names = [
            p.opts[0] if isinstance(p, click.Option) else p.human_readable_name for p in missing
        ]
        message = f"the following arguments are required: {', '.join(names)}"
        if any(isinstance(parameter, click.Argument) for parameter in missing):
            return f"{_describe_unknown(ctx, args)}: {message}"
        return message

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class LazyCommand(NamedTuple):
    """A command of a group: its summary, in one line, and its place, `module:name` of `cli`."""

    summary: str
    place: str

    def load(self) -> click.Command:
        module, _, name = self.place.partition(":")
        command = getattr(importlib.import_module(f"amphora_agent.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command


class CliGroup(_Explained, click.Group):
    """A group of commands, which are loaded when they are named. The group alone is refused, unless
    it has a callback."""

    def __init__(
        self,
        name: str,
        entries: "Mapping[str, LazyCommand | CliGroup]",
        *,
        callback: Callable[..., None] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(
            name,
            callback=callback or click.pass_context(_require_command),
            invoke_without_command=True,
            subcommand_metavar="COMMAND ...",
            **attributes,
        )
        self.entries = entries

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = self.entries.get(cmd_name)
        return known.load() if isinstance(known, LazyCommand) else known

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.entries:
            fail_unknown(ctx, args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._list_summaries()))

    def _list_summaries(self) -> Iterator[tuple[str, str]]:
        for name, command in self.entries.items():
            if isinstance(command, CliGroup):
                for inner_name, summary in command._list_summaries():
                    yield f"{name} {inner_name}", summary
            else:
                yield name, command.summary


def walk_commands(
    command: click.Command, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], CliCommand]]:
    """Yield each command of a group, and of the groups in it, with the words that name it."""
    if isinstance(command, CliGroup):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from walk_commands(inner, (*words, name))
    else:
        assert isinstance(command, CliCommand)
        yield words, command


def fail_unknown(ctx: click.Context, args: Sequence[str]) -> NoReturn:
    """Refuse a command line without a known command. Raises UsageError."""
    ctx.fail(_describe_unknown(ctx, args))


def refuse_options_before(ctx: click.Context) -> None:
    """Refuse options before the name of a command that does not take them.

    Raises:
        UsageError
    """
    parent = ctx.parent
    for option in parent.command.params if parent else ():
        source = parent and parent.get_parameter_source(option.name or "")
        if source is ParameterSource.COMMANDLINE:
            ctx.fail(f"unrecognized arguments: {option.opts[0]}, before {ctx.info_name}")


def _describe_unknown(ctx: click.Context, args: Sequence[str]) -> str:
    return f"unknown command: {' '.join((*ctx.command_path.split()[1:], *args))}"


def _require_command(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        fail_unknown(ctx, ())


def make_printing_option(
    *names: str, make: Callable[[click.Context], str], help: str
) -> click.Option:
    """Return an option that prints something and ends the command."""

    def show(ctx: click.Context, option: click.Parameter, is_given: bool) -> None:
        if is_given and not ctx.resilient_parsing:
            print(make(ctx))  # not by click, which would report errors of the output in another way
            ctx.exit()

    return click.Option(
        names, is_flag=True, is_eager=True, expose_value=False, callback=show, help=help
    )


def _complete_option_names(command: click.Command, args: list[str]) -> list[str]:
    """Return the arguments with complete names of options instead of their beginnings (`--config`
    for `--config-file`). The arguments of a command in a group stay as they are."""
    options = {
        name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
    }
    result = [*args]
    position = 0
    while position < len(result) and result[position] != "--":
        name, equals, value = result[position].partition("=")
        if name not in options and name.startswith("--"):
            matches = [option for option in options if option.startswith(name)]
            name = matches[0] if len(matches) == 1 else name
            result[position] = f"{name}{equals}{value}"
        elif isinstance(command, click.Group) and not name.startswith("-"):
            break
        option = options.get(name)
        takes_next = option is not None and not option.is_flag and not equals
        position += 2 if takes_next else 1
    return result
