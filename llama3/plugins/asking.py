"""What goes wrong in a plugin is told as the plugin's, in one way for every family."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from llama3.errors import Interrupted, LlamaError, PluginError, said_by
from llama3.full_disk import is_disk_full
from llama3.plugins.loader import BUILT_IN, Offer
from llama3.plugins.staying import staying
from llama3.plugins.targets import LONGEST, OURS, is_stop, package_of, raised_by_ours, with_place

FAILED = PluginError.declare(
    "L3-PLG-042", "`{method}` failed", why="{error}", fix="tell the plugin's author, or choose another"
)
ODD_RESULT = PluginError.declare("L3-PLG-043", "what it gives as `{method}` cannot be used", why="{fault}")
IN_PLUGIN = PluginError.declare(
    "L3-PLG-044", "it failed: {kind}", why="{error}", fix="see where with --debug, and tell the plugin's author"
)

ENDS = (KeyboardInterrupt, GeneratorExit, Interrupted)
T = TypeVar("T")
Spares = Callable[[BaseException], bool]
Fault = Callable[..., str]
"""What is wrong with the result of a method, which comes first, before the call's arguments; "" where nothing is."""


def is_told_already(error: BaseException) -> bool:
    """Whether an error says by itself what went wrong."""
    return isinstance(error, LlamaError)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether a device's memory or a disk is full, which is no plugin's fault."""
    return type(error).__name__ == "OutOfMemoryError" or is_disk_full(error)


@contextmanager
def asking(
    where: str,
    method: str,
    failed: Callable[[str], LlamaError] | None = None,
    spares: Spares = is_told_already,
) -> Iterator[None]:
    """Tells what a plugin raises meanwhile as a failure of that plugin, which `where` names.

    `failed` makes the error of what was raised, in words; it is L3-PLG-042 otherwise. What `spares` says passes as it
    is, and so do a device's memory that is full, a full disk, and Ctrl-C. An error of this project's classes that the
    plugin itself raises passes too, with its name and the method before the place, but for one that says that the user
    has stopped. The working directory stays (`staying`).
    """
    try:
        with staying():
            yield
    except BaseException as error:  # of anybody's library: some end tasks, or panic, so
        own = not raised_by_ours(error)
        if _is_end(error, own):
            raise
        if not isinstance(error, ENDS) and (spares(error) or is_of_the_machine(error)):
            if own and isinstance(error, LlamaError):
                error.name_plugin(f"{where}: `{method}`")
            raise
        told = with_place(error)
        raise (FAILED(where, method=method, error=told) if failed is None else failed(told)) from error


def _is_end(error: BaseException, own: bool) -> bool:
    """Whether the user stopped, or whoever reads what a plugin gives reads no further; a plugin does neither."""
    return is_stop(error) if isinstance(error, KeyboardInterrupt) else isinstance(error, ENDS) and not own


def asked(where: str, plugin: T, faults: Mapping[str, Fault], spares: Spares = is_told_already) -> T:
    """`plugin`, each of whose methods raises PluginError (L3-PLG-042) where it fails, and (L3-PLG-043) where `faults`
    finds its result unusable. Both name the plugin as `where` does."""
    return cast(T, _Asked(where, plugin, faults, spares))


class _Asked:
    __slots__ = ("_faults", "_plugin", "_spares", "_where")

    def __init__(self, where: str, plugin: object, faults: Mapping[str, Fault], spares: Spares) -> None:
        self._where, self._plugin, self._faults, self._spares = where, plugin, faults, spares

    def __getattr__(self, name: str) -> Any:
        if name in _Asked.__slots__ or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)  # of one that is being copied, and has nothing yet
        with asking(self._where, name, spares=self._spares):
            lacks = name in self._faults and not hasattr(type(self._plugin), name) and not hasattr(self._plugin, name)
        if lacks:
            raise ODD_RESULT(self._where, method=name, fault="it has none")
        with asking(self._where, name, spares=lambda error: isinstance(error, AttributeError) or self._spares(error)):
            found = getattr(self._plugin, name)
        return functools.partial(self._call, name, found) if callable(found) else found

    def _call(self, name: str, method: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        fault = self._faults.get(name)
        with asking(self._where, name, spares=self._spares):
            result = method(*given, **named)
            wrong = "" if fault is None else fault(result, *given, **named)
        if wrong:
            raise ODD_RESULT(self._where, method=name, fault=wrong)
        return result


def called(plugin: object) -> str:
    """What names a plugin: as `asked` was told, or its class, "package.module:Class"."""
    if isinstance(plugin, _Asked):
        return plugin._where
    return f"{type(plugin).__module__}:{type(plugin).__name__}"


def what(found: object) -> str:
    """A result in words, for a fault."""
    return "it is None" if found is None else f"it is a {type(found).__name__}"


def json_fault(found: object, *_: object) -> str:
    """Why a result is no dict of JSON values; "" where it is one."""
    if not isinstance(found, dict):
        return f"{what(found)}, not a dict"
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"it is not of JSON values: {error}"
    return ""


def failure_of(error: BaseException, offers: list[Offer]) -> PluginError | None:
    """The failure of a third party's plugin where its code, and not ours, was the last that ran; else None."""
    known = owners(offers)
    last, trace = "", error.__traceback__
    while trace is not None:
        package = package_of(trace.tb_frame)
        last = package if package in known or package in OURS else last
        trace = trace.tb_next
    if last not in known:
        return None
    return IN_PLUGIN(
        f"plugin {known[last]}", kind=type(error).__name__, error=" ".join(said_by(error)[:LONGEST].split())
    )


def owners(offers: list[Offer]) -> dict[str, str]:
    """By Python package the plugin of a third party that it has; its distribution where it has several."""
    found: dict[str, str] = {}
    for offer in offers:
        package = offer.spec.factory.partition(":")[0].partition(".")[0]
        if offer.dist != BUILT_IN:
            found[package] = offer.qualified if package not in found else offer.dist
    return found
