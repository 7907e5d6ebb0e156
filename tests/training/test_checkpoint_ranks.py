"""Checkpoints of several ranks: each writes and reads what it holds, and any layout goes on from any other's."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import _rank, run_ranks
from parity_work import CONFIG, Forests, parallel_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_toys import options, schedule

from llama3.checkpoints import hf
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.model.shards import local
from llama3.training import parts
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import Trainer
from llama3.training.placed import PlacedModel
from llama3.training.saving import CheckpointSaver
from llama3.training.state import optimizer_tensors
from llama3_plugins.algorithms.next_token import NextToken

LAYOUTS = {
    "1": None,
    "tp2": {"tp": 2},
    "cp2": {"cp": 2},
    "dp2": {"dp": 2},
    "pp2": {"pp": 2},
    "dp3": {"dp": 3},
    "tp2 dp2": {"tp": 2, "dp": 2},
}
WORLDS = {"1": 1, "dp3": 3, "tp2 dp2": 4}


def run(folder: Path, layout: str, work, *arguments) -> list[dict]:
    if layout == "1":
        return [work(None, *arguments)]
    return run_ranks(folder, WORLDS.get(layout, 2), work, LAYOUTS[layout], *arguments)


def trainer(parallelism, folder: Path, *, tied=False, seed=0, total=4) -> Trainer:
    config = replace(CONFIG, tied=tied)
    section = options(lr=1e-3, warmup=1, microbatch_tokens=48, checkpoint_every=3)
    return Trainer(
        PlacedModel.drawn(config, seed, parallel_of(parallelism, config)),
        NextToken(),
        Forests("next_token"),
        options=section,
        schedule=schedule(section, total),
        seed=5,
        collate=Batch.concat,
        store=CheckpointStore(folder),
        snapshots=frozenset({2, 4}),
    )


def state(made: Trainer) -> dict:
    """Every tensor of a training run, whole."""
    moments = optimizer_tensors(made.module, made.optimizer)
    groups = {"model": dict(made.module.named_parameters()), "optimizer": moments, "average": made.average.sums}
    return {
        f"{group}: {name}": tensor.detach().clone()
        for group, tensors in groups.items()
        for name, tensor in made.model.gathered(tensors)
    }


def saved(parallelism, folder: Path, tied: bool) -> dict:
    """Three steps, and what is then saved."""
    made = trainer(parallelism, folder, tied=tied)
    for _ in range(3):
        made.step(made.progress.step)
    made.save_if_due(stopping=True)
    return state(made)


def resumed(parallelism, folder: Path, tied: bool) -> dict:
    """What a run that begins with other weights goes on with."""
    made = trainer(parallelism, folder, tied=tied, seed=9)
    made.restore()
    assert made.progress.step == 3
    return state(made)


def rows(folder: Path) -> list[tuple]:
    index = json.loads((folder / "step-3" / "index.json").read_text())
    return [
        (group, name, entry, part)
        for group, tensors in index.items()
        for name, entry in tensors.items()
        for part in entry["parts"]
    ]


@pytest.mark.parametrize(
    ("before", "tied", "after"),
    [
        ("tp2 dp2", False, ["1", "pp2", "dp2"]),
        ("pp2", True, ["1", "tp2"]),
        ("1", False, ["tp2 dp2"]),
        ("cp2", False, ["1"]),
    ],
)
def test_any_layout_goes_on_from_any_other(tmp_path, before, tied, after):
    store = tmp_path / "store"
    expected = run(tmp_path / "before", before, saved, store, tied)[0]
    assert {name.partition(":")[0] for name in expected} == {"model", "optimizer", "average"}
    for layout in after:
        for found in run(tmp_path / layout, layout, resumed, store, tied):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # Every number is written once, and every rank has written.
    count = sum(torch.Size(part[2]).numel() for *_, part in rows(store))
    assert count == sum(tensor.numel() for tensor in expected.values())
    writers = {part[0].split("-")[1] for *_, part in rows(store)}
    assert writers == {f"{rank:05d}" for rank in range(WORLDS.get(before, 2))}


def test_replicas_share_the_writing(tmp_path):
    run(tmp_path / "before", "cp2", saved, tmp_path / "store", False)
    load = {"00000": 0, "00001": 0}
    for *_, part in rows(tmp_path / "store"):
        load[part[0].split("-")[1]] += torch.Size(part[2]).numel()
    assert min(load.values()) > 0.8 * max(load.values())


class Counting:
    """safetensors' files, and the bytes that were asked of them."""

    def __init__(self) -> None:
        self.bytes = 0

    def open(self, *arguments, **named):
        return _File(self, safe_open(*arguments, **named))


class _File:
    def __init__(self, counting, file):
        self.counting, self.file = counting, file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.__exit__(*_)

    def keys(self):
        return self.file.keys()

    def get_tensor(self, name):
        return self.counted(self.file.get_tensor(name))

    def get_slice(self, name):
        return _Slice(self, self.file.get_slice(name))

    def counted(self, tensor):
        self.counting.bytes += tensor.nbytes
        return tensor


class _Slice:
    def __init__(self, file, piece):
        self.file, self.piece = file, piece
        self.get_shape, self.get_dtype = piece.get_shape, piece.get_dtype

    def __getitem__(self, part):
        return self.file.counted(self.piece[part])


def read_in_parts(parallelism, checkpoint: Path, store: Path) -> dict:
    """Bytes that a rank reads of a released model and of a training run, and bytes that it holds of them."""
    counting = Counting()
    hf.safe_open = parts.safe_open = counting.open
    parallel = parallel_of(parallelism)
    model = PlacedModel.loaded(checkpoint, parallel)
    found = {"model": counting.bytes, "holds": sum(local(x).nbytes for x in model.module.parameters())}
    counting.bytes = 0
    made = trainer(parallelism, store)
    made.restore()
    whole = {name: x.clone() for name, x in model.gathered(dict(model.module.named_parameters()))}
    return {**found, "run": counting.bytes, "weights": whole}


