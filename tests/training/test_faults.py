"""The faults that training must survive, and the tests that say so.

The oracle of all: the final weights are equal to the bit to those of a run that nothing disturbed (the identity of the
artifact stands for all bytes), the ledger has the planned samples, each once, and the process says what happened.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
from faulty_stage import account, at_step, causes, forked, made, once_saved, train
from test_pretrain import config, inputs, make_shards, make_tokenizer  # noqa: F401
from typer.testing import CliRunner

from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.cli.app import app
from llama3.cli.restarts import PATIENCE, supervise
from llama3.errors import CheckpointError, LlamaError
from llama3.training import ledger, loop
from llama3.training.checkpoint import CheckpointStore
from llama3.training.effective_time import summary
from llama3.training.parallel import ParallelContext
from llama3.training.pretrain import PretrainOptions, TokenDataset, pretrain
from llama3.training.saving import CheckpointSaver
from llama3.training.watchdog import HANG_EXIT

TESTS = Path(__file__).parents[1]

FAULTS = {
    "T1 killed at any moment": (
        "training/test_faults.py::test_killed_at_random_moments",
        "test_recipe.py::test_killed_at_random_moments_it_ends_with_the_same_hashes",
    ),
    "T2 killed at every operation of a save": (
        "training/test_checkpoint_store.py::test_killed_at_any_moment_of_a_save_a_good_checkpoint_is_there",
        "artifacts/test_crash.py::test_kills_at_system_calls_end_in_the_same_hashes",
    ),
    "T3 power loss": (
        "training/test_checkpoint_store.py::test_uncommitted_directories_are_never_loaded_and_never_counted",
    ),
    "T4 a failing disk": ("training/test_checkpoint_store.py::test_a_failed_save_says_so_and_loses_nothing",),
    "T5 a full disk": (
        "training/test_checkpoint_store.py::test_a_failed_save_says_so_and_loses_nothing",
        "artifacts/test_crash.py::test_a_full_disk_is_said_and_leaves_nothing_half_made",
    ),
    "T6 bit rot in a checkpoint": (
        "training/test_checkpoint_store.py::test_every_flipped_bit_is_found",
        "training/test_checkpoint_store.py::test_damage_falls_back_to_the_older_one",
    ),
    "T7 unfinished checkpoints": (
        "training/test_checkpoint_store.py::test_uncommitted_directories_are_never_loaded_and_never_counted",
    ),
    "T8 saves that overlap": ("training/test_checkpoint_store.py::test_purge_keeps_two_that_verify",),
    "T9 a crash during recovery, a crash loop": (
        "training/test_faults.py::test_killed_again_and_again_while_it_recovers",
        "training/test_faults.py::test_a_run_that_does_not_get_on_is_given_up",
    ),
    "T10 a hang": (
        "training/test_faults.py::test_a_wait_that_never_ends",
        "training/test_faults.py::test_a_thread_that_keeps_the_interpreter",
        "training/test_rank_faults.py::test_a_frozen_rank_is_named_by_the_others",
        "training/test_rank_faults.py::test_a_rank_that_does_not_come_to_a_collective_is_named",
    ),
    "T11 a crash, no memory": (
        "training/test_faults.py::test_a_process_that_falls",
        "training/test_faults.py::test_no_memory",
        "test_restarts.py::test_a_run_that_crashes_and_hangs_goes_on_by_itself",
    ),
    "T12 another number of processes": (
        "training/test_training_processes.py::test_a_run_goes_on_with_another_number_of_processes",
        "training/test_rank_faults.py::test_every_layout_reads_the_same_samples",
    ),
    "T13 numbers that are none, a loss spike": (
        "training/test_training_loop.py::test_an_update_that_is_not_finite_is_left_out_and_counted",
        "training/test_training_loop.py::test_training_stops_when_nothing_is_finite_any_more",
        "training/test_loss_spikes.py::test_a_spike_goes_back_and_leaves_out_its_data_by_name",
    ),
    "T14 silent corruption": (
        "training/test_faults.py::test_a_flipped_bit_in_memory_goes_back_to_a_checkpoint",
        "training/test_rank_faults.py::test_a_rank_that_computed_otherwise_is_named",
    ),
    "T15 a clock that jumps": ("training/test_faults.py::test_a_clock_that_jumps",),
    "T16 signals": (
        "training/test_training_loop.py::test_a_signal_saves_the_step_and_stops",
        "training/test_training_loop.py::test_a_second_signal_stops_at_once",
        "training/test_faults.py::test_a_signal_during_a_save",
        "test_recipe.py::test_ctrl_c_keeps_what_is_finished",
    ),
    "T17 a corrupt shard": (
        "training/test_faults.py::test_a_shard_that_rots_is_set_aside_and_made_again",
        "data/test_loader.py::test_a_flipped_bit_anywhere_is_an_error_that_names_the_shard",
    ),
    "T18 two trainers": (
        "test_recipe.py::test_two_runs_in_one_directory_are_refused",
        "artifacts/test_crash.py::test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way",
    ),
    "T19 another config, tokenizer, plugin": (
        "training/test_checkpoint_store.py::test_another_runs_checkpoint_is_refused_with_every_difference",
        "training/test_pretrain.py::test_shards_of_another_tokenizer_are_refused",
        "artifacts/test_run.py::test_a_plugin_of_another_version_makes_a_new_artifact",
    ),
    "T20 a hostile checkpoint": (
        "training/test_checkpoint_store.py::test_hostile_manifest_is_refused",
        "training/test_faults.py::test_a_hostile_shard_of_a_checkpoint",
        "test_forbidden_calls.py::test_nothing_that_is_read_is_run",
    ),
    "T21 a slow rank": ("training/test_rank_faults.py::test_a_slow_rank_is_ranked_first",),
}


@cache
def names_in(file):
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def test_every_fault_is_here():
    assert [fault.split()[0] for fault in FAULTS] == [f"T{number}" for number in range(1, 22)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_tests(fault):
    assert FAULTS[fault]
    for test in FAULTS[fault]:
        file, _, name = test.partition("::")
        assert name in names_in(file), test


# -- one process -----------------------------------------------------------------------------------


def options(*, hang=0.0, hash_every=0, **section):
    given = config(checkpoint_every=3, **section).model_dump()
    given |= {"logging": ["jsonl"], "reliability": {"hang_seconds": hang, "hash_every": hash_every}}
    return PretrainOptions.of(type(config()).model_validate(given))


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):  # noqa: F811
    """A run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole")
    assert train(run, inputs, options()) == 0
    return run


