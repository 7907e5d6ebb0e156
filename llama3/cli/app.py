"""The program: its commands, those of plugins, and how errors become messages and exit codes.

Exit codes: 0 ok, 1 the run failed, 2 usage or config, 3 will not fit, 4 plugin problem, 5 a gate or guard refused,
130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from llama3 import __version__
from llama3.cli import audit, chat, config, convert, doctor, generate, lineage, merge, plugins, run, runs, show, tokens
from llama3.errors import Interrupted, LlamaError, did_you_mean
from llama3.plugins.loader import Offer

INTERRUPTED = Interrupted.declare(
    "L3-CLI-001", "interrupted", why="what was finished is saved", fix="run the same command again"
)
SYSTEM = LlamaError.declare("L3-CLI-002", "{error}")
NO_TORCH = LlamaError.declare(
    "L3-CLI-003", "torch is not installed", why="this command computes with it", fix="pip install torch"
)
BUG = LlamaError.declare(
    "L3-CLI-004", "a fault of the program: {kind}", why="{error}", fix="see where with --debug, and report it"
)


class Commands(TyperGroup):
    """Our commands and those that plugins add; a plugin's module is imported when its command runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_plugin_commands().keys() - self.commands.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For help: a plugin's command is a stub that has only its summary."""
        offer = _plugin_commands().get(cmd_name) if cmd_name not in self.commands else None
        if offer is None:
            return super().get_command(ctx, cmd_name)
        return TyperCommand(cmd_name, help=f"{offer.spec.summary} ({offer.dist})")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """For running: the plugin's own command, or near names over both kinds."""
        name = args[0]
        if name in self.commands:
            return super().resolve_command(ctx, args)
        offer = _plugin_commands().get(name)
        if offer is None:
            known = self.list_commands(ctx)
            ctx.fail(" ".join(part for part in (f"No such command {name!r}.", did_you_mean(name, known)) if part))
        from llama3.plugins.targets import resolve

        assert offer is not None
        target = resolve(offer.spec.factory, owner=f"{offer.qualified} {offer.version}")
        command = typer.main.get_command(target)
        command.name = name
        return name, command, args[1:]


def _plugin_commands() -> dict[str, Offer]:
    """Commands of plugins by name; two of one name are known by their qualified names."""
    from llama3.plugins.registry import discover

    registry = discover(strict=False)
    rows = registry.list("commands")
    usable = {row.qualified: row.qualified if row.status == "clash" else row.name for row in rows}
    return {usable[o.qualified]: o for o in registry.offers if o.spec.family == "commands"}


app = typer.Typer(
    name="llama3",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("audit")(audit.audit)
app.command("lineage")(lineage.lineage)
app.command("merge")(merge.merge)
app.command("tokens")(tokens.tokens)
app.command("convert")(convert.convert)
app.command("show")(show.show)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(plugins.app, name="plugins")
app.add_typer(runs.app, name="runs")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"llama3 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. Works after a command too.")] = False,
) -> None:
    """The open pipeline behind Llama 3: raw text in, aligned, guarded, quantized models out."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit. Every error is printed on stderr, one problem per line."""
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    if debug:
        arguments.remove("--debug")
    try:
        app(arguments, prog_name="llama3")
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error)
        told = told_of(error)
        for problem in told.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(told.exit_code)
    sys.exit(0)


def told_of(error: BaseException) -> LlamaError:
    """What a user is told of an exception, and the exit code that goes with it."""
    if isinstance(error, LlamaError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED()
    if isinstance(error, OSError) and error.errno is not None:
        return SYSTEM(error.filename or "", error=error)
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return NO_TORCH()
    return BUG(kind=type(error).__name__, error=" ".join(str(error).split()))
