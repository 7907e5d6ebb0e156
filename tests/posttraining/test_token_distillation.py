"""Token-level distillation: TRL's GKD loss in value and gradient, what lies beyond the k tokens, and whose answers are
learnt.

Legend: M targets, k tokens of the teacher, K = k + 1 outcomes, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from tiny import put, put_checkpoint, tiny_model
from trl_oracle import means, total

from llama3.algorithms import Batch
from llama3.config.schema import OwnAnswersSection, PreferSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import ConfigError, PluginError
from llama3.model.score import score
from llama3.posttraining.finetune import PreferOptions, SFTOptions, prefer, sft
from llama3.tasks.families import tasks
from llama3.tasks.rows import write_rows
from llama3.testing.toys import VOCAB, ToyScorer, ToyServices, toy_examples, toy_model, toy_rollouts
from llama3.tokenizer import Tokenizer
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms.distillation import Distillation, OnlineDistillation
from llama3_plugins.algorithms.options import DistillationOptions, OnlineDistillationOptions
from llama3_plugins.data_kinds.dialogs import Dialogs

DIVERGENCES = [
    ({"divergence": "forward_kl"}, 0),
    ({"divergence": "reverse_kl"}, 1),
    ({"divergence": "jsd"}, 0.5),
    ({"divergence": "jsd", "beta": 0.1}, 0.1),
]


class ToyTeacher(ToyServices):
    def __init__(self, teacher):
        self.teacher = ToyScorer(teacher)


def learnt(student, teacher, options, batch: Batch):
    """The prepared batch, and the loss of one update with its graph."""
    algorithm = Distillation(DistillationOptions(**options))
    batch = algorithm.prepare(batch, ToyTeacher(teacher))
    scored = score(student, batch, {"soft_logps"})
    return algorithm, batch, scored, total(algorithm.loss(scored, batch), count_units(batch))


def dense(model, batch: Batch) -> torch.Tensor:
    """logits_MV of every target."""
    return model.logits(model.hidden(batch))[batch.source_M]


@pytest.mark.parametrize(("options", "beta"), DIVERGENCES, ids=str)
def test_over_the_whole_vocabulary_the_loss_and_gradient_are_trls(options, beta):
    from trl.experimental.gkd import GKDTrainer

    student, teacher, theirs = toy_model(0), toy_model(1), toy_model(0)
    batch = Dialogs().collate(toy_examples("dialogs"))
    *_, loss = learnt(student, teacher, {**options, "k": VOCAB}, batch)
    with torch.no_grad():
        teacher_MV = dense(teacher, batch)
    expected = GKDTrainer.generalized_jsd_loss(
        dense(theirs, batch)[None], teacher_MV[None], labels=batch.target_ids_M[None], beta=beta
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward()
    expected.backward()
    for name, parameter in student.named_parameters():
        if "head" not in name or name == "lm_head.weight":
            torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad, atol=2e-6, rtol=1e-3)


@pytest.mark.parametrize("k", [1, 7, 30])
@pytest.mark.parametrize(("options", "beta"), DIVERGENCES, ids=str)
def test_all_tokens_beyond_the_k_count_as_one(options, beta, k):
    """By hand over K outcomes; and never above the divergence of the whole distributions."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = toy_model(0), toy_model(1)
    algorithm, batch, scored, loss = learnt(
        student, teacher, {**options, "k": k}, Dialogs().collate(toy_examples("dialogs"))
    )
    with torch.no_grad():
        p_MV, q_MV = (dense(model, batch).double().softmax(-1) for model in (teacher, student))
    ids_Mk = p_MV.topk(k).indices
    told = means(algorithm.metrics(scored, batch), count_units(batch))
    p_MK, q_MK = (
        torch.cat([x.gather(1, ids_Mk), 1 - x.gather(1, ids_Mk).sum(1, keepdim=True)], dim=1) for x in (p_MV, q_MV)
    )
    assert told["teacher_tail"] == pytest.approx(p_MK[:, -1].mean().item(), abs=1e-5)
    assert told["student_tail"] == pytest.approx(q_MK[:, -1].mean().item(), abs=1e-5)
    best = q_MV.gather(1, ids_Mk).argmax(1) == 0
    assert told["agreement"] == pytest.approx(best.double().mean().item())
    m_MK = beta * p_MK + (1 - beta) * q_MK
    kl = lambda p, q: (p * (p / q).log()).sum(1)
    weights = {0: (kl(p_MK, q_MK), 0), 1: (0, kl(q_MK, p_MK))}
    left, right = weights.get(beta, (beta * kl(p_MK, m_MK), (1 - beta) * kl(q_MK, m_MK)))
    assert loss.item() == pytest.approx((left + right).mean().item(), abs=1e-5)
    whole = GKDTrainer.generalized_jsd_loss(
        q_MV.log()[None], p_MV.log()[None], labels=batch.target_ids_M[None], beta=beta
    )
    assert loss.item() < whole.item()


