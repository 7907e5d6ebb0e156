"""Executing a recipe: the run directory, the observers, the plugins that each stage uses, and the ranks of `torchrun`.

The recipe says what is made from what; everything about *how* it is executed is here.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from pydantic import BaseModel

from llama3 import _core
from llama3.artifacts import Artifact, PluginUse, Stage
from llama3.artifacts.files import canonical_json, write_bytes_atomic, write_json_atomic
from llama3.artifacts.precision import kept_probe
from llama3.artifacts.progress import Display, ProgressBar
from llama3.artifacts.run import RunDir
from llama3.config import Config, Loaded
from llama3.config.precision import Work, settled
from llama3.config.slots import choices, identities
from llama3.errors import Interrupted, LlamaError, PluginError
from llama3.evaluation.curation_page import render_curation
from llama3.evaluation.report import render_html
from llama3.model.device import device_of
from llama3.model.memory import give_back_freed_memory, set_apart_what_is_there
from llama3.model.precision import ComputePrecision
from llama3.plugins.registry import discover
from llama3.plugins.targets import is_stop
from llama3.training.ranks import Ranks

STOPPED_BETWEEN = Interrupted.declare(
    "L3-RUN-007",
    "stopped between two stages",
    why="finished stages are kept",
    fix="give the same command to go on",
)


class Executor:
    """Executes the stages of one run; a context manager, called with a stage and its inputs.

    Under `torchrun` every process has one: rank 0 executes, the others follow it (llama3.training.ranks).
    """

    def __init__(self, loaded: Loaded, folder: Path | None = None) -> None:
        """`folder` is the run directory (default: what the config says)."""
        self.run = RunDir(folder or Path(loaded.config.run.dir) / loaded.config.run.name)
        self.made: dict[str, Artifact] = {}
        self._loaded = loaded
        self._ranks = Ranks()
        self._observers = discover().observers
        self._size = ""
        self._whole: Executor | None = None
        self._known: dict[str, Artifact] = {}
        self._set_apart = False

    def part(self, size: str, loaded: Loaded) -> Executor:
        """The same execution for one size of a herd: its own config, `made` by its own keys, and artifacts of the run
        named `size-key`. What the run has made for another size is not made again."""
        part = copy.copy(self)
        part.__dict__.pop("config", None)
        part.made, part._loaded, part._size, part._whole = {}, loaded, size, self
        return part

    @cached_property
    def config(self) -> Config:
        """The config with what it leaves to the machine settled: measured when it is first asked for, so that work
        which does not train measures nothing. Every rank asks."""
        return settled(self._loaded.config, self._precision)

    def __enter__(self) -> Executor:
        threads = self._loaded.config.run.threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
        self._set_apart = set_apart_what_is_there()
        if self._ranks.leads:
            self.run.__enter__()
        try:
            self._begin()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        if self._ranks.leads:
            plugins = [PluginUse(**row) for row in self._loaded.plugins()]
            self.run.describe(self._loaded.to_yaml(), self._loaded.origins_json(), plugins)
            config = self._loaded.config.model_dump(mode="json")
            self._observers.notify("llama3_run_start", run_dir=self.run.path, config=config)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._set_apart:
            gc.unfreeze()
        if not self._ranks.leads:
            return
        # Within a stage it is an Interrupted that names the stage; what C code made of a signal is no fault.
        between = is_stop(error) or (error is not None and self.run.signals.seen and not isinstance(error, LlamaError))
        stopped = between or isinstance(error, Interrupted)
        status = "ok" if error is None else "interrupted" if stopped else "failed"
        why = None if error is None else str(error)
        self._observers.notify("llama3_run_end", run_dir=self.run.path, status=status, error=why)
        if between:
            self.run.event("interrupted")
        self.run.__exit__(kind, error, trace)
        if between:
            raise STOPPED_BETWEEN(self.run.path) from error

    def __call__(
        self, stage: Stage, key: str, options: BaseModel | None = None, /, **inputs: Artifact | None
    ) -> Artifact:
        """The artifact of a stage, made now or found.

        Args:
            key: names the artifact within the run.
            options: what the stage is asked for; their slots say which plugins it uses.
            inputs: artifacts by role; None leaves an optional one out.
        """
        given = {role: artifact for role, artifact in inputs.items() if artifact is not None}
        request, name = _request(stage, given, options), self.name_of(key)
        if self._whole is None or request not in self._known:
            self._known[request] = self._execute(stage, name, options, given)
            give_back_freed_memory()
        elif self._ranks.leads:
            self.run.name(name, self._known[request])
        self.made[key] = self._known[request]
        if self._whole is not None:
            self._whole.made[name] = self.made[key]
        return self.made[key]

    def name_of(self, key: str) -> str:
        """What the artifact of a key is called within the run."""
        return f"{self._size}-{key}" if self._size else key

    def _execute(self, stage: Stage, name: str, options: BaseModel | None, given: Mapping[str, Artifact]) -> Artifact:
        if self._ranks.leads:
            plugins = plugins_of(options)
            made = self._ranks.lead(stage, lambda told: self.run.execute(told, given, options, name, plugins))
        else:
            made = self._ranks.follow(stage, given, options)
        return made

    def warn(self, lines: Iterable[str]) -> None:
        """Tell the person watching, each line once, whether the stage that it concerns ran now or before."""
        if self._ranks.leads:
            for line in lines:
                self.run.display.warn(line)

    def progress(self, description: str, total: int) -> AbstractContextManager[ProgressBar]:
        """Show how far a loop over stages is, on the rank that leads."""
        display = self.run.display if self._ranks.leads else Display.silent()
        return display.task(description, total)

    def publish(self, report: Mapping[str, Any]) -> None:
        """Write `report.json` and `report.html` into the run directory; of a size of a herd, `report-SIZE.*`."""
        self.write_report(report, render_html(report))

    def write_report(self, report: Mapping[str, Any], page: str) -> None:
        """As `publish`, with the page that shows the report."""
        if self._ranks.leads:
            stem = f"report-{self._size}" if self._size else "report"
            write_json_atomic(self.run.path / f"{stem}.json", dict(report))
            write_bytes_atomic(self.run.path / f"{stem}.html", page.encode())

    def show_corpus(self, corpus: Artifact) -> Path | None:
        """Write `report.html` of a run that has come no further than its corpus, and return where it is; None where the
        run has a report of all its stages, which tells of its corpus too."""
        page = self.run.path / "report.html"
        if not self._ranks.leads or (self.run.path / "report.json").exists():
            return None
        write_bytes_atomic(page, render_curation(self.run.path.name, corpus, self.made.get("synthetic")).encode())
        return page

    def withdraw(self, key: str) -> None:
        """Let `key` no longer name what an earlier execution of this run made."""
        if self._ranks.leads:
            self.run.withdraw(self.name_of(key))

    def take(self, key: str, artifact: Artifact) -> None:
        """Let `key` name an artifact that this run made under another one."""
        if self._ranks.leads:
            self.run.name(key, artifact)
        self.made[key] = artifact

    def _precision(self, work: Work) -> ComputePrecision:
        """What this kind of work is computed in: measured once on rank 0, then kept with the run, so that the same
        command asks for the same artifacts."""
        device = device_of(self._loaded.config.run.device)
        found = kept_probe(self.run, work, device).precision if self._ranks.leads else ""
        return cast(ComputePrecision, self._ranks.share(found))


def _request(stage: Stage, given: Mapping[str, Artifact], options: BaseModel | None) -> str:
    """What is asked for, whatever its key: stage, inputs and options."""
    asked = None if options is None else options.model_dump(mode="json")
    inputs = sorted((role, artifact.hash) for role, artifact in given.items())
    return canonical_json([stage.name, inputs, asked]).decode()


def plugins_of(options: BaseModel | None) -> list[PluginUse]:
    """The plugins that options choose, those inside the options of other plugins included. Another version of one of
    them is another request. Raises PluginError where one is not there."""
    if options is None:
        return []
    chosen, problems = choices(options)
    if problems:
        raise PluginError.of(problems)
    return [PluginUse(**row) for row in identities(chosen)]
