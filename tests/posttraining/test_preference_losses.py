"""The table of preference losses: equal to TRL in value, gradient and metrics, alone and mixed, over any batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from trl_oracle import GOLDEN, means, packed, pair_examples, prepared, total, trl_loss

from llama3.model.score import Scored
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms.dpo import DPO
from llama3_plugins.algorithms.options import DPOOptions, WPOOptions
from llama3_plugins.algorithms.preference_losses import LOSSES
from llama3_plugins.algorithms.wpo import WPO

PLAIN = {"nll_weight": 0.0, "mask_format": False}
"""TRL has neither in its losses."""

CASES = [
    ({"loss": "sigmoid"}, ["sigmoid"], {}, 0.702053),
    ({"loss": "sigmoid", "nll_weight": 0.2, "nll_reduction": "token_mean"}, ["sigmoid", "sft"], {}, 0.893720),
    ({"loss": "cdpo", "label_smoothing": 0.1}, ["aot"], {"label_smoothing": 0.1}, 0.700387),
    ({"loss": "robust", "label_smoothing": 0.1}, ["robust"], {"label_smoothing": 0.1}, 0.704137),
    ({"loss": "hinge"}, ["hinge"], {}, 1.016667),
    ({"loss": "ipo"}, ["ipo"], {}, 26.692709),
    ({"loss": "sigmoid_norm"}, ["sigmoid_norm"], {}, 0.700992),
    ({"loss": "sigmoid_norm", "beta": 5.0}, ["sigmoid_norm"], {"beta": 5.0}, 1.495422),
    ({"loss": "exo_pair", "label_smoothing": 0.1}, ["exo_pair"], {"label_smoothing": 0.1}, 0.520551),
    ({"loss": "nca_pair"}, ["nca_pair"], {}, 1.390773),
    ({"loss": "bco_pair"}, ["bco_pair"], {}, 1.394940),
    ({"loss": "sppo_hard"}, ["sppo_hard"], {}, 51.916668),
    ({"loss": "aot", "label_smoothing": 0.1}, ["aot"], {"label_smoothing": 0.1}, 0.700387),
    ({"loss": "aot_unpaired", "label_smoothing": 0.1}, ["aot_unpaired"], {"label_smoothing": 0.1}, 0.699918),
    ({"loss": "apo_zero"}, ["apo_zero"], {}, 1.004166),
    ({"loss": "apo_down"}, ["apo_down"], {}, 1.000000),
    ({"loss": "discopop"}, ["discopop"], {}, 0.826923),
    ({"loss": "sigmoid", "ld_alpha": 0.5}, ["sigmoid"], {"ld_alpha": 0.5}, None),
    ({"loss": "sigmoid", "f_divergence": "forward_kl"}, ["sigmoid"], {"f_divergence_type": "forward_kl"}, 0.702304),
    ({"loss": "ipo", "f_divergence": "js_divergence"}, ["ipo"], {"f_divergence_type": "js_divergence"}, None),
    ({"f_divergence": "js_divergence"}, ["sigmoid"], {"f_divergence_type": "js_divergence"}, 0.697472),
    (
        {"f_divergence": "alpha_divergence"},
        ["sigmoid"],
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        0.702144,
    ),
]  # fmt: skip


def random_pairs(seed: int, count: int = 6):
    """Log-probs whose log-ratios are in another order than those of the reference."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, (2, count))
    rows = lambda side: [(-rng.exponential(1.0, n)).tolist() for n in lengths[side]]
    return rows(0), rows(1), rows(0), rows(1)


def our_loss(options, pairs, split: int = 1):
    """Loss, gradients by target, and the prepared batch; in `split` microbatches."""
    dpo = DPO(DPOOptions(**PLAIN | options))
    logps_M, ref_M = packed(*pairs[:2]).requires_grad_(), packed(*pairs[2:])
    batch = prepared(dpo, pair_examples(pairs), lambda _: ref_M, lambda _: logps_M.detach())
    batch = batch.with_(per_target={"row": torch.arange(len(logps_M))})
    parts = [
        total(dpo.loss(Scored(logps_M=logps_M[part.per_target["row"]]), part), count_units(batch))
        for part in batch.split(split)
    ]
    loss = torch.stack(parts).sum()
    loss.backward()
    metrics = dpo.metrics(Scored(logps_M=logps_M.detach()), batch)
    return loss.item(), logps_M.grad, means(metrics, count_units(batch))


@pytest.mark.parametrize(("options", "names", "settings", "golden"), CASES, ids=lambda case: str(case)[:60])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_losses_equal_trl_in_value_gradient_and_metrics(options, names, settings, golden, seed):
    pairs = GOLDEN if seed is None else random_pairs(seed)
    if options.get("loss") == "cdpo":  # TRL has it in `aot` alone, where pairs keep their order
        pairs = GOLDEN
    count = len(pairs[0])
    expected, grads, metrics = trl_loss(names, [1.0, 0.2][: len(names)], pairs, **settings)
    for split in (1, 3):
        loss, grad_M, ours = our_loss(options, pairs, split)
        assert loss == pytest.approx(expected, abs=1e-5, rel=1e-6)
        if seed is None and golden is not None:
            assert loss == pytest.approx(golden, abs=1e-5)
        order = torch.cat([grads[k] for pair in range(count) for k in (pair, pair + count)])
        torch.testing.assert_close(grad_M, order, atol=1e-6, rtol=1e-5)
    for name, value in ours.items():
        assert value == pytest.approx(metrics[name], abs=1e-5), name


def test_every_loss_has_a_case():
    tested = {options.get("loss", "sigmoid") for options, *_ in CASES}
    assert tested | {"simpo"} == set(LOSSES)


