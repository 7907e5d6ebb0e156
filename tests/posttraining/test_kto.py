"""KTO on labelled answers: TRL's loss, with the KL term from mismatched answers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl_oracle import CONFIG, OneRank, hf_model, means, padded, random_span, total

from llama3.errors import DataError
from llama3.model.build import init_weights
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.training.microbatch import count_units
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.kto import KTO, shifted_answers
from llama3_plugins.algorithms.options import KTOOptions
from llama3_plugins.data_kinds.labels import LabelExample, Labels, label_example


def random_labels(seed: int, count: int = 6) -> list[LabelExample]:
    rng = np.random.default_rng(seed)
    prompt = lambda: rng.integers(1, CONFIG.vocab_size, rng.integers(1, 12))
    return [LabelExample(prompt(), random_span(rng), i % 3 > 0) for i in range(count)]


@pytest.fixture(scope="module")
def models() -> tuple[Transformer, Transformer]:
    return tuple(init_weights(Transformer(CONFIG), seed=seed) for seed in (3, 4))


def prepared(kto, models, examples):
    policy, reference = (PlacedModel(model).scorer() for model in models)
    return kto.prepare(Labels().collate(examples), SimpleNamespace(policy=policy, reference=reference, stats=OneRank()))


@pytest.mark.parametrize("swapped", [False, True], ids=["kl at 0", "kl above 0"])
def test_a_whole_step_equals_trl(models, tmp_path, swapped):
    """Log-probs, mismatched log-probs and loss through TRL's functions on transformers models with the same weights."""
    from trl import KTOTrainer
    from trl.trainer.utils import add_fused_lm_head

    models = models[::-1] if swapped else models
    examples = random_labels(2)
    kto = KTO(KTOOptions(beta=0.2, desirable_weight=1.0, undesirable_weight=1.5))
    batch = prepared(kto, models, examples)
    scored = score(models[0], batch, {"logps"})
    loss = total(kto.loss(scored, batch), count_units(batch))

    policy, reference = (hf_model(model, tmp_path / str(i)) for i, model in enumerate(models))
    add_fused_lm_head(policy, outputs=("log_probs", "entropy", "mean_logits"))
    add_fused_lm_head(reference)
    same = lambda x: x
    trainer = SimpleNamespace(
        model=policy, ref_model=reference, precompute_ref_logps=False, calculate_KL=True, loss_type="kto", beta=0.2,
        desirable_weight=1.0, undesirable_weight=1.5, aux_loss_enabled=False, _tp_size=1, _total_train_tokens=0,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=same, gather=same, unwrap_model=same),
    )  # fmt: skip
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    policy.train()
    inputs = padded([(example.prompt, example.answer) for example in examples])
    answers = [example.answer for example in examples]
    moved = padded([(e.prompt, answer) for e, answer in zip(examples, answers[-1:] + answers[:-1], strict=True)])
    inputs |= {f"KL_{name}": moved[name] for name in ("input_ids", "attention_mask", "completion_mask")}
    inputs["label"] = torch.tensor([example.desirable for example in examples])
    del inputs["labels"]
    expected = KTOTrainer._compute_loss(trainer, policy, inputs, return_outputs=False)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    kl = means(kto.metrics(scored, batch), count_units(batch))["kl"]
    assert kl == pytest.approx(trainer._metrics["train"]["kl"][0], abs=1e-4)
    assert (kl > 0) is swapped


def test_each_prompt_meets_the_answer_of_the_one_before(models):
    batch = Labels().collate(random_labels(1, 4))
    tokens = lambda batch, k: batch.tokens_T.split(batch.lengths_S.tolist())[int(k)].tolist()
    moved = shifted_answers(batch)
    for tree in range(4):
        assert tokens(moved, moved.roots_R[tree]) == tokens(batch, batch.roots_R[tree])
        assert tokens(moved, moved.child(0)[tree]) == tokens(batch, batch.child(0)[(tree - 1) % 4])


def test_a_swapped_answer_that_is_too_long_is_cut(models):
    """Every row fits the context, but not each prompt with the answer of another."""
    batch = Labels().collate(random_labels(1, 4))
    roots, answers = batch.lengths_S[batch.roots_R], batch.lengths_S[batch.child(0)]
    context = int((roots + answers).max())
    moved = shifted_answers(batch, context)
    lengths = moved.lengths_S[moved.child(0)]
    assert (roots + lengths <= context).all()
    assert (lengths == torch.minimum(answers.roll(1), context - roots)).all()
    assert (lengths > 0).all()


def test_a_single_answer_has_no_kl(models):
    batch = prepared(KTO(KTOOptions()), models, random_labels(3, 1))
    assert batch.per_tree["kl"].tolist() == [0.0]


def test_good_and_bad_answers_are_pushed_apart(models):
    kto, model = KTO(KTOOptions()), models[0]
    batch = prepared(kto, models, random_labels(4))
    scored = score(model, batch, {"logps"})
    (grad_M,) = torch.autograd.grad(kto.loss(scored, batch)["kto"].sum, scored.logps_M)
    good_M = batch.per_tree["desirable"][batch.tree_M] > 0
    assert (grad_M[good_M] < 0).all()
    assert (grad_M[~good_M] > 0).all()


def test_labels_are_booleans(tokenizer):
    ask = [{"role": "user", "content": "1+1"}]
    assert label_example(tokenizer, ask, "2", True).desirable
    with pytest.raises(DataError, match="the label is 1"):
        label_example(tokenizer, ask, "2", 1)