def assert_same(run, whole):
    """The same bytes, of the same samples, each once."""
    assert made(run) == made(whole)
    found, expected = account(run), account(whole)
    assert found.done
    assert found.problems() == expected.problems() == []
    assert found.content == expected.content
    assert len(found.content) == 16


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 13))]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_moments(inputs, whole, tmp_path, seed):  # noqa: F811
    moments = random.Random(seed)
    length = account(whole).elapsed
    codes = [train(tmp_path, inputs, options(), kill_after=moments.uniform(0.05, 1.5 * length)) for _ in range(4)]
    assert {-signal.SIGKILL, 0} >= set(codes)
    assert train(tmp_path, inputs, options()) == 0
    assert_same(tmp_path, whole)


def test_killed_again_and_again_while_it_recovers(inputs, whole, tmp_path):  # noqa: F811
    killed = once_saved(tmp_path, 6, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert train(tmp_path, inputs, options(), at_step(8, killed)) < 0

    def while_loading():
        CheckpointStore.verify = lambda self, *given: os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(5):
        assert train(tmp_path, inputs, options(), while_loading) == -signal.SIGKILL
    assert train(tmp_path, inputs, options()) == 0
    assert_same(tmp_path, whole)
    assert causes(tmp_path) == ["no witness"] * 6
    assert [hit.lost_steps for hit in account(tmp_path).interruptions] == [0] * 5 + [2]


@dataclass
class Supervised:
    """What a supervisor and its children printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def supervised(run, restarts, work, frozen=0.0):
    """A supervisor, a fork of this process, whose children do `work`."""
    (run / "reliability").mkdir(parents=True, exist_ok=True)
    files = [run / "stdout", run / "stderr"]

    def supervisor():
        for number, file in enumerate(files, start=1):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        try:
            code = supervise(run, restarts, frozen)
            if code is None:
                code = ends_with(work)
        except LlamaError as error:
            print(error, file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    code = forked(supervisor)
    return Supervised(code, *(file.read_text() for file in files))


def ends_with(work):
    """The exit code of `work`."""
    try:
        work()
    except SystemExit as end:
        return end.code
    return 0


def test_a_run_that_does_not_get_on_is_given_up(tmp_path):
    done = supervised(tmp_path, 20, os.abort)
    assert done.returncode == 1
    assert re.search(rf"{PATIENCE} ends without progress.*crash.*L3-RUN-021", done.stderr), done.stderr
    exits = [row for row in ledger.rows_of_rank(tmp_path) if row["kind"] == "exit"]
    assert [row["cause"] for row in exits] == ["crash"] * PATIENCE
    assert {row["what"] for row in exits} == {"SIGABRT"}


@pytest.mark.parametrize("code", [0, 5, 130])
def test_an_end_that_a_restart_would_repeat_is_final(tmp_path, code):
    done = supervised(tmp_path, 20, lambda: (print("told"), sys.exit(code)))
    assert (done.returncode, done.stdout) == (code, "told\n")
    assert not [row for row in ledger.rows_of_rank(tmp_path) if row["kind"] == "exit"]


def test_restarts_go_on_while_the_run_does(tmp_path):
    def in_(run):
        def work():
            path = run / "reliability" / "ledger.jsonl"
            done = path.read_text().count("resumed") if path.exists() else 0
            with path.open("a") as rows:
                rows.write(json.dumps({"kind": "resumed", "artifact": "a", "step": done, "clock": 0}) + "\n")
            print(done)
            sys.exit(0 if done == 6 else 1)

        return work

    done = supervised(tmp_path / "all", 6, in_(tmp_path / "all"))
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
    done = supervised(tmp_path / "some", 4, in_(tmp_path / "some"))
    assert re.search(r"gave up after 4 restarts.*L3-RUN-022", done.stderr), done.stderr
    assert done.stdout == ""


def test_a_child_that_somebody_stops_is_started_again(tmp_path):
    def work():
        if not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            sys.exit(9)
        print("went on")

    done = supervised(tmp_path, 2, work, frozen=0.5)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "hang (SIGKILL); starting again, 1 of 2 restarts left" in done.stderr
    assert [row["cause"] for row in ledger.rows_of_rank(tmp_path) if row["kind"] == "exit"] == ["hang"]


def test_a_child_that_is_continued_in_time_goes_on(tmp_path):
    def work():
        if os.fork() == 0:
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)
        print("went on")

    done = supervised(tmp_path, 2, work, frozen=30.0)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert "starting again" not in done.stderr


def test_a_wait_that_never_ends(inputs, whole, tmp_path):  # noqa: F811
    """A worker that died, a lock that nobody opens: Python's threads run, and one of them sees it."""
    hang = at_step(8, lambda: threading.Event().wait())
    assert train(tmp_path, inputs, options(hang=2.0), hang) == HANG_EXIT
    stacks = (tmp_path / "reliability" / "stacks-0.txt").read_text()
    assert "step 9 took over" in stacks
    assert "in examples" in stacks
    assert train(tmp_path, inputs, options(hang=30)) == 0
    assert_same(tmp_path, whole)
    assert causes(tmp_path) == ["hang"]
    (kept,) = (tmp_path / "reliability").glob("stacks-0-*.txt")
    assert kept.read_text() == stacks


def test_a_thread_that_keeps_the_interpreter(inputs, whole, tmp_path):  # noqa: F811
    """No Python thread runs any more: the watchdog that needs none does."""

    def keep():
        time.sleep(1)  # the steps were quick: the watchdog has not looked yet
        re.match(r"(a+)+$", "a" * 60 + "b")

    stuck = at_step(8, keep)
    assert train(tmp_path, inputs, options(hang=2.0), stuck) == 1
    assert "in match" in (tmp_path / "reliability" / "stacks-0.txt").read_text()
    assert train(tmp_path, inputs, options(hang=30)) == 0
    assert_same(tmp_path, whole)
    assert causes(tmp_path) == ["hang"]


FALLS = {
    "segfault": (lambda: ctypes.string_at(1), -signal.SIGSEGV),
    "exit": (lambda: os._exit(3), 3),
    "abort": (os.abort, -signal.SIGABRT),
}


@pytest.mark.parametrize("fall", FALLS)
def test_a_process_that_falls(inputs, whole, tmp_path, fall):  # noqa: F811
    fault, code = FALLS[fall]
    assert train(tmp_path, inputs, options(), at_step(7, fault)) == code
    assert train(tmp_path, inputs, options()) == 0
    assert_same(tmp_path, whole)


def test_no_memory(inputs, whole, tmp_path):  # noqa: F811
    def starve():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), -1))
        bytearray(1 << 30)

    assert train(tmp_path, inputs, options(), at_step(7, starve)) == 1
    assert train(tmp_path, inputs, options()) == 0
    assert_same(tmp_path, whole)
    assert causes(tmp_path) == ["out of memory"]


