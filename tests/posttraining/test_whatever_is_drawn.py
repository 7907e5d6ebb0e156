"""Whatever prompts leave room for and models answer, no stage ends half way for it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import chatting
import numpy as np
import pytest

from llama3.config.schema import PreferSection
from llama3.errors import DataError
from llama3.evaluation.answers import drawn
from llama3.inference.completion import FinishReason
from llama3.inference.llama import Llama
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.posttraining import preferences, reject
from llama3.posttraining.finetune import Finetuning
from llama3.posttraining.sampling import Sample, Sampled, _best_of_each, with_room
from llama3.tasks import Custom, Task
from llama3.tasks.rewards import Scores
from llama3.tokenizer import Tokenizer
from llama3_plugins.evaluators.options import PassRateOptions
from llama3_plugins.evaluators.pass_rate import PassRate


@pytest.fixture
def out():
    """A stage's output that remembers what was told."""
    told = []
    return SimpleNamespace(
        told=told, event=lambda name, **facts: told.append((name, facts)), display=SimpleNamespace(note=told.append)
    )


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"line {n}: the quick brown fox" for n in range(50)], 300, num_special=16)


def task(prompt):
    return Task(prompt[:9], "f", prompt, "-", Custom("r", {}))


def sample(text, reward, passed, logp=-1.0):
    return Sample(text, reward, logp, FinishReason.STOP, passed)


def test_prompts_without_room_are_left_out_and_told(tokenizer, out):
    tasks = [task("short"), task("a long one " * 40)]
    assert with_room(tasks, tokenizer, 10, 100, out) == tasks[:1]
    assert out.told[0] == ("prompts_without_room", {"prompts": 1, "max_tokens": 10, "context": 100})
    assert "1 prompts leave no room" in out.told[1]
    with pytest.raises(DataError, match="none of 1 prompts"):
        with_room(tasks[1:], tokenizer, 10, 100, out)
    assert with_room([], tokenizer, 10, 100, out) == []


def test_an_algorithm_that_samples_leaves_them_out_too(out):
    job = SimpleNamespace(
        drawing=PreferSection(max_tokens=10), stage="prefer", out=out, config=SimpleNamespace(max_seq_len=50),
    )  # fmt: skip
    examples = [SimpleNamespace(num_tokens=n) for n in (40, 41)]
    assert Finetuning._with_room(job, examples) == examples[:1]
    with pytest.raises(DataError, match="L3-FIN-004"):
        Finetuning._with_room(job, examples[1:])
    job.drawing = None
    assert Finetuning._with_room(job, examples) == examples


def test_an_evaluation_gives_a_long_prompt_what_room_there_is(tokenizer):
    config = ModelConfig(
        dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=tokenizer.vocab_size, max_seq_len=64
    )
    model = Llama(init_weights(Transformer(config), 0), tokenizer)
    subject = SimpleNamespace(model=model, max_tokens=8)
    asked = [[{"role": "user", "content": text}] for text in ("hi", "ab " * 14, "ab " * 100)]
    texts = drawn(subject, asked, max_tokens=None, temperature=0.0, samples=2)
    assert [len(row) for row in texts] == [2, 2, 2]
    assert texts[2] == ["", ""]
    alone = drawn(subject, asked[:1], max_tokens=None, temperature=0.0, samples=2)
    assert texts[0] == alone[0]


def test_a_pass_rate_tells_how_many_prompts_were_never_asked(tokenizer):
    config = ModelConfig(
        dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=32, vocab_size=tokenizer.vocab_size, max_seq_len=64
    )
    model = Llama(init_weights(Transformer(config), 0), tokenizer)
    tasks = [task("hi"), task("ab " * 100)]
    reward = SimpleNamespace(
        tasks=lambda split, count, seed: tasks,
        score=lambda prompts, answers, examples: [float(bool(a)) for a in answers],
    )
    subject = SimpleNamespace(model=model, max_tokens=8, rewards={"r": reward})
    found = PassRate(PassRateOptions()).run(subject, 2, 0)
    assert found.metrics["without_room"] == 1
    assert [row["score"] for row in found.samples][1] == 0.0
    tasks[1] = task("ho")
    assert "without_room" not in PassRate(PassRateOptions()).run(subject, 2, 0).metrics


def test_an_empty_answer_is_not_learnt(tokenizer):
    row = Sampled(task("?"), (sample("", 1.0, True), sample(" \n", 1.0, True), sample("5", 1.0, True, -3.0)))
    assert reject._accepted(row) == "5"
    assert reject._accepted(Sampled(task("?"), (sample("", 1.0, True),))) is None
    dialogs = [reject._dialog(task("?"), answer, "x") for answer in ("", "5", "5 " * 500)]
    assert reject._that_can_be_learnt(dialogs, tokenizer, 100) == ([dialogs[1]], 2)
    with pytest.raises(DataError, match="none of 1 dialogs fits"):
        reject._that_can_be_learnt(dialogs[2:], tokenizer, 100)


def test_pairs_that_a_template_makes_equal_are_left_out(tmp_path):
    trimming = chatting.load(tmp_path, chatting.INSTRUCT)
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": "?"}], "chosen": "5", "rejected": worse}
        for n, worse in enumerate(("6", "5\n", "7 " * 500))
    ]
    assert preferences._that_can_be_learnt("pairs", rows, trimming, 200) == rows[:1]


def test_where_rewards_only_rank_the_best_answer_passes():
    scores = Scores([0.2, 0.5, math.nan, 0.3, 0.3, 1.0, 1.0], {}, [False] * 7)
    assert _best_of_each(scores, [["a", "b", "c"], ["d", "e"], ["f", "g"]]) == [
        False, True, False, False, False, True, True,
    ]  # fmt: skip
    assert np.isnan(scores.total[2])
