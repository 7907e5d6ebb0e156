"""`llama3 plugins check`: what can be checked of a plugin without knowing what it is for, then its conformance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama3.errors import LlamaError
from llama3.plugins.loader import Offer
from llama3.plugins.registry import LACKS_MODULE, Registry
from llama3.plugins.targets import describe, is_stop, resolve
from llama3.testing import conformance_of
from llama3.testing.conformance import run_python


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    check: str
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_offer(registry: Registry, offer: Offer, options: Mapping[str, Any] | None = None) -> list[Check]:
    """Every check that applies to a plugin, in order; later ones are left out where an earlier one is their base.

    options: of the plugin, in place of its defaults.
    """
    try:
        registry.offer(offer.spec.family, offer.qualified)
    except LlamaError as error:
        lacks = all(problem.code == LACKS_MODULE.code for problem in error.problems)
        return [Check("usable", "skipped" if lacks else "failed", str(error))]
    checks = [_torch_free(offer), _options(registry, offer), _factory(offer)]
    if all(check.status == "ok" for check in checks):
        checks.extend(_conformance(offer, options or {}))
    return checks


def _torch_free(offer: Offer) -> Check:
    """Discovering the plugin and its options must not import torch."""
    name = "spec and options import without torch"
    entry = [offer.entry, offer.dist, offer.spec.options or ""]
    program = (
        "import importlib, importlib.metadata as m, sys\n"
        "from llama3.plugins.loader import GROUP, canonical\n"
        f"entry, dist, options = {entry!r}\n"
        "for e in m.entry_points(group=GROUP):\n"
        "    if e.name == entry and canonical(e.dist.name) == dist: e.load()\n"
        "options and importlib.import_module(options.partition(':')[0])\n"
        "assert 'torch' not in sys.modules, 'importing the plugin or its options imports torch'\n"
    )
    try:
        run_python(program)
    except AssertionError as error:
        return Check(name, "failed", str(error))
    return Check(name, "ok")


def _options(registry: Registry, offer: Offer) -> Check:
    """The options model exists, refuses unknown keys, and every option has a description."""
    name = "options refuse unknown keys and are described"
    try:
        model = registry.options_model(offer.spec.family, offer.qualified)
    except LlamaError as error:
        return Check(name, "failed", str(error))
    if model is not None and model.model_config.get("extra") != "forbid":
        return Check(name, "failed", f'{model.__name__} needs model_config = ConfigDict(extra="forbid")')
    silent = [key for key, field in (model.model_fields if model else {}).items() if not field.description]
    if silent:
        return Check(name, "failed", f"no description of {', '.join(silent)}: Field(..., description=...)")
    return Check(name, "ok", "" if model is not None else "no options")


def _factory(offer: Offer) -> Check:
    """The factory target can be imported and called."""
    try:
        target = resolve(offer.spec.factory)
    except LlamaError as error:
        return Check("factory imports", "failed", str(error))
    if offer.spec.family not in ("commands", "presets") and not callable(target):
        return Check("factory imports", "failed", f"{offer.spec.factory} is not callable")
    return Check("factory imports", "ok")


def _conformance(offer: Offer, options: Mapping[str, Any]) -> Iterator[Check]:
    """Run the test methods of the family's conformance class, as pytest would."""
    kit = conformance_of(offer.spec.family)
    if missing := kit.missing_options(offer.qualified, options):
        wanted = " ".join(f"--set {name}=..." for name in missing)
        detail = f"needs {', '.join(missing)}: llama3 plugins check {offer.spec.name} {wanted}"
        yield Check("conformance", "skipped", detail)
        return
    for method in sorted(name for name in dir(kit) if name.startswith("test_")):
        case = kit()
        case.plugin, case.options = offer.qualified, dict(options)
        name = method.removeprefix("test_").replace("_", " ")
        try:
            getattr(case, method)()
        except BaseException as error:  # of anybody's plugin
            if is_stop(error):
                raise
            yield Check(name, "failed", describe(error).removeprefix("AssertionError: "))
        else:
            yield Check(name, "ok")