def flip(module):
    """Flip one bit of the first weight, as a particle would."""
    with torch.no_grad():
        next(module.parameters()).view(torch.int32).view(-1)[0] ^= 1 << 20


def test_a_flipped_bit_in_memory_goes_back_to_a_checkpoint(inputs, whole, tmp_path):  # noqa: F811
    def install():
        step, flipped = loop.Trainer.step, []

        def with_flip(self, data):
            if data == 8 and not flipped:
                flipped.append(True)
                flip(self.module)
            return step(self, data)

        loop.Trainer.step = with_flip

    assert train(tmp_path, inputs, options(hash_every=1), install) == 0
    assert_same(tmp_path, whole)
    (hit,) = account(tmp_path).interruptions
    assert (hit.cause, hit.lost_steps, hit.about.category) == ("bit flip", 2, "Silent Data Corruption")
    assert "rank 0" in hit.what


def test_without_a_comparison_the_flip_would_stay(inputs, whole, tmp_path):  # noqa: F811
    def install():
        step = loop.Trainer.step
        loop.Trainer.step = lambda self, data: (flip(self.module) if data == 8 else None, step(self, data))[1]

    assert train(tmp_path, inputs, options(), install) == 0
    assert made(tmp_path) != made(whole)


def test_a_clock_that_jumps(inputs, whole, tmp_path):  # noqa: F811
    """Back and forth by days: neither durations nor the order of checkpoints are told by it."""
    jumps = random.Random(3)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=jumps.uniform(-900, 900))

    def jump():
        ledger.datetime = Jumping
        time.time = lambda: jumps.uniform(0, 2e9)

    def then_die():
        jump()
        at_step(8, lambda: os._exit(9))()

    assert train(tmp_path, inputs, options(), then_die) == 9
    for age, path in enumerate(sorted(tmp_path.glob("scratch/*/checkpoints/step-*"))):
        os.utime(path, (1e9 * age, 1e9 * age))
    assert train(tmp_path, inputs, options(), jump) == 0
    assert_same(tmp_path, whole)
    assert 0 < account(tmp_path).useful <= account(tmp_path).elapsed < 3600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_save(inputs, whole, tmp_path, number):  # noqa: F811
    def install():
        save = CheckpointSaver.save

        def signalled(self, step, *given, **options):
            if step == 6:
                os.kill(os.getpid(), number)
            return save(self, step, *given, **options)

        CheckpointSaver.save = signalled

    assert train(tmp_path, inputs, options(), install) == 130
    (folder,) = tmp_path.glob("scratch/*/checkpoints")
    assert CheckpointStore(folder).steps()[-1] >= 6
    assert train(tmp_path, inputs, options()) == 0
    assert_same(tmp_path, whole)
    (hit,) = account(tmp_path).interruptions
    assert (hit.cause, hit.about.planned, hit.lost_steps) == ("stopped", True, 0)


