"""TRL's losses, called without a trainer, and golden log-probs: what our losses are compared with."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import torch

from llama3.checkpoints.weights import save_model
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.posttraining.examples import AnswerTokens
from llama3.training.microbatch import UNITS
from llama3_plugins.data_kinds.pairs import PairExample, Pairs

# Log-probs of the answers' tokens, and sums of the reference's (post-training notes; beta 0.1).
CHOSEN = ([-0.5, -1.0, -0.25], [-2.0, -0.5], [-1.5])
REJECTED = ([-1.0, -1.5], [-0.75, -2.0, -0.5], [-0.25, -0.5, -3.0])
REF_CHOSEN, REF_REJECTED = (-2.0, -2.25, -1.0), (-2.0, -3.5, -4.0)


def on_first(sums, rows) -> list[list[float]]:
    """Log-probs with the given sums, all on each answer's first token."""
    return [[total, *[0.0] * (len(row) - 1)] for total, row in zip(sums, rows, strict=True)]


GOLDEN = (CHOSEN, REJECTED, on_first(REF_CHOSEN, CHOSEN), on_first(REF_REJECTED, REJECTED))
"""Log-probs of chosen and rejected answers under the policy, then under the reference, by token."""


class OneRank:
    """Statistics of a single process."""

    def sum(self, x):
        return x

    def gather(self, x_N):
        return x_N, slice(0, len(x_N))


def span(length: int) -> AnswerTokens:
    return AnswerTokens(np.arange(1, 1 + length), np.zeros(length, dtype=bool))


def pair_examples(pairs=GOLDEN) -> list[PairExample]:
    return [PairExample(np.array([7]), span(len(c)), span(len(r))) for c, r in zip(*pairs[:2], strict=True)]


def packed(chosen, rejected) -> torch.Tensor:
    """Values by token in packed order: chosen and rejected of each pair in turn."""
    return torch.tensor([x for c, r in zip(chosen, rejected, strict=True) for x in (*c, *r)])


def prepared(algorithm, examples, reference, policy=None) -> Batch:
    services = SimpleNamespace(
        reference=SimpleNamespace(logps=reference), policy=SimpleNamespace(logps=policy), stats=OneRank()
    )
    return algorithm.prepare(Pairs().collate(examples), services)


def total(terms, counts) -> torch.Tensor:
    """The loop's loss: every sum over the count of its unit."""
    return sum(term.weight * term.sum / counts[UNITS.index(term.per)] for term in terms.values())


def means(terms, counts) -> dict[str, float]:
    """Metrics as the loop reports them: every sum over the count of its unit."""
    return {
        name: float(term.weight * term.sum.detach() / counts[UNITS.index(term.per)]) for name, term in terms.items()
    }


def trl_trainer(model, **changes) -> SimpleNamespace:
    """What `DPOTrainer._compute_loss` reads of its trainer."""
    same = lambda x: x
    settings = {
        "ref_model": None, "precompute_ref_logps": False, "beta": 0.1, "label_smoothing": 0.0, "ld_alpha": None,
        "f_divergence_type": "reverse_kl", "use_weighting": False, "aux_loss_enabled": False, "_tp_size": 1,
        "_total_train_tokens": 0, "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "accelerator": SimpleNamespace(device="cpu", gather_for_metrics=same, gather=same),
        "args": SimpleNamespace(gradient_checkpointing=False, gradient_checkpointing_kwargs=None, discopop_tau=0.05),
    }  # fmt: skip
    return SimpleNamespace(model=model, **(settings | changes))


def trl_loss(loss_types, weights, pairs=GOLDEN, collisions=None, **settings) -> tuple[float, list[torch.Tensor], dict]:
    """TRL's own function, unbound, on given log-probs: loss, their gradients (by row), metrics. `collisions` of the
    chosen and of the rejected answers are log sum_v p_v^2 at each token."""
    from trl import DPOTrainer
    from trl.trainer.utils import FusedCausalLMOutput

    chosen, rejected, ref_chosen, ref_rejected = pairs
    rows, ref_rows = [*chosen, *rejected], [*ref_chosen, *ref_rejected]
    width = max(map(len, rows))
    pad = lambda rows: torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])
    logps, ref_logps = pad(rows).requires_grad_(), pad(ref_rows)
    mask = torch.tensor([[0, *[1] * len(row), *[0] * (width - len(row))] for row in rows])
    zeros = torch.zeros_like(ref_logps)
    squares = zeros if collisions is None else pad([*collisions[0], *collisions[1]])
    output = lambda log_probs: FusedCausalLMOutput(
        log_probs=log_probs, entropy=zeros, log_sum_sq_probs=squares, mean_logits=zeros, is_top1=zeros.bool()
    )
    module = torch.nn.Module()
    module.is_gradient_checkpointing = False
    trainer = trl_trainer(
        module,
        ref_model=lambda **_: output(ref_logps),
        loss_types=loss_types,
        loss_weights=weights,
        **settings,
    )
    inputs = {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    loss = DPOTrainer._compute_loss(trainer, lambda **_: output(logps), inputs, return_outputs=False)
    loss.backward()
    grads = [logps.grad[i, : len(row)] for i, row in enumerate(rows)]
    return loss.item(), grads, {k: v[-1] for k, v in trainer._metrics["train"].items()}


def padded(rows: list[tuple[np.ndarray, AnswerTokens]]) -> dict[str, torch.Tensor]:
    """Right-padded ids, attention mask, completion mask and labels, as TRL's collators make them."""
    width = max(len(prompt) + len(answer.ids) for prompt, answer in rows)
    out = {
        name: torch.zeros(len(rows), width, dtype=torch.long)
        for name in ("input_ids", "attention_mask", "completion_mask")
    }
    for i, (prompt, answer) in enumerate(rows):
        ids = np.concatenate([prompt, answer.ids])
        out["input_ids"][i, : len(ids)] = torch.from_numpy(ids)
        out["attention_mask"][i, : len(ids)] = 1
        out["completion_mask"][i, len(prompt) : len(ids)] = 1
    out["labels"] = out["input_ids"].masked_fill(out["completion_mask"] == 0, -100)
    return out


CONFIG = ModelConfig(
    dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=64, vocab_size=97, max_seq_len=128, rope_theta=10000.0
)


def random_span(rng, low=2, high=9) -> AnswerTokens:
    ids = rng.integers(1, CONFIG.vocab_size, rng.integers(low, high))
    return AnswerTokens(ids, np.arange(len(ids)) == len(ids) - 1)


def hf_model(model: Transformer, folder):
    from transformers import LlamaForCausalLM

    save_model(model, folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
