"""The program: its commands, those of plugins, and how errors become messages and exit codes.

Exit codes: 0 ok, 1 the run failed, 2 usage or config, 3 will not fit, 4 plugin problem, 5 a gate or guard refused,
6 hung and ended by its watchdog, 130 interrupted.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from llama3 import __version__
from llama3.cli import (
    annotate,
    audit,
    audit_reward,
    batch,
    chat,
    compare,
    config,
    convert,
    cost,
    data,
    doctor,
    evaluate,
    export,
    generate,
    guard,
    judge,
    ledger,
    lineage,
    merge,
    plan,
    plugins,
    quantize,
    redteam,
    run,
    runs,
    scale,
    serve,
    show,
    tokens,
)
from llama3.cli.ending import end_in_time, watch_exits
from llama3.cli.output import NOT_PRINTED, Told, finish, note, only_data_on_stdout, print_json, require_stdout, say
from llama3.errors import ConfigError, Interrupted, LlamaError, did_you_mean
from llama3.plugins.loader import Offer
from llama3.plugins.targets import is_stop, tried_to_exit

INTERRUPTED = Interrupted.declare(
    "L3-CLI-001",
    "interrupted",
    fix="run the same command again: what a run, a batch or a training has finished is kept, all else begins anew",
)
DISK_FULL = LlamaError.declare(
    "L3-CLI-006",
    "it could not be written",
    why="no space left on the device",
    fix="free some space and give the same command again; what was there before is as it was",
)
USAGE = ConfigError.declare("L3-CLI-007", "{error}", fix="llama3 --help, or the command's own --help")
SYSTEM = LlamaError.declare("L3-CLI-002", "{error}")
NO_TORCH = LlamaError.declare(
    "L3-CLI-003", "torch is not installed", why="this command computes with it", fix="pip install torch"
)
BUG = LlamaError.declare(
    "L3-CLI-004", "a fault of the program: {kind}", why="{error}", fix="see where with --debug, and report it"
)


ClickException: Any = typer.BadParameter.__mro__[2]
"""Of the click that typer brings with it, or of the one that is installed."""
OF_PLUGIN = "llama3.of_plugin"
"""In a context's `meta`: the command is a plugin's."""


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
            if "--json" in args and not _asks_for_help(args):
                ctx.with_resource(only_data_on_stdout())
            return super().resolve_command(ctx, args)
        offer = _plugin_commands().get(name)
        if offer is None:
            known = self.list_commands(ctx)
            ctx.fail(" ".join(part for part in (f"No such command {name!r}.", did_you_mean(name, known)) if part))
        from llama3.plugins.targets import resolve

        assert offer is not None
        ctx.meta[OF_PLUGIN] = True
        target = resolve(offer.spec.factory, owner=f"{offer.qualified} {offer.version}")
        command = typer.main.get_command(target)
        command.name = name
        return name, command, args[1:]

    def invoke(self, ctx: Any) -> None:
        """Run the command. What it returns is nobody's exit code; `typer.Exit` is.

        Raises PluginError where something that it calls ends the program. A plugin's own command may.
        """
        try:
            super().invoke(ctx)
        except SystemExit as error:
            if ctx.meta.get(OF_PLUGIN):
                raise typer.Exit(_exit_code(error)) from error
            if isinstance(error.__context__, BrokenPipeError):  # of the printer of help, whose reader went away
                raise typer.Exit from error
            raise tried_to_exit(error) from error
        except KeyboardInterrupt as error:
            raise (INTERRUPTED() if is_stop(error) else tried_to_exit(error)) from error


def _exit_code(error: SystemExit) -> int:
    return error.code if isinstance(error.code, int) else int(error.code is not None)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(arguments)


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
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("batch")(batch.batch)
app.command("evaluate")(evaluate.evaluate)
app.command("judge")(judge.judge)
app.command("redteam")(redteam.redteam)
app.command("annotate")(annotate.annotate)
app.command("audit")(audit.audit)
app.command("audit-reward")(audit_reward.audit_reward)
app.command("compare")(compare.compare)
app.command("lineage")(lineage.lineage)
app.command("ledger")(ledger.ledger)
app.command("merge")(merge.merge)
app.command("tokens")(tokens.tokens)
app.command("convert")(convert.convert)
app.command("quantize")(quantize.quantize)
app.command("export")(export.export)
app.command("cost")(cost.cost)
app.command("scale")(scale.scale)
app.command("show")(show.show)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(guard.app, name="guard")
app.add_typer(plugins.app, name="plugins")
app.add_typer(runs.app, name="runs")


def _version(value: bool) -> None:
    if value:
        say(f"llama3 {__version__}")
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
    """Run the program and exit. Every error is printed on stderr, one problem per line; with `--json`, where nothing
    else was printed, as JSON on stdout too.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug, as_json = "--debug" in options, "--json" in options
    if debug:
        arguments.remove("--debug")
    Told.data = False
    if args is None:
        watch_exits()
    with _prepared():
        code = _run(arguments, debug=debug, as_json=as_json)
    if args is None:
        end_in_time(code)
    sys.exit(code)