def test_a_shard_that_rots_is_set_aside_and_made_again(inputs, whole, tmp_path):  # noqa: F811
    """Between the check of its artifact and the first read of a block. The run that reads it ends by name; the next one
    makes the shard again and goes on at the same step."""

    def story(fault):
        def work():
            fault()
            with RunDir(tmp_path, Display.silent()) as run:
                tokenizer = run.execute(make_tokenizer, {})
                shards = run.execute(make_shards, {"tokenizer": tokenizer})
                run.execute(pretrain, {"tokenizer": tokenizer, "shards": shards}, options())

        return forked(work)

    def rot():
        opened = TokenDataset.__init__

        def rotten(self, *given, **options):
            path = next(tmp_path.glob("artifacts/make_shards-*/prose.tok"))
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 4
            path.chmod(0o644)
            path.write_bytes(content)
            opened(self, *given, **options)

        TokenDataset.__init__ = rotten

    assert story(at_step(8, once_saved(tmp_path, 6, lambda: os._exit(9)))) == 9
    assert story(rot) == 1
    assert story(lambda: None) == 0
    failed = [row for row in RunDir(tmp_path).rows("events") if row["kind"] == "stage_failed"]
    assert "L3-DAT-203" in failed[-1]["what"]
    assert "prose.tok" in failed[-1]["what"]
    (hit,) = account(tmp_path).interruptions
    assert hit.lost_steps == 2
    assert_same(tmp_path, whole)
    assert list((tmp_path / "damaged").iterdir()), "the damaged one is kept aside"


