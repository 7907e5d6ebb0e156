"""The stage `pretrain` in forks of this process, with faults in them: what a supervisor and a user see of them."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from llama3.artifacts import environment
from llama3.artifacts.artifact import Artifact
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.training.effective_time import Account, accounts
from llama3.training.ledger import rows_of_rank
from llama3.training.pretrain import PretrainOptions, TokenDataset, pretrain

LIMIT = 240.0
"""Seconds after which a fork that does not end has failed its test."""


def forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """The exit code of `work` in a fork, as `subprocess` gives it; after `kill_after` seconds it is killed."""
    environment.code()  # asked once, for all forks
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            faulthandler.disable()  # of pytest, which would tell of each crash
            work()
            code = 0
        except BaseException as error:
            code = getattr(error, "exit_code", 1)
            if not hasattr(error, "exit_code"):
                traceback.print_exc()
        finally:
            os._exit(code)
    deadline = time.monotonic() + (LIMIT if kill_after is None else kill_after)
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert kill_after is not None, "it did not end"
    return code


def at_step(step: int, fault: Callable[[], Any]) -> Callable[[], None]:
    """What makes `fault` happen when the data of the 0-based `step` is read, in the process that calls it."""

    def install() -> None:
        read = TokenDataset.examples

        def examples(self: TokenDataset, data: int) -> Any:
            if data == step:
                fault()
            return read(self, data)

        TokenDataset.examples = examples  # type: ignore[method-assign]

    return install


def once_saved(run: Path, step: int, fault: Callable[[], Any]) -> Callable[[], Any]:
    """The fault, no earlier than the checkpoint of `step` is committed: it is written behind the steps."""

    def wait() -> Any:
        end = time.monotonic() + LIMIT
        while not list(run.glob(f"scratch/*/checkpoints/step-{step}/COMMIT")) and time.monotonic() < end:
            time.sleep(0.01)
        return fault()

    return wait


def train(
    run: Path,
    inputs: Mapping[str, Artifact],
    options: PretrainOptions,
    fault: Callable[[], Any] = lambda: None,
    kill_after: float | None = None,
) -> int:
    """One process that trains in the run directory, with a fault in it."""

    def work() -> None:
        fault()
        with RunDir(run, Display.silent()) as folder:
            folder.execute(pretrain, inputs, options)

    return forked(work, kill_after)


def made(run: Path) -> str:
    """The identity of the checkpoint that a run has made: it stands for all its bytes."""
    return RunDir(run).current()["pretrain"].hash


def account(run: Path) -> Account:
    """What the ledger says of the stage."""
    (found,) = accounts(rows_of_rank(run))
    return found


def causes(run: Path) -> list[str]:
    return [hit.cause for hit in account(run).interruptions]
