"""The stage `pretrain` on real artifacts: a trained tokenizer, its token shards, a run directory."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from llama3 import _core
from llama3.artifacts import Stage, TokenizerArtifact, stage
from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.config.phases import phases_of
from llama3.config.schema import Config
from llama3.data.plan import ShardEntry, SourceEntry, TokenPlan
from llama3.errors import ConfigError, DataError, DoesNotFit, Interrupted
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.tokenizer import Tokenizer
from llama3.training.pretrain import PretrainOptions, TokenDataset, pretrain

SENTENCES = {
    "prose": [f"the {a} cat sat on the {b} mat and slept" for a in ("old", "red", "big") for b in ("wet", "new")] * 8,
    "code": [f"def f{i}(x):\n    return x + {i}\n" for i in range(10)] * 4,
}


@stage(output="tokenizer")
def make_tokenizer(*, out):
    Tokenizer.train([text for texts in SENTENCES.values() for text in texts], 300, num_special=16).save(out.path)


@stage(output="shards")
def make_shards(tokenizer: TokenizerArtifact, *, out):
    tokenizer = Tokenizer.load(tokenizer.path)
    sources = []
    for name, texts in SENTENCES.items():
        path = out.path / f"{name}.tok"
        writer = _core.ShardWriter(str(path), vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash)
        ids, starts_D1 = tokenizer.encode_batch(texts, bos=True, eos=True)
        writer.append(ids, starts_D1, np.arange(len(texts), dtype=np.uint64))
        tokens, documents, root = writer.finish()
        entry = ShardEntry(path=path.name, tokens=tokens, documents=documents, root=root)
        sources.append(SourceEntry(name=name, shards=[entry]))
    TokenPlan(tokenizer=tokenizer.hash, vocab_size=tokenizer.vocab_size, sources=sources).save(out.path)


def config(**pretrain_section):
    section = {
        "steps": 12,
        "batch": 4,
        "seq_len": 64,
        "lr": 1e-2,
        "warmup": 2,
        "precision": "fp32",  # the commands choose once for a run; here each process would measure
        "log_every": 4,
        "checkpoint_every": 5,
        "phases": [{}, {"steps": 4, "schedule": "linear", "final_lr": 0, "average_last": 2, "mix": {"prose": 1.0}}],
    }
    return Config.model_validate(
        {
            "run": {"device": "cpu"},
            "model": {"preset": "tiny", "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 64},
            "pretrain": section | pretrain_section,
            "logging": ["jsonl", "tensorboard"],
        }
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("inputs"))
    tokenizer = run.execute(make_tokenizer, {})
    return {"tokenizer": tokenizer, "shards": run.execute(make_shards, {"tokenizer": tokenizer})}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    """The run and its checkpoint, made without interruption."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    return run, run.execute(pretrain, inputs, PretrainOptions.of(config()))


def test_it_makes_a_checkpoint_that_has_learnt_the_text(made, inputs):
    _, artifact = made
    model, tokenizer = load_model(artifact.path), Tokenizer.load(artifact.path)
    assert tokenizer.hash == Tokenizer.load(inputs["tokenizer"].path).hash
    ids = tokenizer.encode(SENTENCES["prose"][0], bos=True, eos=True)
    with torch.no_grad():
        loss = -score(model, Batch.of_documents(ids)).logps_M.mean().item()
    assert loss < 0.6 * np.log(tokenizer.vocab_size)
    facts = json.loads((artifact.path / "llama3.json").read_text())
    assert (facts["stage"], facts["steps"], facts["tokens"]) == ("pretrain", 16, 16 * 4 * 64)
    assert artifact.manifest.metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert "tokens_per_second" not in artifact.manifest.metrics


def test_loggers_write_into_the_run_directory(made):
    run, _ = made
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("pretrain", step) for step in (4, 8, 12, 16)]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["lr"] == 0.0
    assert rows[-1]["tokens_per_second"] > 0
    assert list((run.path / "tensorboard" / "pretrain").glob("events.out.*"))


def test_interrupted_and_resumed_it_makes_the_same_artifact(made, inputs, tmp_path, monkeypatch):
    def examples(self, step):
        if step == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, step)

    read = TokenDataset.examples
    monkeypatch.setattr(TokenDataset, "examples", examples)
    run = RunDir(tmp_path)
    with pytest.raises(Interrupted, match="stopped after step 14 of 16"):
        run.execute(pretrain, inputs, PretrainOptions.of(config()))
    monkeypatch.undo()
    # What the checkpoint has is not drawn before.
    monkeypatch.setattr("llama3.training.placed.draw_weight", lambda *_: pytest.fail("drawn"))
    resumed = run.execute(pretrain, inputs, PretrainOptions.of(config()))
    assert resumed.hash == made[1].hash


def test_how_it_is_logged_and_shared_does_not_change_what_it_is(made, inputs):
    run, artifact = made
    quiet = Config.model_validate(config().model_dump() | {"logging": [], "parallelism": {"dp": "fsdp"}})
    assert run.execute(pretrain, inputs, PretrainOptions.of(quiet)).hash == artifact.hash
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 4  # nothing was done again


def dataset(inputs, **section) -> TokenDataset:
    phases = phases_of(config(**section).pretrain)
    return TokenDataset(TokenPlan.load(inputs["shards"].path), phases, seed=1)


