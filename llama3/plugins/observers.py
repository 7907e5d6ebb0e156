"""Tells plugins what happens. An observer never changes a result: it gets copies, and what it returns is dropped."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pluggy

from llama3.plugins.hookspecs import OBSERVERS
from llama3.plugins.targets import describe, is_stop

log = logging.getLogger(__name__)


class Observers:
    """`notify("llama3_step_end", stage=..., step=..., metrics=...)` calls every plugin that listens.

    A plugin whose observer raises is named in a warning and hears nothing more; with `strict` the exception passes.
    """

    def __init__(self, manager: pluggy.PluginManager, *, strict: bool = False) -> None:
        self._manager = manager
        self._strict = strict
        self._off: set[str] = set()

    def notify(self, hook: str, **facts: Any) -> None:
        """Call `hook` on every plugin that implements it, with the arguments that it asks for."""
        if hook not in OBSERVERS:
            raise ValueError(f"{hook} is no observer hook; one of {', '.join(OBSERVERS)}")
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin_name in self._off:
                continue
            try:
                wanted = {name: copy.deepcopy(facts[name]) for name in implementation.argnames}
                implementation.function(**wanted)
            except BaseException as error:  # of anybody's plugin
                if self._strict or is_stop(error):
                    raise
                self._off.add(implementation.plugin_name)
                name = implementation.plugin_name
                log.warning("plugin %s: %s failed and is switched off: %s", name, hook, describe(error))