def _run(arguments: list[str], *, debug: bool, as_json: bool) -> int:
    """The exit code."""
    asks = _asks_for_help(arguments)
    try:
        if asks:
            require_stdout()
        code = app(arguments, prog_name="llama3", standalone_mode=False)
        finish()
        return int(code or 0)
    except SystemExit:
        return 0  # of typer itself, where a reader of its help went away
    except typer.Abort:
        note("aborted")
        return 1
    except ClickException as error:
        told: LlamaError = USAGE(error=error.format_message())
        if not as_json:
            shown = io.StringIO()
            error.show(file=shown)
            note(shown.getvalue().rstrip())
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            note("".join(traceback.format_exception(error)))
        # What C code that a signal broke off made of it is no fault of the program.
        told = INTERRUPTED() if Signals.seen and not isinstance(error, LlamaError) else told_of(error)
        if asks and isinstance(error, OSError):  # typer prints its help itself
            told = NOT_PRINTED("standard output", error=error)
        for problem in told.problems:
            note(f"error: {problem}")
    if as_json and not Told.data:
        with suppress(LlamaError):
            print_json({"ok": False, "problems": [asdict(problem) for problem in told.problems]})
    return told.exit_code


@contextmanager
def _prepared() -> Iterator[None]:
    """Streams that can write whatever is told, SIGTERM as Ctrl-C, and warnings through the one printer."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    handler = _Warnings(logging.WARNING)
    logging.getLogger().addHandler(handler)
    Signals.seen = False
    on_main = threading.current_thread() is threading.main_thread()
    # Whoever ignores Ctrl-C, as a shell does in the background, goes on doing so.
    numbers = [number for number in Signals.NUMBERS if on_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, Signals.arrived) for number in numbers}
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for number, previous in before.items():
            signal.signal(number, previous)


class Signals:
    """Ctrl-C and SIGTERM both raise KeyboardInterrupt. `seen`: whether one has come."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM)
    seen = False

    @staticmethod
    def arrived(number: int, frame: FrameType | None) -> None:
        Signals.seen = True
        raise KeyboardInterrupt


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        note(record.getMessage() + ("" if error is None else f": {_place_of(error)}"))


def _place_of(error: BaseException) -> str:
    """An exception's kind and its innermost frames. Its words may hold what somebody asked a model."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} in {', '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames)}"


def told_of(error: BaseException) -> LlamaError:
    """What a user is told of an exception, and the exit code that goes with it."""
    if isinstance(error, LlamaError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED() if is_stop(error) else tried_to_exit(error)
    from llama3.full_disk import is_disk_full
    from llama3.plugins.asking import failure_of
    from llama3.plugins.registry import discover

    if not is_disk_full(error) and (failure := failure_of(error, discover(strict=False).offers)) is not None:
        return failure
    if isinstance(error, OSError) and error.errno is not None:
        return SYSTEM(error.filename or "", error=error)
    if is_disk_full(error):
        return DISK_FULL()
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return NO_TORCH()
    return BUG(kind=type(error).__name__, error=" ".join(str(error).split()))