def test_a_phase_reads_its_own_mix(inputs):
    loader = dataset(inputs).loader
    border = 12 * 4
    sources = [loader.place(row).source for row in range(border + 16)]
    assert set(sources[:border]) == {"prose", "code"}
    assert set(sources[border:]) == {"prose"}


RAMP = [{"steps": 3, "seq_len": 16}, {"steps": 4, "batch": 8, "seq_len": 32}, {"steps": 5, "batch": 2}]
"""Batch and length go up, then down and up."""


def test_steps_of_phases_read_the_rows_one_after_the_other(inputs):
    data, last = dataset(inputs, phases=RAMP), 0
    shapes = []
    for step in range(12):
        rows = data.examples(step)
        assert rows._rows.start == last, "no row is left out"
        last = rows._rows.stop
        shapes.append((len(rows), {batch.num_tokens for batch in rows}))
    assert shapes == [(4, {16})] * 3 + [(8, {32})] * 4 + [(2, {64})] * 5


def test_tokens_come_once_per_pass_through_every_change_of_length(inputs):
    """Brute force over documented rule: none twice, and less than a window of 64 tokens left out per change."""
    long = [{"steps": 40, "seq_len": 16}, {"steps": 30, "seq_len": 64}, {"steps": 50, "seq_len": 32}]
    loader = dataset(inputs, phases=long).loader
    seen: dict[tuple[str, int], list[int]] = {}
    for row in range(120 * 4):
        place, length = loader.place(row), len(loader.rows(row, 1).tokens[0])
        seen.setdefault((place.source, place.epoch), []).extend(
            range(place.window * length, (place.window + 1) * length)
        )
    for source, windows in loader.epoch_rows.items():
        passes = [tokens for (name, _), tokens in seen.items() if name == source]
        assert all(len(set(tokens)) == len(tokens) for tokens in passes)
        assert len(passes) > 2
        assert sum(64 * windows - len(tokens) for tokens in passes[:-1]) < 2 * 64


def test_interrupted_in_any_phase_it_makes_the_same_artifact(inputs, tmp_path, monkeypatch):
    options = PretrainOptions.of(config(phases=RAMP, checkpoint_every=100))
    whole = RunDir(tmp_path / "whole").execute(pretrain, inputs, options)
    assert whole.metrics["tokens"] == 3 * 4 * 16 + 4 * 8 * 32 + 5 * 2 * 64
    run, read = RunDir(tmp_path / "parts"), TokenDataset.examples
    for at in (1, 3, 9):

        def examples(self, step, at=at):
            if step == at:
                os.kill(os.getpid(), signal.SIGINT)
            return read(self, step)

        with monkeypatch.context() as patch:
            patch.setattr(TokenDataset, "examples", examples)
            with pytest.raises(Interrupted, match=f"stopped after step {at + 1} of 12"):
                run.execute(pretrain, inputs, options)
    assert run.execute(pretrain, inputs, options).hash == whole.hash


def test_ranks_share_the_rows_of_a_step(inputs):
    rows = dataset(inputs).examples(3)
    shares = [list(rows[rank::2]) for rank in range(2)]
    whole = list(rows)
    assert [torch.equal(rows[i].tokens_T, whole[i].tokens_T) for i in range(4)] == [True] * 4
    for rank, share in enumerate(shares):
        assert [batch.tokens_T.tolist() for batch in share] == [whole[i].tokens_T.tolist() for i in (rank, rank + 2)]
        assert all(batch.num_targets == batch.num_tokens - batch.num_segments for batch in share)
    assert len(rows[:1]) == 1
    with pytest.raises(IndexError):
        rows[4]


def test_shards_of_another_tokenizer_are_refused(inputs, tmp_path):
    def other(out):
        Tokenizer.train(["quite another text, with other words in it altogether"], 290, num_special=16).save(out.path)

    run = RunDir(tmp_path)
    tokenizer = run.execute(Stage("tokenizer", other, "tokenizer"), {})
    with pytest.raises(DataError, match="L3-TRN-020"):
        run.execute(pretrain, {**inputs, "tokenizer": tokenizer}, PretrainOptions.of(config()))


def test_rows_beyond_the_context_are_refused(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"rows of 2048 tokens for a model made for 1024.*L3-TRN-021"):
        RunDir(tmp_path).execute(pretrain, inputs, PretrainOptions.of(config(seq_len=2048)))


def test_a_source_that_fills_no_row_is_told(inputs, tmp_path, capsys):
    plan = TokenPlan.load(inputs["shards"].path)
    short, long = sorted(plan.sources, key=lambda source: source.tokens)
    assert short.tokens < long.tokens
    options = PretrainOptions.of(config(seq_len=short.tokens + 1, steps=1, batch=1, phases=[{}]))
    run = RunDir(tmp_path)
    for name in ("pretrain", "pretrain-again"):  # another stage, the same warning
        run.execute(pretrain, inputs, options.model_copy(update={"seed": len(name)}), name)
    told = capsys.readouterr().err
    assert told.count(f"source {short.name} has fewer tokens than a row: it is not read") == 1
    assert f"source {long.name}" not in told


def test_a_world_of_another_size_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    two = Config.model_validate(config().model_dump() | {"parallelism": {"dp": {"name": "fsdp", "size": 2}}})
    with pytest.raises(DoesNotFit, match=r"needs 2 processes, this run has 3.*L3-PAR-002"):
        RunDir(tmp_path).execute(pretrain, inputs, PretrainOptions.of(two))
    assert not torch.distributed.is_initialized()
