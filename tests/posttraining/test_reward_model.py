"""The reward model's loss: TRL's on pairs, averaged per prompt on rankings; and the reward that a trained one gives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import put, put_checkpoint, tiny_model
from trl_oracle import means, span, total

from llama3.checkpoints.load import load_model
from llama3.config.schema import PreferSection, RewardSection
from llama3.config.slot_types import Slot
from llama3.errors import CheckpointError, ConfigError
from llama3.model.score import Scored
from llama3.posttraining.finetune import PreferOptions, RewardOptions, prefer, reward
from llama3.posttraining.reject import RejectOptions, reject
from llama3.posttraining.sampling import build_reward, task_messages
from llama3.tasks.families import tasks
from llama3.tasks.rows import read_rows, write_rows
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms.options import RewardModelOptions
from llama3_plugins.algorithms.reward_model import RewardModel
from llama3_plugins.data_kinds.pairs import PairExample

PROMPT = np.array([7])


def examples(count: int, edited: int = 0) -> list[PairExample]:
    """`count` prompts, the first `edited` of which have a third, edited answer."""
    rng = np.random.default_rng(0)
    answer = lambda: span(int(rng.integers(1, 5)))
    return [PairExample(PROMPT, answer(), answer(), answer() if i < edited else None) for i in range(count)]


def our_loss(score_S, pairs, **options):
    algorithm = RewardModel(RewardModelOptions(**options))
    batch = algorithm.collate(pairs)
    scored = Scored(score_S=score_S)
    counts = count_units(batch)
    return total(algorithm.loss(scored, batch), counts), means(algorithm.metrics(scored, batch), counts)


@pytest.mark.parametrize("centering", [0.0, 0.01])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_pairs_equal_trl_in_value_gradient_and_metrics(margin, centering):
    from trl import RewardTrainer

    score_R3 = torch.randn(
        6, 3, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()  # prompt, chosen, rejected
    loss, metrics = our_loss(score_R3.flatten(), examples(6), margin=margin, centering=centering)
    (grad,) = torch.autograd.grad(loss, score_R3)

    same = lambda x: x
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=centering or None),
        accelerator=SimpleNamespace(gather_for_metrics=same, gather=same),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    logits = torch.cat([score_R3[:, 1], score_R3[:, 2]])[:, None]
    inputs = {"attention_mask": torch.ones(12, 3)} | ({"margin": torch.full((6,), margin)} if margin else {})
    expected = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, score_R3)[0], atol=1e-6, rtol=0)
    for name, value in metrics.items():
        assert value == pytest.approx(trainer._metrics["train"][name][-1], abs=1e-6), name


def test_margins_of_rows_equal_trl():
    from trl import RewardTrainer

    pairs = [replace(pair, margin=margin) for pair, margin in zip(examples(3), (0.0, 1 / 3, 1.0), strict=True)]
    score_R3 = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    loss, _ = our_loss(score_R3.flatten(), pairs)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=None),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"eval": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    logits = torch.cat([score_R3[:, 1], score_R3[:, 2]])[:, None]
    inputs = {"attention_mask": torch.ones(6, 3), "margin": torch.tensor([0.0, 1 / 3, 1.0])}
    expected = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_margin_lies_above_the_last_answer_of_a_ranking():
    score_S = torch.tensor([0.0, 2.0, 1.0, -1.0])
    (triple,) = (replace(pair, margin=0.5) for pair in examples(1, edited=1))
    loss, _ = our_loss(score_S, [triple])
    expected = -F.logsigmoid(torch.tensor([2.0 - 1.0, 2.0 + 1.0 - 0.5, 1.0 + 1.0 - 0.5])).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_ranking_counts_as_one_prompt():
    score_S = torch.tensor([0.0, 2.0, 1.0, -1.0, 0.0, 0.3, 0.7])  # a triple, then a pair; 0 stands for prompts
    loss, metrics = our_loss(score_S, examples(2, edited=1))
    triple = -F.logsigmoid(torch.tensor([2.0 - 1.0, 2.0 + 1.0, 1.0 + 1.0])).mean()
    pair = -F.logsigmoid(torch.tensor(0.3 - 0.7))
    assert loss.item() == pytest.approx(((triple + pair) / 2).item(), abs=1e-6)
    assert metrics["accuracy"] == pytest.approx((3 / 3 + 0 / 1) / 2)
    assert metrics["mean_reward"] == pytest.approx(score_S.sum().item() / 5)


def test_only_end_tokens_are_targets():
    batch = RewardModel(RewardModelOptions()).collate(examples(3, edited=3))
    assert torch.equal(batch.targets_M, batch.starts_S1[1:].long()[batch.parents_S >= 0] - 1)


# -- the stage, and the reward that its checkpoint gives --------------------------------------------------

VERIFIABLE = (Slot(name="verifiable"),)
FAST = {"precision": "fp32", "warmup": 0, "log_every": 1000}


def preference_rows(count: int) -> list[dict]:
    """Right answers against a fixed wrong one; every other row has an edited answer too."""
    rows = []
    for i, task in enumerate(tasks("train", count, seed=1)):
        row = {"id": task.id, "messages": task_messages(task), "chosen": task.reference, "rejected": "no idea"}
        rows.append(row | ({"edited": task.reference + "!"} if i % 2 else {}))
    return rows


@pytest.fixture
def base(run, tokenizer):
    return put_checkpoint(run, tiny_model(tokenizer), tokenizer)


@pytest.fixture
def source(run):
    """Preferences of the three kinds that algorithms learn from."""
    rows = preference_rows(24)

    def write(folder) -> None:
        write_rows(folder / "preferences.jsonl", rows)
        write_rows(folder / "prompts.jsonl", [task.to_json() for task in tasks("train", 6, seed=1)])
        labels = [(row, row["chosen"], True) for row in rows] + [(row, row["rejected"], False) for row in rows]
        names = ("messages", "completion", "label")
        write_rows(
            folder / "labels.jsonl", [dict(zip(names, (row["messages"], *x), strict=True)) for row, *x in labels]
        )

    return put(run, "preferences", "source", write)


def trained(run, base, source, **changes):
    section = RewardSection(**({"lr": 3e-3, "epochs": 6, "batch": 8} | FAST | changes))
    inputs = {"checkpoint": base, "preferences": source}
    return run.execute(reward, inputs, RewardOptions(reward=section, seed=1))


def test_the_stage_makes_a_reward_model_that_later_stages_use(run, tokenizer, base, source):
    model = trained(run, base, source)
    assert model.metrics["accuracy"] > 0.9
    with pytest.raises(ConfigError, match="L3-TRN-031"):
        build_reward(VERIFIABLE, model, device="nowhere")  # it follows the device of the run
    reward = build_reward(VERIFIABLE, model)
    assert list(reward.rewards) == ["verifiable", "reward_model"]
    some = tasks("train", 6, seed=1)
    ask = [task.prompt for task in some for _ in range(2)]
    answers = [answer for task in some for answer in (task.reference, "no idea")]
    examples = [task.to_json() for task in some for _ in range(2)]
    scores = reward.score(ask, answers, examples)
    logits = np.array(scores.parts["reward_model"]).reshape(-1, 2)
    assert (logits[:, 0] > logits[:, 1]).mean() > 0.9
    assert scores.passed == [True, False] * 6, "the verifier decides"
    one_by_one = [build_reward((), model).score([p], [a], [{}]).total[0] for p, a in zip(ask, answers, strict=True)]
    np.testing.assert_allclose(logits.flatten(), one_by_one, atol=1e-5)

    options = PreferOptions(
        prefer=PreferSection(lr=1e-4, batch=3, max_tokens=4, **FAST),
        algorithm=Slot(name="online_dpo", samples=3),
        rewards=VERIFIABLE,
        seed=1,
    )
    inputs = {"checkpoint": base, "preferences": source, "reward": model}
    preferred = run.execute(prefer, inputs, options)
    assert preferred.metrics["steps"] == 2
    assert preferred.metrics["dropped"] < 12, "answers that all fail still differ in the model's score"
    assert load_model(preferred.path).score_head is None


def test_a_reward_model_gates_nothing_but_ranks_what_passed(run, tokenizer, base, source):
    model = trained(run, base, source, epochs=1)
    options = RejectOptions(
        prompts=4, samples=2, temperature=1.0, top_p=1.0, max_tokens=4, rewards=VERIFIABLE, seed=1, demonstrations=2
    )
    dialogs = run.execute(reject, {"checkpoint": base, "reward": model}, options)
    rows = list(read_rows(dialogs.file("samples.jsonl")))
    assert dialogs.metrics["passed"] == 0
    assert len({row["reward"] for row in rows}) > 2


def test_labels_train_with_kto_in_the_same_stage(run, base, source):
    options = PreferOptions(
        prefer=PreferSection(lr=1e-3, batch=16, **FAST), algorithm=Slot(name="kto"), rewards=VERIFIABLE, seed=1
    )
    preferred = run.execute(prefer, {"checkpoint": base, "preferences": source}, options)
    assert preferred.metrics["steps"] == 3
    assert preferred.metrics["kl"] >= 0


def test_checkpoints_without_a_score_head_and_too_long_answers(run, base, source):
    with pytest.raises(CheckpointError, match="is no reward model"):
        build_reward((), base)
    reward = build_reward((), trained(run, base, source, epochs=1))
    scores = reward.score(["7"] * 2, ["7 " * 300, "7"], [{}, {}])
    assert [np.isnan(total) for total in scores.total] == [True, False]
    assert scores.not_scorable == 1
    spoken = [{}, {"context": [{"role": "system", "content": "Be brief."}]}]
    one, other = reward.score(["7"] * 2, ["7"] * 2, spoken).total
    assert one != other, "earlier messages are part of what is scored"


def test_adapters_train_a_reward_model_whose_head_is_whole(run, base, source):
    model = trained(run, base, source, lora={"rank": 4}, epochs=3, lr=1e-2)
    assert model.metrics["accuracy"] > 0.5
    head = load_model(model.path).score_head
    assert head is not None
    assert head.weight.abs().sum() > 0