def test_mixed_losses_are_their_weighted_sum():
    pairs = random_pairs(5)
    weights = {"sigmoid": 1.0, "bco_pair": 0.5, "aot": 2.0}
    loss, grad_M, _ = our_loss({"loss": weights}, pairs)
    expected, grads, _ = trl_loss(list(weights), list(weights.values()), pairs)
    assert loss == pytest.approx(expected, abs=1e-5)
    order = torch.cat([grads[k] for pair in range(6) for k in (pair, pair + 6)])
    torch.testing.assert_close(grad_M, order, atol=1e-6, rtol=1e-5)


def test_without_a_reference_all_answers_are_equally_likely_to_it():
    chosen, rejected, *_ = pairs = random_pairs(7)
    nothing = [[[0.0] * len(row) for row in rows] for rows in (chosen, rejected)]
    expected, grads, _ = trl_loss(["sigmoid"], [1.0], (chosen, rejected, *nothing))
    loss, grad_M, _ = our_loss({"reference_free": True}, pairs)
    assert loss == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(grad_M, torch.cat([grads[k] for pair in range(6) for k in (pair, pair + 6)]))


def test_simpo_equals_trl():
    from trl.experimental.cpo import CPOTrainer

    pairs = random_pairs(6)
    loss, _, _ = our_loss({"loss": "simpo", "beta": 2.0, "gamma": 0.7}, pairs)
    trainer = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=0.7, beta=2.0, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    mean = lambda rows: torch.tensor([np.mean(row) for row in rows])
    losses, *_ = CPOTrainer.cpo_loss(trainer, mean(pairs[0]), mean(pairs[1]))
    assert loss == pytest.approx(losses.mean().item(), abs=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "apo_zero"])
def test_pairs_are_weighed_as_trl_weighs_them(loss):
    pairs = random_pairs(8)
    collisions = [[[x / 9 for x in row] for row in rows] for rows in (pairs[0], pairs[1])]
    expected, grads, _ = trl_loss([loss], [1.0], pairs, collisions, use_weighting=True)
    wpo = WPO(WPOOptions(**PLAIN, loss=loss))
    logps_M, ref_M = packed(*pairs[:2]).requires_grad_(), packed(*pairs[2:])
    batch = prepared(wpo, pair_examples(pairs), lambda _: ref_M)
    scored = Scored(logps_M=logps_M, collision_M=packed(*collisions))
    found = total(wpo.loss(scored, batch), count_units(batch))
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-5)
    order = torch.cat([grads[k] for pair in range(6) for k in (pair, pair + 6)])
    torch.testing.assert_close(logps_M.grad, order, atol=1e-6, rtol=1e-5)
    assert 0 < means(wpo.metrics(scored, batch), count_units(batch))["pair_weight"] < 1


def test_what_the_policy_is_certain_of_has_a_weight_of_one():
    """And then it is dpo."""
    pairs = random_pairs(10)
    wpo, logps_M, ref_M = WPO(WPOOptions(**PLAIN)), packed(*pairs[:2]), packed(*pairs[2:])
    batch = prepared(wpo, pair_examples(pairs), lambda _: ref_M)
    loss = total(wpo.loss(Scored(logps_M=logps_M, collision_M=logps_M), batch), count_units(batch)).item()
    assert loss == pytest.approx(our_loss({}, pairs)[0])
    with pytest.raises(ValidationError, match="aot compares pairs with each other"):
        WPOOptions(loss="aot")


def test_the_nll_term_is_a_mean_over_answers_by_default():
    loss, _, _ = our_loss({"nll_weight": 1.0}, GOLDEN)
    assert loss == pytest.approx(1.111111 + 0.702053, abs=1e-5)


def test_losses_may_be_named_in_three_ways():
    assert DPOOptions().loss == {"sigmoid": 1.0}
    assert DPOOptions(loss="hinge").loss == {"hinge": 1.0}
    assert DPOOptions(loss=["hinge", "ipo"]).loss == {"hinge": 1.0, "ipo": 1.0}
    assert DPOOptions(loss={"hinge": 0.3}).loss == {"hinge": 0.3}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"loss": "dpo"}, "Input should be 'sigmoid'"),
        ({"loss": []}, "at least 1"),
        ({"loss": {"sigmoid": 0.0}}, "above 0"),
        ({"loss": "exo_pair"}, "exo_pair needs label_smoothing"),
        ({"label_smoothing": 0.1}, "no effect on sigmoid"),
        ({"loss": "aot", "label_smoothing": 0.5}, "less than 0.5"),
        ({"f_alpha": 0.3}, "no effect on reverse_kl"),
        ({"loss": "bco_pair", "f_divergence": "forward_kl"}, "no effect on bco_pair"),
    ],
)
def test_options_without_meaning_are_refused(options, what):
    with pytest.raises(ValidationError, match=what):
        DPOOptions(**options)


def test_an_answer_of_format_tokens_only_has_no_nan():
    """An empty answer is its end token, which does not count."""
    pairs = random_pairs(7, 3)
    examples = pair_examples(pairs)
    examples[1].chosen.is_format[:] = True
    for name in LOSSES:
        dpo = DPO(DPOOptions(loss=name, label_smoothing=0.1 if name == "exo_pair" else 0.0))
        logps_M, ref_M = packed(*pairs[:2]).requires_grad_(), packed(*pairs[2:])
        batch = prepared(dpo, examples, lambda _, x=ref_M: x, lambda _, x=logps_M: x.detach())
        loss = total(dpo.loss(Scored(logps_M=logps_M), batch), count_units(batch))
        loss.backward()
        assert torch.isfinite(loss), name
        assert torch.isfinite(logps_M.grad).all(), name
