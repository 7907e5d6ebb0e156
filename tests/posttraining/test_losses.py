"""SFT and DPO: equal to TRL and transformers, and invariant under everything that must not matter.

Legend: M targets, S segments, R trees.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_oracle import CONFIG, hf_model, means, padded, prepared, random_span, total, trl_trainer

from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.embedding_noise import sequence_lengths
from llama3.model.score import Scored, score
from llama3.model.transformer import Transformer
from llama3.posttraining.examples import AnswerTokens, DialogExample
from llama3.training.microbatch import count_units
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.dpo import DPO
from llama3_plugins.algorithms.options import DPOOptions, SFTOptions
from llama3_plugins.algorithms.sft import SFT
from llama3_plugins.data_kinds.dialogs import Dialogs
from llama3_plugins.data_kinds.pairs import PairExample, Pairs


def loss_of(algorithm, model, batch: Batch) -> torch.Tensor:
    return total(algorithm.loss(score(model, batch, {"logps"}), batch), count_units(batch))


# -- with a model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(CONFIG)
    init_weights(model, seed=3)
    return model


@pytest.fixture(scope="module")
def reference() -> Transformer:
    model = Transformer(CONFIG)
    init_weights(model, seed=4)
    return model


def random_pairs(seed: int, count: int = 5) -> list[PairExample]:
    rng = np.random.default_rng(seed)
    prompt = lambda: rng.integers(1, CONFIG.vocab_size, rng.integers(1, 12))
    return [PairExample(prompt(), random_span(rng), random_span(rng)) for _ in range(count)]


def random_dialogs(seed: int, count: int = 5) -> list[DialogExample]:
    return [DialogExample(pair.prompt, pair.chosen) for pair in random_pairs(seed, count)]


def test_sft_equals_transformers_and_trl(model, tmp_path):
    from trl.trainer.utils import add_fused_lm_head

    examples = random_dialogs(1)
    sft = SFT(SFTOptions())
    loss = loss_of(sft, model, Dialogs().collate(examples)).item()
    inputs = padded([(example.prompt, example.answer) for example in examples])
    del inputs["completion_mask"]
    theirs = hf_model(model, tmp_path)
    assert loss == pytest.approx(theirs(**inputs).loss.item(), abs=1e-5)
    add_fused_lm_head(theirs)
    assert loss == pytest.approx(theirs(**inputs, fused_lm_head=True).loss.item(), abs=1e-5)


def test_dft_weighs_tokens_as_trl_does(model, tmp_path):
    """The statement of TRL's trainer that makes the loss of its fused head's log-probs."""
    import ast
    import inspect
    import textwrap

    from trl import SFTTrainer
    from trl.trainer.utils import add_fused_lm_head

    examples = random_dialogs(2)
    inputs = padded([(example.prompt, example.answer) for example in examples])
    del inputs["completion_mask"]
    theirs = hf_model(model, tmp_path)
    add_fused_lm_head(theirs)
    outputs = theirs(**inputs, fused_lm_head=True)
    source = ast.parse(textwrap.dedent(inspect.getsource(SFTTrainer.compute_loss)))
    weighing = next(
        node for node in ast.walk(source) if isinstance(node, ast.Assign) and "exp().detach()" in ast.unparse(node)
    )
    scope = {"per_token_loss": -outputs.log_probs, "outputs": outputs}
    exec(compile(ast.Module([weighing], []), "<trl>", "exec"), scope)
    expected = scope["per_token_loss"].sum() / outputs.label_mask.sum()
    expected.backward()
    model.zero_grad()
    loss = loss_of(SFT(SFTOptions(loss="dft")), model, Dialogs().collate(examples))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(model.lm_head.weight.grad, theirs.lm_head.weight.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("alpha", [5.0, 40.0])
def test_noise_on_embeddings_is_that_of_transformers(model, tmp_path, alpha, monkeypatch):
    """Of a sequence alone, which has no padding: from the same seed the same loss and gradient, in training only."""
    from transformers.integrations.neftune import activate_neftune

    # So long that all its tokens are computed: the last one, which nothing reads, is left out of short ones.
    ids = np.random.default_rng(11).integers(1, CONFIG.vocab_size, 60)
    example = DialogExample(ids[:10], AnswerTokens(ids[10:], np.zeros(50, bool)))
    inputs = padded([(example.prompt, example.answer)])
    del inputs["completion_mask"]
    theirs = hf_model(model, tmp_path)
    activate_neftune(theirs, alpha)
    batch, sft = Dialogs().collate([example]), SFT(SFTOptions())
    silent = loss_of(sft, model, batch).item()
    monkeypatch.setattr(model, "embedding_noise", alpha)
    assert loss_of(sft, model.eval(), batch).item() == silent
    model.train().zero_grad()
    theirs.train()
    losses = []
    for one in (lambda: loss_of(sft, model, batch), lambda: theirs(**inputs).loss):
        torch.manual_seed(12)
        losses.append(one())
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    assert abs(losses[0].item() - silent) > 1e-3
    torch.testing.assert_close(model.lm_head.weight.grad, theirs.lm_head.weight.grad, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        assert loss_of(sft, model, batch).item() == silent, "a reference has none"
    model.zero_grad()


def test_noise_is_by_the_longest_sequence_that_a_token_stands_in():
    tree = Tree([Segment([1, 2]), Segment([3], 0, True), Segment([4, 5, 6], 0, True), Segment([7], 2, True)])
    forest = Batch.of_trees([tree, Tree([Segment([8, 9])])])
    assert sequence_lengths(forest).tolist() == [6, 6, 3, 6, 6, 6, 6, 2, 2]


def test_a_whole_dpo_step_equals_trl(model, reference, tmp_path):
    """Log-probs, reference and loss through TRL's function on transformers models with the same weights."""
    from trl import DPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    pairs = random_pairs(2)
    dpo = DPO(DPOOptions(nll_reduction="token_mean", mask_format=False))
    batch = prepared(dpo, pairs, PlacedModel(reference).scorer().logps)
    policy, ref = hf_model(model, tmp_path / "policy"), hf_model(reference, tmp_path / "reference")
    add_fused_lm_head(policy, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    add_fused_lm_head(ref)
    trainer = trl_trainer(policy, ref_model=ref, loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.2])
    inputs = padded([(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs])
    del inputs["labels"]
    expected = DPOTrainer._compute_loss(trainer, policy, inputs, return_outputs=False)
    assert loss_of(dpo, model, batch).item() == pytest.approx(expected.item(), abs=1e-5)


def test_loss_is_ln_2_where_policy_and_reference_agree(model):
    dpo = DPO(DPOOptions(nll_weight=0.0))
    batch = prepared(dpo, random_pairs(3), PlacedModel(model).scorer().logps)
    scored = score(model, batch, {"logps"})
    assert total(dpo.loss(scored, batch), count_units(batch)).item() == pytest.approx(math.log(2), abs=1e-6)
    assert means(dpo.metrics(scored, batch), count_units(batch))["rewards/accuracies"] <= 1.0


def test_format_tokens_get_exactly_no_gradient_from_the_preference_term(model, reference):
    dpo = DPO(DPOOptions())
    batch = prepared(dpo, random_pairs(4), PlacedModel(reference).scorer().logps)
    logps_M = PlacedModel(model).scorer().logps(batch).requires_grad_()
    terms = dpo.loss(Scored(logps_M=logps_M), batch)
    (grad_M,) = torch.autograd.grad(terms["sigmoid"].sum, logps_M, retain_graph=True)
    is_format_M = batch.per_target["is_format"]
    assert is_format_M.sum() == batch.num_trees * 2
    assert (grad_M[is_format_M] == 0).all()
    assert (grad_M[~is_format_M] != 0).all()
    (grad_M,) = torch.autograd.grad(terms["nll"].sum, logps_M)
    chosen_M = torch.isin(batch.segment_M, batch.child(0))
    assert (grad_M[chosen_M] < 0).all(), "the NLL term keeps format tokens"
    assert (grad_M[~chosen_M] == 0).all()


def chosen_logps_gained(nll_weight: float) -> float:
    """From a model that knows both answers of each pair, which share all but one token: DPO's textbook failure."""
    model = Transformer(CONFIG)
    init_weights(model, seed=5)
    rng = np.random.default_rng(0)
    is_format = np.arange(9) == 8
    pairs = []
    for _ in range(4):
        before, after = rng.integers(1, 90, 1), rng.integers(1, 90, 6)
        chosen, rejected = (AnswerTokens(np.concatenate([before, [x], after, [90]]), is_format) for x in (95, 96))
        pairs.append(PairExample(rng.integers(1, 90, 4), chosen, rejected))
    both = Dialogs().collate([DialogExample(p.prompt, answer) for p in pairs for answer in (p.chosen, p.rejected)])
    dpo = DPO(DPOOptions(beta=1.0, nll_weight=nll_weight))
    train(model, SFT(SFTOptions()), both, steps=25)
    batch = prepared(dpo, pairs, PlacedModel(model).scorer().logps)
    start = PlacedModel(model).scorer().logps(batch)
    train(model, dpo, batch, steps=20)
    gained_S = batch.sum_by_segment(PlacedModel(model).scorer().logps(batch) - start)
    return gained_S[batch.child(0)].mean().item()


def train(model, algorithm, batch, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(algorithm, model, batch).backward()
        optimizer.step()


def test_the_nll_term_keeps_the_chosen_answers_from_falling():
    assert chosen_logps_gained(0.2) > 0 > chosen_logps_gained(0.0)


def gradients(model, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def cases(model, reference):
    sft, dpo = SFT(SFTOptions()), DPO(DPOOptions())
    return [
        (sft, Dialogs().collate(random_dialogs(6, 7))),
        (dpo, prepared(dpo, random_pairs(6, 7), PlacedModel(reference).scorer().logps)),
    ]


def test_order_of_trees_and_accumulation_do_not_matter(model, reference):
    for algorithm, batch in cases(model, reference):
        counts = count_units(batch)
        whole = gradients(model, loss_of(algorithm, model, batch))
        shuffled = batch.select(torch.randperm(batch.num_trees, generator=torch.Generator().manual_seed(1)))
        torch.testing.assert_close(gradients(model, loss_of(algorithm, model, shuffled)), whole, atol=1e-6, rtol=1e-4)
        model.zero_grad()
        for part in batch.split(4):
            total(algorithm.loss(score(model, part, {"logps"}), part), counts).backward()
        parts = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_a_shared_prompt_equals_a_repeated_one(model):
    pairs = random_pairs(7)
    shared = Pairs().collate(pairs)
    repeated = Dialogs().collate([DialogExample(p.prompt, a) for p in pairs for a in (p.chosen, p.rejected)])
    scorer = PlacedModel(model).scorer()
    torch.testing.assert_close(scorer.logps(shared), scorer.logps(repeated), atol=1e-5, rtol=0)


@given(seed=st.integers(0, 1000), budget=st.integers(1, 60))
@settings(max_examples=15)
def test_scoring_in_microbatches_changes_nothing(seed, budget):
    model = Transformer(CONFIG)
    init_weights(model, seed=1)
    batch = Pairs().collate(random_pairs(seed, 3))
    whole = PlacedModel(model).scorer().logps(batch)
    cut = PlacedModel(model).scorer(microbatch_tokens=budget).logps(batch)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)