def test_a_share_of_the_answers_is_the_students_own():
    """Which ones follows from the seed and the example's number, on any number of ranks; the others stay as given."""
    given = Dialogs().collate(toy_examples("dialogs", count=64)).with_(per_tree={"number": torch.arange(64)})
    rollouts = toy_rollouts(toy_model())
    mixed = rollouts.draw(given, 1, seed=3, own=0.25)
    answers = {int(n): _answer(mixed, tree) for tree, n in enumerate(mixed.per_tree["number"])}
    own = {number for number in range(64) if answers[number] != _answer(given, number)}
    assert set(answers) == set(range(64))
    assert 8 <= len(own) <= 24, f"{len(own)} of 64 are not about a quarter"
    halves = [rollouts.draw(given.select(range(rank, 64, 2)), 1, seed=3, own=0.25) for rank in (0, 1)]
    kept = {int(n) for half in halves for tree, n in enumerate(half.per_tree["number"])
            if _answer(half, tree) == _answer(given, int(n))}  # fmt: skip
    assert kept == set(range(64)) - own
    assert rollouts.draw(given, 1, seed=4, own=0.25).per_tree["number"].tolist() != mixed.per_tree["number"].tolist()


def _answer(batch: Batch, tree: int) -> list[int]:
    alone = batch.select([tree])
    return alone.target_ids_M.tolist()


def test_plans_say_whose_answers_are_learnt():
    assert Distillation(DistillationOptions()).plan.own == 0
    assert Distillation(DistillationOptions(on_policy=0.5)).plan.own == 0.5
    online = OnlineDistillation(OnlineDistillationOptions(samples=3)).plan
    assert (online.own, online.samples) == (1, 3)


def test_an_option_without_effect_is_refused():
    with pytest.raises(ValidationError, match="beta has no effect on forward_kl"):
        DistillationOptions(beta=0.3)


FAST = {"lr": 3e-3, "precision": "fp32", "warmup": 0, "log_every": 1, "batch": 8, "epochs": 2}


@pytest.fixture
def parts(run, tokenizer):
    """A student, a teacher, dialogs and prompts."""
    asked = tasks("train", 24, seed=0)
    dialogs = [
        {"id": t.id, "messages": [{"role": "user", "content": t.prompt}, {"role": "assistant", "content": t.reference}]}
        for t in asked
    ]
    rows = [task.to_json() for task in asked]
    return {
        "student": put_checkpoint(run, tiny_model(tokenizer, dim=32), tokenizer, "student"),
        "teacher": put_checkpoint(run, tiny_model(tokenizer, seed=5), tokenizer, "teacher"),
        "dialogs": put(run, "dialogs", "dialogs", lambda folder: write_rows(folder / "dialogs.jsonl", dialogs)),
        "prompts": put(run, "preferences", "prompts", lambda folder: write_rows(folder / "prompts.jsonl", rows)),
    }


def finetuned(run, parts, key, **options):
    section = SFTSection(
        algorithm=Slot(name="distillation", k=16, **options),
        own_answers=OwnAnswersSection(max_tokens=6, sampling_precision="fp32"),
        **FAST,
    )
    inputs = {"checkpoint": parts["student"], "dialogs": parts["dialogs"], "teacher": parts["teacher"]}
    return run.execute(sft, inputs, SFTOptions(sft=section, seed=1), key=key)


def test_the_stage_sft_learns_given_and_own_answers(run, parts):
    given = finetuned(run, parts, "given")
    assert "completions/mean_length" not in given.metrics, "nothing is drawn where none are the student's own"
    mixed = finetuned(run, parts, "mixed", on_policy=0.5, divergence="jsd")
    assert mixed.metrics["completions/mean_length"] > 0
    assert mixed.hash != given.hash
    for made in (given, mixed):
        assert 0 <= made.metrics["student_tail"] < 1
        assert "reward" not in made.metrics


def test_a_killed_run_draws_the_same_answers_again(run, parts, monkeypatch):
    from llama3.training.placed import ModelScorer

    whole = finetuned(run, parts, "whole", on_policy=0.5)
    top, asked = ModelScorer.top, []

    def dies(self, batch, k):
        asked.append(batch.num_trees)
        if len(asked) == 3:
            raise RuntimeError("killed")
        return top(self, batch, k)

    monkeypatch.setattr(ModelScorer, "top", dies)
    with pytest.raises(PluginError, match="killed"):
        finetuned(run, parts, "resumed", on_policy=0.5)
    assert finetuned(run, parts, "resumed", on_policy=0.5).hash == whole.hash


def test_the_stage_prefer_learns_from_prompts_alone(run, parts):
    section = PreferSection(max_tokens=6, sampling_precision="fp32", **FAST)
    inputs = {"checkpoint": parts["student"], "preferences": parts["prompts"], "teacher": parts["teacher"]}
    slot = Slot(name="online_distillation", divergence="reverse_kl", k=16)
    options = PreferOptions(prefer=section, algorithm=slot, rewards=(), seed=1)
    made = run.execute(prefer, inputs, options, key="prefer")
    assert made.metrics["loss"] > 0
    assert made.metrics["completions/mean_length"] > 0


def test_a_teacher_of_other_tokens_is_refused_and_told_what_to_do(run, parts):
    other = Tokenizer.train([str(n) for n in range(5000)], 300, 16)
    parts["teacher"] = put_checkpoint(run, tiny_model(other), other, "other")
    with pytest.raises(ConfigError, match=r"token by token.*its answers as text.*L3-FIN-003"):
        finetuned(run, parts, "refused")
