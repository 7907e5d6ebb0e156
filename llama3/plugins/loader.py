"""Finds and imports plugins: built-ins and third parties come through the entry-point group `llama3.plugins`.

pluggy's own loader stops at the first plugin that fails and silently drops one of two with the same name, so the
loop is ours: sorted, each plugin isolated, rolled back when it fails, and kept as a `Broken` that says who and why.
A plugin is in as a whole or not at all.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy

from llama3.errors import did_you_mean
from llama3.plugins import hookspecs
from llama3.plugins.specs import PluginSpec, SourceSpec
from llama3.plugins.targets import TARGET, describe, fix_for, is_stop

GROUP = "llama3.plugins"
BUILT_IN = "llama3"
"""Distribution of the built-ins, which the allow-list always admits."""

Phase = Literal["find", "import", "register", "hook"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that was left out: whose it is, how far it came, what it raised and what to do."""

    dist: str
    version: str
    entry: str
    phase: Phase
    error: str
    fix: str

    def __str__(self) -> str:
        return f"{self.dist} {self.version} ({self.entry}): {self.phase} failed: {self.error}"


@dataclass(frozen=True, slots=True)
class Offer:
    """A spec and the plugin it came from."""

    spec: PluginSpec
    dist: str
    version: str
    entry: str
    module: str = ""
    """The module of the entry point."""

    @property
    def qualified(self) -> str:
        """The name that stays unambiguous when two distributions offer the same one."""
        return f"{self.dist}:{self.spec.name}"


@dataclass
class Discovery:
    """What was found: a pluggy manager holding the sound plugins, their offers, and the broken ones."""

    manager: pluggy.PluginManager
    offers: list[Offer] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)


class _ContractError(Exception):
    """A plugin does not keep the contract of a hook; `fix` says what its author should change."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def load_plugins(
    entries: Iterable[importlib.metadata.EntryPoint] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Discovery:
    """Import and register every plugin that `LLAMA3_PLUGINS` admits (unset: all; empty: built-ins only).

    `LLAMA3_PLUGINS` is a comma-separated list of distributions.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = Discovery(manager)
    if entries is None:
        entries = importlib.metadata.entry_points(group=GROUP)
    allowed = _allow_list(environ or {})
    seen = {BUILT_IN}
    for dist, version, entry in sorted(map(_identify, entries), key=lambda row: (row[0], row[2].name)):
        seen.add(dist)
        if allowed is None or dist == BUILT_IN or dist in allowed:
            _load_one(found, dist, version, entry)
    for dist in sorted((allowed or set()) - seen):
        fix = f"pip install {dist}, or take it out of LLAMA3_PLUGINS"
        found.broken.append(Broken(dist, "?", "-", "find", "named by LLAMA3_PLUGINS but not installed", fix))
    return found


def canonical(name: str) -> str:
    """A distribution's name in the one spelling by which it is compared."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _allow_list(environ: Mapping[str, str]) -> set[str] | None:
    listed = environ.get("LLAMA3_PLUGINS")
    return None if listed is None else {canonical(name) for name in listed.split(",") if name.strip()}


def _identify(entry: importlib.metadata.EntryPoint) -> tuple[str, str, importlib.metadata.EntryPoint]:
    """Distribution, version and entry point; damaged metadata does not hide whose plugin it is."""
    try:
        assert entry.dist is not None
        return canonical(entry.dist.name), entry.dist.version or "?", entry
    except Exception:
        return canonical(entry.module.partition(".")[0]), "?", entry


def _load_one(found: Discovery, dist: str, version: str, entry: importlib.metadata.EntryPoint) -> None:
    name, plugin = f"{dist}:{entry.name}", None
    before = {registered for registered, _ in found.manager.list_name_plugin()}
    phase: Phase = "import"
    try:
        plugin = entry.load()
        phase = "register"
        _check_hooks(plugin)
        found.manager.register(plugin, name)
        phase = "hook"
        specs = _collect(found.manager, plugin)
    except BaseException as error:  # of anybody's plugin
        if is_stop(error):
            raise
        # Only what this entry registered: the name or the object may belong to an earlier, sound one.
        if plugin is not None and found.manager.get_plugin(name) is plugin and name not in before:
            found.manager.unregister(plugin, name)
        fix = error.fix if isinstance(error, _ContractError) else fix_for(error, dist)
        text = str(error) if isinstance(error, _ContractError) else f"{describe(error)}{_place(error)}"
        found.broken.append(Broken(dist, version, entry.name, phase, text, fix))
        return
    found.offers.extend(Offer(spec, dist, version, entry.name, entry.module) for spec in specs)


def _place(error: BaseException) -> str:
    """Where a plugin raised it, which is no line of ours or of Python's import machinery."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    ours = (__file__, importlib.metadata.__file__, importlib.__file__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and frames[-1].filename not in ours else ""


