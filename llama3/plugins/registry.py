"""The registry: plugins by family and name. Config picks by name; the order of hooks never matters."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from llama3.errors import ConfigError, LlamaError, PluginError, Problem, did_you_mean
from llama3.plugins.content import content_of
from llama3.plugins.hookspecs import REGISTRATION
from llama3.plugins.loader import BUILT_IN, Broken, Discovery, Offer, load_plugins
from llama3.plugins.observers import Observers
from llama3.plugins.options import Loc, problems_of
from llama3.plugins.specs import API_VERSION, PluginSpec
from llama3.plugins.staying import staying
from llama3.plugins.targets import fix_for, is_stop, raised_by_ours, resolve, tried_to_exit, with_place

NO_SUCH_FAMILY = PluginError.declare("L3-PLG-010", "no such family", why="{near}")
UNKNOWN = PluginError.declare(
    "L3-PLG-011", "no plugin {name!r} in {family}", why="{near}", fix="llama3 plugins list --family {family}"
)
UNKNOWN_AND_BROKEN = PluginError.declare(
    "L3-PLG-019",
    "no plugin {name!r} in {family}, but some plugins failed to load: {broken}",
    why="{near}",
    fix="llama3 plugins list --broken",
)
NO_BUILT_INS = PluginError.declare(
    "L3-PLG-020",
    "no plugin {name!r} in {family}, for the built-in plugins are missing",
    fix="install the package (pip install -e .), then see: llama3 doctor",
)
AMBIGUOUS = PluginError.declare("L3-PLG-012", "{count} plugins are called {name!r}", fix="{fix}")
OTHER_API = PluginError.declare(
    "L3-PLG-013",
    "{offer.qualified} {offer.version} needs api {offer.spec.api_version}",
    why="this is api {ours}",
    fix="pip install -U {offer.dist} {core}; its author finds what changed in docs/plugins.md",
)
LACKS_MODULE = PluginError.declare(
    "L3-PLG-021", "{offer.qualified} {offer.version} needs {module}", fix="pip install {package}"
)
NO_OPTIONS_MODEL = PluginError.declare("L3-PLG-014", "{target} is no pydantic model")
TAKES_NO_OPTIONS = ConfigError.declare("L3-PLG-015", "{name!r} takes no options, got {options}")
FACTORY_FAILED = PluginError.declare("L3-PLG-017", "{target} failed", why="{error}", fix="{fix}")
BROKEN = PluginError.declare("L3-PLG-018", "is installed and broken: {phase} failed", why="{error}", fix="{fix}")
NOT_FOUND = PluginError.declare("L3-PLG-041", "{error}", fix="{fix}")

FAMILIES = tuple(kind.family for kind in REGISTRATION.values())


@functools.cache
def discover(*, strict: bool | None = None) -> Registry:
    """The registry of this installation, made once per process (`discover.cache_clear()` looks again).

    Raises PluginError for any broken plugin when `LLAMA3_PLUGINS_STRICT=1`; `strict=False` never does, for commands
    that must work while a plugin is broken.
    """
    if strict is None:
        strict = os.environ.get("LLAMA3_PLUGINS_STRICT", "") not in ("", "0")
    return Registry(load_plugins(environ=os.environ), strict=strict)


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of `llama3 plugins list`."""

    family: str
    name: str
    summary: str
    dist: str
    version: str
    stability: str
    status: str
    """"ok", "clash" (use `qualified`), "needs MODULE" or "needs api N"."""
    qualified: str


