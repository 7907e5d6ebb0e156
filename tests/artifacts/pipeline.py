"""A small pipeline of four stages with checkpoints inside a stage, and the crashes that tests put it through.

As a script it runs the pipeline once: `python pipeline.py RUN_DIR`. With `--kills SEED N` it forks
children that are killed at random moments until N have died; with `--calls START STRIDE` one child per
file operation START, START + STRIDE, ..., killed just before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from llama3.artifacts import Artifact, CorpusArtifact, Shards, StageOutput, TokenizerArtifact, stage
from llama3.artifacts.files import TEMPORARY_MARK, write_json_atomic
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir

PAUSE = float(os.environ.get("PAUSE", "0"))  # seconds per unit of work, so that kills fall inside stages
OPERATIONS = ("fsync", "rename", "symlink", "mkdir", "rmdir", "unlink")


class Options(BaseModel):
    seed: int = 1


@stage(output="corpus")
def curate(*, options: Options, out: StageOutput) -> None:
    draw = random.Random(options.seed)
    for n in range(3):
        words = [str(draw.randrange(1000)) for _ in range(200)]
        (out.path / f"part-{n}.txt").write_text(" ".join(words))
        time.sleep(PAUSE)
    out.metrics["funnel"] = {"train": {"numbers": {"documents": 3}}}


@stage(output="tokenizer")
def tokenizer(corpus: CorpusArtifact, *, out: StageOutput) -> None:
    words = {word for part in corpus.path.glob("*.txt") for word in part.read_text().split()}
    (out.path / "vocabulary").mkdir()
    (out.path / "vocabulary" / "words.json").write_text(json.dumps(sorted(words)))
    out.metrics["vocab_size"] = len(words)


@stage(output="shards")
def shard(corpus: CorpusArtifact, tokenizer: TokenizerArtifact, *, out: StageOutput) -> None:
    words = json.loads((tokenizer.path / "vocabulary/words.json").read_text())
    index = {word: n for n, word in enumerate(words)}
    for part in sorted(corpus.path.glob("*.txt")):
        ids = [index[word] for word in part.read_text().split()]
        (out.path / f"{part.stem}.json").write_text(json.dumps(ids))
        time.sleep(PAUSE)


@stage(output="checkpoint")
def pretrain(shards: Shards, tokenizer: TokenizerArtifact, *, out: StageOutput) -> None:
    """Eight steps of a chaotic recurrence over the data, checkpointed every second step."""
    data = [json.loads(part.read_text()) for part in sorted(shards.path.glob("part-*.json"))]
    state = {"step": 0, "weight": 0.5}
    saved = out.scratch / "state.json"
    if saved.exists():
        state = json.loads(saved.read_text())
        out.event("resumed", step=state["step"])
    with out.progress("train", 8) as task:
        for step in range(state["step"], 8):
            share = (data[step % 3][step] + 1) / 1001
            state = {
                "step": step + 1,
                "weight": 3.9 * state["weight"] * (1 - state["weight"]) * 0.9 + share * 0.1,
            }
            if state["step"] % 2 == 0:
                write_json_atomic(saved, state)
            task.advance(1, weight=state["weight"])
            time.sleep(PAUSE)
    (out.path / "weights.json").write_text(json.dumps(state))
    out.metrics["weight"] = state["weight"]


STAGES = [curate, tokenizer, shard, pretrain]


def run(path: Path, options: Options) -> dict[str, Artifact]:
    made: dict[str, Artifact] = {}
    with RunDir(path, Display.silent()) as run_dir:
        for step in STAGES:
            inputs = {role: made[str(kind)] for role, kind in step.required.items()}
            made[step.output] = run_dir.execute(step, inputs, options if step is curate else None)
    return made


def fingerprint(path: Path) -> dict[str, str]:
    """Identity of every current artifact, and a hash of everything under artifacts/ but creation times."""
    digest = hashlib.sha256()
    for file in sorted((path / "artifacts").rglob("*")):
        digest.update(str(file.relative_to(path)).encode())
        if file.is_file():
            content = file.read_bytes()
            if file.name == "manifest.json":
                content = json.dumps({**json.loads(content), "created": ""}, sort_keys=True).encode()
            digest.update(content)
    found = {key: artifact.hash for key, artifact in RunDir(path).current().items()}
    leftovers = [name.name for name in path.rglob(f"*{TEMPORARY_MARK}*")] + os.listdir(path / "scratch")
    return {**found, "tree": digest.hexdigest(), "leftovers": json.dumps(leftovers)}


def die_before(operation: str, nth: int) -> None:
    """From now on, the nth call of os.<operation> kills this process instead."""
    original = getattr(os, operation)
    calls = 0

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, operation, counting)


def in_child(path: Path, options: Options, prepare: Callable[[], None] = lambda: None, limit: float = 60) -> bool:
    """Run the pipeline in a forked child, killed after `limit` seconds. Whether it finished."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            prepare()
            run(path, options)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
                raise SystemExit("the pipeline failed instead of finishing or dying")
            return os.WIFEXITED(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def random_kills(path: Path, seed: int, wanted: int) -> int:
    """Kill at random moments until `wanted` children have died; every resumed run must agree. Returns the
    kills.
    """
    draw = random.Random(seed)
    options = Options()
    reference = path / "reference"
    started = time.monotonic()
    assert in_child(reference, options)
    whole = time.monotonic() - started
    kills = trial = 0
    while kills < wanted:
        trial += 1
        target = path / f"trial-{trial}"
        while not in_child(target, options, limit=draw.uniform(0.0, 1.2 * whole)):
            kills += 1
        assert fingerprint(target) == fingerprint(reference), (seed, trial)
        shutil.rmtree(target)
    return kills


def kill_at_calls(path: Path, start: int, stride: int) -> int:
    """Die just before the file operations `start`, `start + stride`, ... of a run; every resumed run must
    agree.
    """
    options = Options()
    reference = path / "reference"
    assert in_child(reference, options)
    kills = 0
    for operation in OPERATIONS:
        for nth in itertools.count(start, stride):
            target = path / f"{operation}-{nth}"
            finished = in_child(target, options, lambda o=operation, n=nth: die_before(o, n))
            if finished:
                break
            kills += 1
            assert in_child(target, options)
            assert fingerprint(target) == fingerprint(reference), (operation, nth)
            shutil.rmtree(target)
    return kills


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if "--kills" in sys.argv:
        print(random_kills(target, int(sys.argv[3]), int(sys.argv[4])))
    elif "--calls" in sys.argv:
        print(kill_at_calls(target, int(sys.argv[3]), int(sys.argv[4])))
    else:
        run(target, Options())
        print(json.dumps(fingerprint(target)))
