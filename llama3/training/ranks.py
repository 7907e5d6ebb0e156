"""A recipe under `torchrun`: rank 0 executes, writes and shows; the others follow, and join the stages of `every_rank`.

Every process walks the same recipe. For each stage rank 0 tells the others whether there is work ("run"), and in the
end where the artifact lies ("done") or that it failed ("stop").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel

from llama3.artifacts import Artifact, Stage, StageOutput
from llama3.errors import Interrupted
from llama3.training.joining import join
from llama3.training.messages import broadcast

RANK_0_STOPPED = Interrupted.declare("L3-RUN-010", "rank 0 stopped during {stage}")

PATIENCE = timedelta(days=30)
"""How long a rank waits for the others: a stage that one rank runs alone may take long."""


class Ranks:
    """The processes of a run; a single one is rank 0 of 1."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.world > 1 and not dist.is_initialized():
            join("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this process executes stages."""
        return self.rank == 0

    def lead(self, stage: Stage, execute: Callable[[Stage], Artifact]) -> Artifact:
        """Rank 0: `execute` the stage, telling the others what happens."""

        def announced(*, out: StageOutput, **given: Any) -> None:
            self._send("run", str(out.scratch), str(out.logs or ""))
            stage(**given, out=out)

        try:
            artifact = execute(replace(stage, function=announced))
        except BaseException:
            with suppress(RuntimeError):  # a signal to all ranks may have ended them already
                self._send("stop")
            raise
        self._send("done", str(artifact.location))
        return artifact

    def follow(self, stage: Stage, inputs: Mapping[str, Artifact], options: BaseModel | None) -> Artifact:
        """Another rank: take part in the stage if every rank does, and open what rank 0 made.

        Raises Interrupted when rank 0 stopped.
        """
        while True:
            what, *told = self._receive()
            if what == "done":
                return Artifact(told[0])
            if what == "stop":
                raise RANK_0_STOPPED(f"rank {self.rank}", stage=stage.name)
            if stage.every_rank:
                # All ranks stop together, and rank 0 then says so.
                scratch, logs = told
                with TemporaryDirectory() as unused, suppress(Interrupted):
                    out = StageOutput(Path(unused), Path(scratch), Path(logs) if logs else None)
                    stage.run(inputs, options, out)

    def share(self, text: str) -> str:
        """The text that rank 0 has, on every rank."""
        if not self.leads:
            return self._receive()[1]
        self._send("text", text)
        return text

    def _send(self, what: str, *texts: str) -> None:
        if self.world > 1:
            broadcast([what, *texts])

    def _receive(self) -> list[str]:
        told: list[str] = broadcast(None)
        return told