def _check_hooks(plugin: Any) -> None:
    """Refuse hooks that would be silently ignored, or that could change a result, and a plugin that has none."""
    known = {*hookspecs.REGISTRATION, *hookspecs.OBSERVERS}
    marked = 0
    for name in sorted(attribute for attribute in dir(plugin) if attribute.startswith("llama3_")):
        member = getattr(plugin, name, None)
        if not inspect.isroutine(member):
            continue
        options = getattr(member, f"{hookspecs.PROJECT}_impl", None)
        if name in known and options is None:
            raise _ContractError(f"{name} is not marked", f"put @hookimpl above {name}")
        if options is None:
            continue
        marked += 1
        if name not in known and not options["optionalhook"]:
            what = ". ".join(part for part in (f"unknown hook {name}", did_you_mean(name, known)) if part)
            raise _ContractError(what, "if a newer llama3 has it, mark it @hookimpl(optionalhook=True)")
        if options["hookwrapper"] or options["wrapper"]:
            raise _ContractError(f"{name} is a wrapper", "hooks of llama3 register or observe; return a value instead")
    if not marked:
        name = getattr(plugin, "__name__", type(plugin).__name__)
        fix = "define one, such as llama3_rewards, with @hookimpl above it; docs/hooks.md lists them"
        raise _ContractError(f"{name} has no hook", fix)


def _collect(manager: pluggy.PluginManager, plugin: Any) -> list[PluginSpec]:
    """Call the registration hooks of this plugin alone, so that a failure is attributed to it."""
    specs: list[PluginSpec] = []
    for hook, kind in hookspecs.REGISTRATION.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is plugin:
                specs.extend(_checked(hook, kind, implementation.function()))
    return specs


def _checked(hook: str, kind: type[PluginSpec], result: Any) -> list[PluginSpec]:
    if not isinstance(result, list | tuple):
        raise _ContractError(f"{hook} returned {type(result).__name__}", f"return a list of {kind.__name__}")
    for spec in result:
        if not isinstance(spec, kind):
            what = f"{hook} returned a list with {type(spec).__name__} in it"
            raise _ContractError(what, f"return a list of {kind.__name__}")
        if not isinstance(spec.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", spec.name):
            raise _ContractError(f"{hook}: bad name {spec.name!r}", "use a-z, 0-9, _ and -")
        for target in (spec.factory, spec.options):
            if target is not None and not (isinstance(target, str) and TARGET.fullmatch(target)):
                raise _ContractError(f"{hook}: {spec.name}: bad target {target!r}", 'write "package.module:Class"')
        if isinstance(spec, SourceSpec):
            _check_labels(f"{hook}: {spec.name}", spec.labels)
    return list(result)


def _check_labels(where: str, labels: Any) -> None:
    """A mix names labels: each is text. One string is no list of them, though it has items."""
    texts = isinstance(labels, list | tuple) and all(
        isinstance(label, str) and label.strip() and label.isprintable() for label in labels
    )
    if not texts or len(set(labels)) < len(labels):
        raise _ContractError(f"{where}: bad labels {labels!r}", 'write different names: labels=("web", "code")')
