"""Text of the pre-training among the dialogs of a finetuning: how much, which, and that it keeps what was known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import put, put_checkpoint, tiny_model

from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.config.schema import Config
from llama3.data.loader import TokenLoader
from llama3.data.plan import TokenPlan
from llama3.data.shard_writer import ShardWriter
from llama3.errors import ConfigError
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.posttraining.finetune import SFTOptions, sft
from llama3.posttraining.replay import LONGEST, with_replay
from llama3.preflight import load_config
from llama3.tasks.data_kind import data_kind
from llama3.tasks.families import tasks
from llama3.tasks.rows import read_rows, write_rows
from llama3.tokenizer import Tokenizer
from llama3.training.pretrain import PretrainOptions, pretrain

WORDS = "the of and ship sea wind harbour captain letter morning island rope lantern storm".split()  # noqa: SIM905


def texts(seed: int, count: int) -> list[str]:
    """Sentences in which a word says what the next one is: there is something to know."""
    rng = np.random.default_rng(seed)
    return [" ".join(WORDS[(start + 3 * i) % len(WORDS)] for i in range(60)) for start in rng.integers(0, 14, count)]


def section(**changes: object) -> dict:
    train = {"microbatch_tokens": 2048, "precision": "fp32", "warmup": 2, "log_every": 1000}
    return {
        "run": {"device": "cpu", "threads": 1},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64,
                  "max_seq_len": 128},
        "pretrain": {"steps": 60, "batch": 8, "seq_len": 64, "lr": 1e-2, **train},
        "post_training": {"sft": {"epochs": 2, "batch": 16, "lr": 1e-2, **train, **changes}},
        "logging": [],
    }  # fmt: skip


def write_shards(out, tokenizer: Tokenizer) -> None:
    with ShardWriter(out, tokenizer) as writer:
        writer.add(texts(0, 200), source="tales")


@pytest.fixture(scope="module")
def raised(tmp_path_factory) -> tuple[RunDir, dict]:
    """A run with a base model that knows a text, and dialogs that have nothing to do with it."""
    run = RunDir(tmp_path_factory.mktemp("replay"))
    shown = tasks("train", 300, seed=0)
    vocabulary = Tokenizer.train([*texts(0, 40), *(f"{task.prompt}\n{task.reference}" for task in shown)], 400, 16)
    tokenizer = put(run, "tokenizer", "tokenizer", vocabulary.save)
    shards = put(run, "shards", "shard", lambda out: write_shards(out, vocabulary))
    inputs = {"shards": shards, "tokenizer": tokenizer}
    base = run.execute(pretrain, inputs, PretrainOptions.of(Config.model_validate(section())), key="pretrain")
    rows = [
        {"id": task.id, "source": "demonstration", "messages": [
            {"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.reference}]}
        for task in shown
    ]  # fmt: skip
    dialogs = put(run, "dialogs", "dialogs", lambda out: write_rows(out / "dialogs.jsonl", rows))
    return run, {"checkpoint": base, "dialogs": dialogs}


def nats(folder) -> float:
    """Of every token of text that was never trained on."""
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    ids = [tokenizer.encode(text, bos=True) for text in texts(99, 6)]
    with torch.no_grad():
        starts = np.cumsum([0, *map(len, ids[:-1])])
        return -score(model, Batch.of_documents(np.concatenate(ids), starts)).logps_M.mean().item()


def test_about_so_much_of_what_is_learnt_is_text_of_the_shards(raised) -> None:
    run, inputs = raised
    base = inputs["checkpoint"]
    tokenizer = Tokenizer.load(base.path)
    examples = data_kind("dialogs").examples(tokenizer, list(read_rows(inputs["dialogs"].file("dialogs.jsonl"))))
    targets = sum(len(example.answer.ids) for example in examples)
    for share in (0.2, 0.5, 0.8):
        found = with_replay(examples, share, base.path, context=64, seed=3)
        text = found[len(examples) :]
        assert found[: len(examples)] == examples
        learnt = sum(len(piece.answer.ids) for piece in text)
        assert abs(learnt / (learnt + targets) - share) < 0.05
        assert all(len(piece.prompt) == 1 and piece.num_tokens <= 64 for piece in text)
    rows = TokenLoader(TokenPlan.load(run.path), seq_len=64, seed=3).rows(0, 2)
    first = np.concatenate([ids for piece in text[:8] for ids in (piece.prompt, piece.answer.ids)])
    assert first[:128].tolist() == rows.tokens.reshape(-1).tolist()
    assert with_replay(examples, 0.5, base.path, context=10**6, seed=3)[-1].num_tokens <= LONGEST
    other = with_replay(examples, 0.8, base.path, context=64, seed=4)[len(examples)]
    assert other.answer.ids.tolist() != text[0].answer.ids.tolist()


def test_a_model_keeps_what_it_knew_of_the_text(raised) -> None:
    run, inputs = raised
    before = nats(inputs["checkpoint"].path)
    after = {}
    for replay in (0.0, 0.5):
        options = SFTOptions.of(Config.model_validate(section(replay=replay)))
        after[replay] = nats(run.execute(sft, inputs, options, key=f"sft-{replay}").path)
    assert after[0.0] > 2 * before, "finetuned on the dialogs alone it forgets"
    assert after[0.5] < 1.2 * before


def test_a_model_from_elsewhere_has_no_text_that_is_known(raised, tmp_path) -> None:
    _, inputs = raised
    with RunDir(tmp_path / "run") as elsewhere:
        tokenizer = Tokenizer.load(inputs["checkpoint"].path)
        stranger = put_checkpoint(elsewhere, tiny_model(tokenizer), tokenizer)
        options = SFTOptions.of(Config.model_validate(section(replay=0.5)))
        with pytest.raises(ConfigError, match="L3-FIN-005"):
            elsewhere.execute(sft, inputs | {"checkpoint": stranger}, options)


def test_a_config_that_cannot_replay_is_refused(raised) -> None:
    _, inputs = raised
    replay = "post_training.sft.replay=0.5"
    load_config("quickstart", [replay])
    with pytest.raises(ConfigError, match=r"L3-CFG-090"):
        load_config("adopt", [replay, f"model.path={inputs['checkpoint'].path}"])