class Registry:
    """Every plugin that was found. Listing and validating import no implementation."""

    def __init__(self, found: Discovery, *, strict: bool = False) -> None:
        self.offers = found.offers
        self.broken: Sequence[Broken] = tuple(found.broken)
        self.observers = Observers(found.manager, strict=strict)
        if strict and found.broken:
            raise PluginError.of(broken_problem(broken) for broken in found.broken)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of all families, whether or not a plugin is there."""
        return FAMILIES

    def names(self, family: str) -> Sequence[str]:
        """Names that can be written in a config: qualified where two plugins clash."""
        return sorted(row.qualified if row.status == "clash" else row.name for row in self.list(family))

    def spelled(self, family: str, name: str) -> str:
        """The plugin's own name where `name` differs from one only in - and _; else `name`. For what people type."""
        alike = [known for known in self.names(family) if same_name(known, name)]
        return alike[0] if len(alike) == 1 and name not in alike else name

    def list(self, family: str | None = None) -> Sequence[Listed]:
        """All plugins, or those of one family, sorted by family, name and distribution."""
        rows = [
            Listed(
                family=offer.spec.family,
                name=offer.spec.name,
                summary=offer.spec.summary,
                dist=offer.dist,
                version=offer.version,
                stability=offer.spec.stability,
                status=self._status(offer),
                qualified=offer.qualified,
            )
            for offer in self.offers
            if family in (None, offer.spec.family)
        ]
        return sorted(rows, key=lambda row: (FAMILIES.index(row.family), row.name, row.dist))

    def offer(self, family: str, name: str, *, where: str = "") -> Offer:
        """The plugin called `name` (or `dist:name`), with the distribution it came from.

        Raises PluginError where it is unknown, ambiguous, made for another api version, or lacks a module.
        `where` is put in front of the problem (a place in a config file).
        """
        where = where or f"{family} {name!r}"
        if family not in FAMILIES:
            raise NO_SUCH_FAMILY(where, near=did_you_mean(family, FAMILIES))
        key = "qualified" if ":" in name else "name"
        of_family = [offer for offer in self.offers if offer.spec.family == family]
        matches = [o for o in of_family if name == (o.qualified if key == "qualified" else o.spec.name)]
        if not matches:
            raise self._unknown(family, name, where)
        if len(matches) > 1:
            choices = sorted({offer.qualified for offer in matches})
            fix = f"write {' or '.join(choices)}" if len(choices) > 1 else "rename one of them"
            raise AMBIGUOUS(where, count=len(matches), name=name, fix=fix)
        (offer,) = matches
        if offer.spec.api_version != API_VERSION:
            raise OTHER_API(where, offer=offer, ours=API_VERSION, core=BUILT_IN)
        if module := _missing(offer.spec):
            raise LACKS_MODULE(where, offer=offer, module=module, package=_bringing(offer, module))
        return offer

    def spec(self, family: str, name: str, *, where: str = "") -> PluginSpec:
        """The spec of the plugin called `name`; raises as `offer` does."""
        return self.offer(family, name, where=where).spec

    def identity(self, family: str, name: str) -> dict[str, str]:
        """What a manifest records of a plugin: family, name, distribution, version, and of a third party's its `code`:
        a hash of its files."""
        offer = self.offer(family, name)
        known = {"family": family, "name": offer.spec.name, "dist": offer.dist, "version": offer.version}
        return known if offer.dist == BUILT_IN else known | {"code": content_of(offer)}

    def options_model(self, family: str, name: str) -> type[BaseModel] | None:
        """The pydantic model of the plugin's options, or None where it takes none."""
        offer = self.offer(family, name)
        if offer.spec.options is None:
            return None
        model = resolve(offer.spec.options, owner=f"{offer.qualified} {offer.version}")
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise NO_OPTIONS_MODEL(f"{offer.qualified} {offer.version}", target=offer.spec.options)
        return model

    def options(
        self,
        family: str,
        name: str,
        options: Mapping[str, Any] | BaseModel | None = None,
        *,
        where: Callable[[Loc], str] = lambda loc: "",
        prefix: Loc = (),
    ) -> BaseModel | None:
        """Options checked by the plugin's model; ConfigError lists every mistake with near names."""
        model = self.options_model(family, name)
        if isinstance(options, BaseModel) and model is not None and isinstance(options, model):
            return options
        values = options.model_dump() if isinstance(options, BaseModel) else dict(options or {})
        prefix = prefix or (family, name)
        if model is None:
            if values:
                place = ": ".join(part for part in (where(prefix), ".".join(map(str, prefix))) if part)
                raise TAKES_NO_OPTIONS(place, name=name, options=sorted(map(str, values)))
            return None
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise ConfigError.of(problems_of(error, model, where, prefix)) from error
        except SystemExit as error:
            raise tried_to_exit(error) from error

    def build(self, family: str, name: str, options: Mapping[str, Any] | BaseModel | None = None) -> Any:
        """The object that the plugin's factory makes of its checked options.

        Raises ConfigError for bad options and PluginError where the factory cannot be imported or raises.
        """
        offer = self.offer(family, name)
        checked = self.options(family, name, options)
        owner = f"{offer.qualified} {offer.version}"
        with staying():
            factory = resolve(offer.spec.factory, owner=owner)
            try:
                return factory() if checked is None else factory(checked)
            except LlamaError as error:
                if not raised_by_ours(error):
                    error.name_plugin(owner)
                raise
            except BaseException as error:  # of anybody's plugin
                if is_stop(error):
                    raise
                fix = fix_for(error, offer.dist if offer.dist != BUILT_IN else "")
                raise FACTORY_FAILED(owner, target=offer.spec.factory, error=with_place(error), fix=fix) from error

    def fingerprint(self) -> str:
        """Hash of (family, name, dist, version) of all plugins: equal on every rank, kept with a run."""
        rows = [(row.family, row.name, row.dist, row.version) for row in self.list()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def _status(self, offer: Offer) -> str:
        spec = offer.spec
        if spec.api_version != API_VERSION:
            return f"needs api {spec.api_version}"
        if module := _missing(spec):
            return f"needs {module}"
        same = [o for o in self.offers if (o.spec.family, o.spec.name) == (spec.family, spec.name)]
        return "clash" if len(same) > 1 else "ok"

    def _unknown(self, family: str, name: str, where: str) -> PluginError:
        known = self.names(family)
        near = did_you_mean(name, known) or f"known: {', '.join(known) or 'none'}"
        if self.broken:
            broken = "; ".join(map(str, self.broken))
            return UNKNOWN_AND_BROKEN(where, name=name, family=family, near=near, broken=broken)
        if not any(offer.dist == BUILT_IN for offer in self.offers):
            return NO_BUILT_INS(where, name=name, family=family)
        return UNKNOWN(where, name=name, family=family, near=near)


def same_name(one: str, other: str) -> bool:
    """Whether two names are one to people: - and _ are hard to tell apart from memory."""
    return one.replace("_", "-") == other.replace("_", "-")


def broken_problem(broken: Broken) -> Problem:
    """The report of a broken plugin as a problem."""
    if broken.phase == "find":
        return NOT_FOUND.problem(broken.dist, error=broken.error, fix=broken.fix)
    where = f"{broken.dist} {broken.version} ({broken.entry})"
    return BROKEN.problem(where, phase=broken.phase, error=broken.error, fix=broken.fix)


def _bringing(offer: Offer, module: str) -> str:
    """What to install for a module that a plugin lacks."""
    return f"'{offer.dist}[{offer.spec.extra}]'" if offer.spec.extra else module.replace("_", "-")


def _missing(spec: PluginSpec) -> str:
    """The first module that a plugin requires and that is not installed, or nothing."""
    return next((module for module in spec.requires if not _importable(module)), "")


def _importable(module: str) -> bool:
    """Whether the top-level package is installed (asking for more would import it)."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