@pytest.mark.parametrize(("layout", "share"), [("tp2 dp2", 0.27), ("dp3", 0.36)])
def test_a_rank_reads_what_it_holds(tmp_path, layout, share):
    """In `dp3` the cuts go through the heads, so that a part has rows of several tensors."""
    alone = PlacedModel.drawn(CONFIG, 0, parallel_of(None))
    alone.save(tmp_path / "model")
    run(tmp_path / "before", "tp2", saved, tmp_path / "store", False)
    whole = sum(x.nbytes for x in alone.module.parameters())
    for found in run(tmp_path / "ranks", layout, read_in_parts, tmp_path / "model", tmp_path / "store"):
        assert found["model"] == found["holds"] < share * whole
        assert found["run"] < 4 * share * whole  # weights, two moments, the sum of the average
        torch.testing.assert_close(found["weights"], dict(alone.module.named_parameters()), rtol=0, atol=0)


def refused(parallelism, checkpoint: Path) -> dict:
    try:
        PlacedModel.loaded(checkpoint, parallel_of(parallelism))
    except CheckpointError as error:
        return {"problems": [str(problem) for problem in error.problems]}
    return {"problems": []}


def test_all_ranks_refuse_a_number_that_one_of_them_reads(tmp_path):
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.2.self_attn.v_proj.weight"][-1, -1] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = run(tmp_path / "ranks", "tp2 dp2", refused, tmp_path)
    assert all(one == found[0] for one in found)
    assert len(found[0]["problems"]) == 1
    assert "model.layers.2.self_attn.v_proj.weight" in found[0]["problems"][0]


# -- faults --------------------------------------------------------------------------------------


def loaded(parallelism, folder: Path) -> dict:
    context = parallel_of(parallelism).context
    newest = CheckpointStore(folder).load(context=context)
    older = CheckpointStore(folder).load(1, context)
    return {"step": newest.step, "older": older.step}


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_that_one_rank_finds_is_known_to_all(tmp_path, rank):
    def save(parallelism) -> dict:
        context = parallel_of(parallelism).context
        saver = CheckpointSaver(CheckpointStore(tmp_path / "store"), context)
        for step in (1, 2):
            groups = {"model": {f"w{context.rank}": torch.full((3,), float(step))}}
            saver.save(step, groups, {}, last=True)
        return {}

    run(tmp_path / "save", "dp2", save)
    file = tmp_path / "store" / "step-2" / f"model-{rank:05d}-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert run(tmp_path / "load", "dp2", loaded, tmp_path / "store") == [{"step": 1, "older": 1}] * 2


def limited(parallelism, folder: Path, failures: int) -> dict:
    """Saves of two ranks, the second of which cannot write files of any size for some of them."""
    context = parallel_of(parallelism).context
    told: list[int] = []
    saver = CheckpointSaver(CheckpointStore(folder), context, lambda step, _: told.append(step))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in range(1, 6):
        failing = context.rank == 1 and 2 <= step < 2 + failures
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 if failing else soft, hard))
        groups = {"model": {f"w{context.rank}": torch.full((300,), float(step))}}
        try:
            saver.save(step, groups, {"step": step})
            saver.settle(wait=True)
        except CheckpointError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            return {"told": told, "stopped": step, "error": str(error)}
    return {"told": told, "stopped": 0, "error": ""}


def test_a_full_disk_of_one_rank_is_survived_once_and_stops_all_the_second_time(tmp_path):
    first, second = run(tmp_path / "once", "dp2", limited, tmp_path / "a", 1)
    assert (first["told"], first["stopped"], second["stopped"]) == ([1, 3, 4, 5], 0, 0)
    assert CheckpointStore(tmp_path / "a").steps() == [4, 5]
    first, second = run(tmp_path / "twice", "dp2", limited, tmp_path / "b", 2)
    assert (first["told"], first["stopped"], second["stopped"]) == ([1], 3, 3)
    assert first["error"] == second["error"]
    assert "L3-TRN-016" in first["error"]
    assert "free disk space" in first["error"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["step-1"]
    assert CheckpointStore(tmp_path / "b").load().state == {"step": 1}


def for_ever(parallelism, folder: Path) -> dict:
    context = parallel_of(parallelism).context
    saver = CheckpointSaver(CheckpointStore(folder), context)
    for step in range(1, 10_000):
        groups = {"model": {f"w{context.rank}": torch.full((3000,), float(step))}}
        saver.save(step, groups, {"step": step})
    return {}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_while_all_write_ends_the_others_and_loses_nothing(tmp_path, victim):
    store, fork = CheckpointStore(tmp_path / "store"), multiprocessing.get_context("fork")
    arguments = ({"dp": 2}, tmp_path / "store")
    ranks = [fork.Process(target=_rank, args=(tmp_path, rank, 2, for_ever, arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    while len(store.steps()) < 2:
        time.sleep(0.01)
    time.sleep(random.Random(victim).uniform(0, 0.1))
    ranks[victim].kill()
    for process in ranks:
        process.join(60)
        assert process.exitcode is not None, "it waits for the one that is gone"
    committed = store.steps()
    newest = store.load()
    assert newest.state == {"step": newest.step} == {"step": committed[-1]}
    for rank in range(2):
        assert torch.equal(newest.tensors("model")[f"w{rank}"], torch.full((3000,), float(newest.step)))
