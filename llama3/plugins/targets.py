"""Targets: "package.module:Name" strings, imported only when somebody needs the thing behind them."""

from __future__ import annotations

import importlib
import re
import signal
from types import FrameType, TracebackType
from typing import Any

from llama3.errors import PluginError, said_by, without_credentials

NOT_A_TARGET = PluginError.declare(
    "L3-PLG-001", "not a target", why='expected the form "package.module:Class"', fix="correct the plugin's spec"
)
IMPORT_FAILED = PluginError.declare("L3-PLG-002", "import failed", why="{error}", fix="{fix}")
NO_SUCH_NAME = PluginError.declare("L3-PLG-003", "no such name in the module", why="{error}")

EXITED = PluginError.declare(
    "L3-PLG-022",
    "tried to end the program ({error})",
    why="a plugin raises an exception where it cannot go on; it does not exit",
    fix="tell its author, or choose another",
)

OURS = ("llama3", "llama3_plugins")
"""Packages of this project."""
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?")
"""A module, or a module and an attribute of it."""


def resolve(target: str, *, owner: str = "") -> Any:
    """The object that `target` names: an attribute ("pkg.mod:Class") or a module ("pkg.mod").

    Raises PluginError, which names the target, `owner` (the plugin that gave it) and what went wrong; the original
    exception stays chained. Nothing that an import can raise gets past, `SystemExit` included.
    """
    module_name, _, attribute = target.partition(":")
    where = f"{owner} ({target})" if owner else target
    if not TARGET.fullmatch(target):
        raise NOT_A_TARGET(where)
    try:
        found: Any = importlib.import_module(module_name)
    except BaseException as error:  # of anybody's module
        if is_stop(error):
            raise
        raise IMPORT_FAILED(where, error=with_place(error), fix=fix_for(error)) from error
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise NO_SUCH_NAME(where, error=error) from error
    return found


def tried_to_exit(error: BaseException) -> PluginError:
    """The failure of a plugin that called `sys.exit`, or raised what Ctrl-C does, at the place where it did: nothing of
    ours does within a run."""
    return EXITED(_place(error) or "a plugin", error=describe(error))


def with_place(error: BaseException) -> str:
    """`describe`, and of what would have ended the program the place: it says little itself."""
    told, place = describe(error), _place(error)
    return f"{told} at {place}" if place and not isinstance(error, Exception) else told


def _place(error: BaseException) -> str:
    """file:line of the code that raised it."""
    trace = _last(error)
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def package_of(frame: FrameType) -> str:
    """The top package whose code a frame runs."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def raised_by_ours(error: BaseException) -> bool:
    """Whether the code that raised an error, the last that ran, is of this project."""
    trace = _last(error)
    return trace is not None and package_of(trace.tb_frame) in OURS


def is_stop(error: BaseException | None) -> bool:
    """Whether an error is what Ctrl-C or SIGTERM raised, or was raised on the way out of it.

    Our handlers raise it: one that other code has raised is that code's own. Where Python's handler stands, which
    leaves no trace, nobody can tell.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) in (signal.default_int_handler, None):
        return True
    while error is not None:
        if isinstance(error, KeyboardInterrupt) and raised_by_ours(error):
            return True
        error = error.__context__
    return False


def _last(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


LONGEST = 2000
"""Characters of an error that are told."""


def describe(error: BaseException) -> str:
    """`ValueError: what it said`, in one line."""
    text = without_credentials(" ".join(said_by(error)[: 2 * LONGEST].split()))
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fix_for(error: BaseException, distribution: str = "") -> str:
    """What a user can do about a plugin that cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.partition(".")[0]
        if missing.replace("_", "-") != distribution:
            return f"pip install {missing.replace('_', '-')}" + _or_uninstall(distribution, " (or ", ")")
    return _or_uninstall(distribution, "upgrade it, or ", "")


def _or_uninstall(distribution: str, before: str, after: str) -> str:
    return f"{before}pip uninstall {distribution}{after}" if distribution else ""
