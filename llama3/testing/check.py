"""`llama3 plugins check`: what can be checked of a plugin without knowing what it is for, then its conformance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel

from llama3.errors import LlamaError
from llama3.plugins.loader import Offer
from llama3.plugins.registry import Registry
from llama3.plugins.targets import describe, resolve


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    check: str
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def check_offer(registry: Registry, offer: Offer) -> list[Check]:
    """Every check that applies to a plugin, in order; later ones are left out where an earlier one is their base."""
    try:
        registry.offer(offer.spec.family, offer.qualified)
    except LlamaError as error:
        return [Check("usable", "failed", str(error))]
    checks = [_torch_free(offer), _options(registry, offer), _factory(offer)]
    if all(check.status == "ok" for check in checks):
        checks.extend(_conformance(offer))
    return checks


def _torch_free(offer: Offer) -> Check:
    """Discovering the plugin and its options must not import torch."""
    entry = [offer.entry, offer.dist, offer.spec.options or ""]
    program = (
        "import importlib, importlib.metadata as m, sys\n"
        "from llama3.plugins.loader import GROUP, canonical\n"
        f"entry, dist, options = {entry!r}\n"
        "for e in m.entry_points(group=GROUP):\n"
        "    if e.name == entry and canonical(e.dist.name) == dist: e.load()\n"
        "options and importlib.import_module(options.partition(':')[0])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        return Check("spec and options import without torch", "ok")
    detail = done.stderr.strip().splitlines()[-1:] or ["importing the plugin or its options imports torch"]
    return Check("spec and options import without torch", "failed", detail[0])


def _options(registry: Registry, offer: Offer) -> Check:
    """The options model exists, refuses unknown keys, and every option has a description."""
    name = "options refuse unknown keys"
    try:
        model = registry.options_model(offer.spec.family, offer.qualified)
    except LlamaError as error:
        return Check(name, "failed", str(error))
    if model is not None and model.model_config.get("extra") != "forbid":
        return Check(name, "failed", f'{model.__name__} needs model_config = ConfigDict(extra="forbid")')
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


def _conformance(offer: Offer) -> Iterator[Check]:
    """Run the test methods of the family's conformance class, as pytest would."""
    from llama3.testing import conformance_of

    kit = conformance_of(offer.spec.family)
    if kit is None:
        yield Check("conformance", "skipped", f"no conformance class for {offer.spec.family} yet")
        return
    if required := kit.missing_options(offer.qualified):
        yield Check("conformance", "skipped", f"has no defaults for {', '.join(required)}")
        return
    for method in sorted(name for name in dir(kit) if name.startswith("test_")):
        case = kit()
        case.plugin = offer.qualified
        try:
            getattr(case, method)()
        except (Exception, AssertionError) as error:
            yield Check(method.removeprefix("test_").replace("_", " "), "failed", describe(error))
        else:
            yield Check(method.removeprefix("test_").replace("_", " "), "ok")


def required_options(model: type[BaseModel] | None) -> list[str]:
    """Options without a default."""
    return [name for name, info in (model.model_fields if model else {}).items() if info.is_required()]