@pytest.mark.parametrize("content", [
    b"\xff" * 64,
    (100_000_001).to_bytes(8, "little") + b"{" + b" " * 64,
    (2).to_bytes(8, "little") + b"{}",
    b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
], ids=["noise", "long header", "empty", "pickle"])  # fmt: skip
def test_a_hostile_shard_of_a_checkpoint(tmp_path, content):
    """Whoever can write the shard can write its hash too: what is in it is then still an error of ours."""
    store = CheckpointStore(tmp_path)
    saver = CheckpointSaver(store, ParallelContext(torch.device("cpu")))
    saver.save(3, {"model": {"w": torch.zeros(3)}}, {"step": 3}, last=True)
    path = tmp_path / "step-3"
    from llama3._core import blake3_bytes

    shard = next(path.glob("model-*.safetensors"))
    shard.write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["name"] == shard.name:
            entry |= {"bytes": len(content), "blake3": blake3_bytes(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "COMMIT").write_text(blake3_bytes((path / "manifest.json").read_bytes()) + "\n")
    with pytest.raises(CheckpointError, match=rf"{shard.name}: .*L3-TRN-042"):
        store.load().tensors("model")["w"]


# -- what the user sees ------------------------------------------------------------------------------


def test_the_command_tells_what_was_lost(inputs, whole, tmp_path):  # noqa: F811
    assert train(tmp_path, inputs, options(), at_step(8, once_saved(tmp_path, 6, lambda: os._exit(9)))) == 9
    ledger.RunLedger(tmp_path / ledger.FOLDER).write("exit", code=9, cause="failed", what="exit code 9")
    assert train(tmp_path, inputs, options()) == 0
    told = CliRunner().invoke(app, ["ledger", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "as planned, each once" in told.output
    assert re.search(r"^failed +Software Bug +1 +100.0% +2.0", told.output, re.M), told.output
    data = json.loads(CliRunner().invoke(app, ["ledger", str(tmp_path), "--json"]).output)
    assert data["interruptions"][0]["step"] == 8
    assert 0 < data["effective_training_time"] < 1
    assert data["effective_training_time"] == summary(tmp_path)["effective_training_time"]


def test_samples_that_are_not_the_planned_ones_are_an_error(inputs, whole, tmp_path):  # noqa: F811
    """A dataset that forgets where it was after a restart: the fault that the ledger is there to find."""

    def written_at_once():
        ledger.EVERY_SECONDS = 0
        at_step(8, once_saved(tmp_path, 6, lambda: os._exit(9)))()

    assert train(tmp_path, inputs, options(), written_at_once) == 9

    def other_order():
        read = TokenDataset.examples
        TokenDataset.examples = lambda self, step: read(self, step - 6)

    assert train(tmp_path, inputs, options(), other_order) == 0
    told = CliRunner().invoke(app, ["ledger", str(tmp_path)])
    assert told.exit_code == 1
    assert "step 7 had other samples when it was done again" in told.output
