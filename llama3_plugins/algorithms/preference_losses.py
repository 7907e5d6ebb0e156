"""The losses of preference pairs, one function each, for every algorithm that learns from a better and a worse answer.

With c and r the log-ratios log pi(y|x) - log ref(y|x) of the chosen and the rejected answer, summed over their tokens,
n their numbers of tokens, z = beta * (c - r), s the logistic function and e = label_smoothing:

    sigmoid        -log s(z)                                               Rafailov et al. 2023, equation 7
    cdpo           -(1-e) log s(z) - e log s(-z)                           Mitchell 2023, flipped labels
    robust         (-(1-e) log s(z) + e log s(-z)) / (1 - 2e)              Chowdhury et al. 2024, flipped labels
    hinge          relu(1 - z)                                             Zhao et al. 2023 (SLiC)
    ipo            (c/n_c - r/n_r - 1/(2 beta))^2                          Azar et al. 2023, equation 17, per token
    sigmoid_norm   -log s(beta (c/n_c - r/n_r))                            Lambert et al. 2024 (Tulu 3)
    exo_pair       s(z) log(s(z)/(1-e)) + s(-z) log(s(-z)/e)               Ji et al. 2024, equation 16
    nca_pair       -log s(beta c) - log s(-beta c)/2 - log s(-beta r)/2    Chen et al. 2024
    bco_pair       -log s(beta c) - log s(-beta r)                         Jung et al. 2024, without the shift
    sppo_hard      (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2                 Wu et al. 2024, equation 4.7, P of 1 and 0
    aot            cDPO of the sorted policy and reference margins         Melnyk et al. 2024, paired
    aot_unpaired   cDPO of the sorted c and the sorted r                   Melnyk et al. 2024, unpaired
    apo_zero       1 - s(beta c) + s(beta r)                               D'Oosterlinck et al. 2024, equation 7
    apo_down       s(beta c) + 1 - s(z)                                    D'Oosterlinck et al. 2024, equation 8
    discopop       -log s(z) (1-m) + exp(-z) m,  m = s(z / 0.05)           Lu et al. 2024, equation 5
    simpo          -log s(beta (logp_c/n_c - logp_r/n_r) - gamma)          Meng et al. 2024, equation 6; no reference

where cDPO(d) is `cdpo` with z = beta d. Values equal TRL's. The two `aot` losses couple the pairs of a
whole step: which pair meets which follows from the order of their log-ratios, which `partners` finds once per step.

Legend: M targets, S segments, R trees (pairs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Scored, Services, Stats, Term
from llama3_plugins.algorithms.options import BATCH_WIDE, LossName, PreferenceOptions

DISCOPOP_TEMPERATURE = 0.05
LARGEST_EXPONENT = 80.0
"""Of float32 numbers that are exponentiated, as in TRL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """What a loss reads of each pair; all of length R. Sums are over the tokens that count."""

    chosen: Tensor
    """Sum of log-probs of the chosen answer under the policy."""
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    """Number of tokens that count, at least 1."""
    rejected_tokens: Tensor
    partners: dict[str, Tensor]
    """What `partners` computed, by name."""

    @property
    def chosen_ratio(self) -> Tensor:
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        return self.rejected - self.ref_rejected


def sigmoid(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return -F.logsigmoid(options.beta * _margin(pairs, options))


def cdpo(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return _smoothed(_margin(pairs, options), options)


def robust(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    z, e = options.beta * _margin(pairs, options), options.label_smoothing
    return (-(1 - e) * F.logsigmoid(z) + e * F.logsigmoid(-z)) / (1 - 2 * e)


def hinge(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return torch.relu(1 - options.beta * _margin(pairs, options))


def ipo(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return (_mean_margin(pairs, options) - 1 / (2 * options.beta)) ** 2


def sigmoid_norm(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return -F.logsigmoid(options.beta * _mean_margin(pairs, options))


def exo_pair(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    z, e = options.beta * _margin(pairs, options), options.label_smoothing
    won = torch.sigmoid(z) * (F.logsigmoid(z) - math.log(1 - e))
    return won + torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(e))


def nca_pair(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    chosen, rejected = options.beta * pairs.chosen_ratio, options.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def bco_pair(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return -F.logsigmoid(options.beta * pairs.chosen_ratio) - F.logsigmoid(-options.beta * pairs.rejected_ratio)


def sppo_hard(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    half = 0.5 / options.beta
    return (pairs.chosen_ratio - half) ** 2 + (pairs.rejected_ratio + half) ** 2


def aot(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return _smoothed(pairs.chosen - pairs.rejected - pairs.partners["aot_reference"], options)


def aot_unpaired(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    """Each sorted (chosen, rejected) couple lies across two pairs: each pair carries the gradient of its own side, with
    the other side as it stood when the step began. `aot_base` takes out that the value is then counted twice."""
    as_chosen = _smoothed(pairs.chosen_ratio - pairs.partners["aot_rejected"], options)
    as_rejected = _smoothed(pairs.partners["aot_chosen"] - pairs.rejected_ratio, options)
    return as_chosen + as_rejected - pairs.partners["aot_base"]


def apo_zero(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return 1 - torch.sigmoid(options.beta * pairs.chosen_ratio) + torch.sigmoid(options.beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
    return torch.sigmoid(options.beta * chosen) + 1 - torch.sigmoid(options.beta * (chosen - rejected))


def discopop(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    z = options.beta * _margin(pairs, options)
    mix = torch.sigmoid(z / DISCOPOP_TEMPERATURE)
    return -F.logsigmoid(z) * (1 - mix) + torch.exp(-z) * mix


def simpo(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    mean_margin = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    return -F.logsigmoid(options.beta * mean_margin - options.gamma)


LOSSES: dict[LossName, Callable[[Pairs, PreferenceOptions], Tensor]] = {
    "sigmoid": sigmoid,
    "cdpo": cdpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "sigmoid_norm": sigmoid_norm,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
    "simpo": simpo,
}
"""Each maps the pairs to one loss per pair, of length R."""


class PreferenceAlgorithm(Algorithm):
    """What `dpo` and `online_dpo` share: columns, losses and metrics of pairs. child(0) is chosen, child(1) rejected.

    Which tokens count in the sums (`weight` of each target): without the format tokens if `mask_format`, and those
    beyond the shorter answer's length times `ld_alpha` (Liu et al. 2024, LD-DPO).
    """

    def __init__(self, options: PreferenceOptions) -> None:
        self.options = options

    def columns(self, batch: Batch, services: Services) -> Batch:
        """Add what the losses read beside the policy's log-probs."""
        free = self.options.reference_free
        zeros_M = torch.zeros(batch.num_targets, device=batch.tokens_T.device)
        batch = batch.with_(
            per_target={
                "ref_logps": zeros_M if free else services.reference.logps(batch),
                "weight": self._weight(batch),
                "nll_share": self._nll_share(batch, services.stats),
            }
        )
        if BATCH_WIDE.isdisjoint(self.options.loss):
            return batch
        pairs = self._pairs(services.policy.logps(batch), batch)
        return batch.with_(per_tree=partners(pairs, self.options, services.stats))

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        pairs, of_pair = self._pairs(scored.logps_M, batch), self.pair_weight(scored, batch)
        terms: dict[str, Term] = {
            name: Term((of_pair * LOSSES[name](pairs, self.options)).sum(), per="tree", weight=weight)
            for name, weight in self.options.loss.items()
        }
        nll = -(scored.logps_M * batch.per_target["nll_share"]).sum()
        return {**terms, "nll": Term(nll, per="tree", weight=self.options.nll_weight)}

    def pair_weight(self, scored: Scored, batch: Batch) -> Tensor | float:
        """What the losses of each pair count (R,), but the NLL term."""
        return 1.0

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names, whatever the loss; a tie counts as wrong, so step 0 reads 0 accuracy."""
        pairs, beta = self._pairs(scored.logps_M, batch), self.options.beta
        columns = {
            "rewards/chosen": beta * pairs.chosen_ratio,
            "rewards/rejected": beta * pairs.rejected_ratio,
            "rewards/margins": beta * (pairs.chosen_ratio - pairs.rejected_ratio),
            "rewards/accuracies": (pairs.chosen_ratio > pairs.rejected_ratio).float(),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
        }
        return {name: Term(column_R.sum(), per="tree") for name, column_R in columns.items()}

    def _pairs(self, logps_M: Tensor, batch: Batch) -> Pairs:
        weight_M, chosen, rejected = batch.per_target["weight"], batch.child(0), batch.child(1)
        logps_S = batch.sum_by_segment(logps_M * weight_M)
        ref_logps_S = batch.sum_by_segment(batch.per_target["ref_logps"] * weight_M)
        tokens_S = batch.sum_by_segment(self.counts(batch)).clamp(min=1)
        return Pairs(
            chosen=logps_S[chosen],
            rejected=logps_S[rejected],
            ref_chosen=ref_logps_S[chosen],
            ref_rejected=ref_logps_S[rejected],
            chosen_tokens=tokens_S[chosen],
            rejected_tokens=tokens_S[rejected],
            partners={name: x_R for name, x_R in batch.per_tree.items() if name.startswith("aot_")},
        )

    def counts(self, batch: Batch) -> Tensor:
        """1 for each target that counts in the preference losses, else 0."""
        is_format_M = batch.per_target["is_format"]
        return (~is_format_M if self.options.mask_format else torch.ones_like(is_format_M)).float()

    def _weight(self, batch: Batch) -> Tensor:
        counts_M = self.counts(batch)
        if self.options.ld_alpha is None:
            return counts_M
        tokens_S = batch.sum_by_segment(counts_M)
        shorter_R = torch.minimum(tokens_S[batch.child(0)], tokens_S[batch.child(1)])
        before_S = tokens_S.cumsum(0) - tokens_S
        number_M = counts_M.cumsum(0) - before_S[batch.segment_M]  # from 1 for an answer's first token that counts
        return torch.where(number_M <= shorter_R[batch.tree_M], counts_M, self.options.ld_alpha * counts_M)

    def _nll_share(self, batch: Batch, stats: Stats) -> Tensor:
        """Weight of each target in the sum over pairs of the NLL: its answer's mean, or the mean over all tokens."""
        chosen_S = torch.zeros(batch.num_segments, device=batch.tokens_T.device)
        chosen_S[batch.child(0)] = 1.0
        chosen_M = chosen_S[batch.segment_M]
        if self.options.nll_reduction == "sequence_mean":
            return chosen_M / batch.targets_per_segment_S[batch.segment_M]
        pairs, tokens = stats.sum(torch.stack([chosen_S.sum(), chosen_M.sum()]))
        return chosen_M * (pairs / tokens)


def partners(pairs: Pairs, options: PreferenceOptions, stats: Stats) -> dict[str, Tensor]:
    """Columns of the `aot` losses: what each pair is compared with, by rank over the pairs of the whole step.

    The ranks are those of the weights at which the step begins, so they are exact for its first update, and these
    algorithms make one update per step.
    """
    chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
    margin, ref_margin = pairs.chosen - pairs.rejected, pairs.ref_chosen - pairs.ref_rejected
    rejected_partner = _of_equal_rank(chosen, rejected, stats)
    return {
        "aot_reference": _of_equal_rank(margin, ref_margin, stats),
        "aot_rejected": rejected_partner,
        "aot_chosen": _of_equal_rank(rejected, chosen, stats),
        "aot_base": _smoothed(chosen - rejected_partner, options),
    }


def _of_equal_rank(x_R: Tensor, other_R: Tensor, stats: Stats) -> Tensor:
    """For each value of `x_R` the value of `other_R` that has the same rank, over all processes."""
    (all_x, mine), (all_other, _) = stats.gather(x_R), stats.gather(other_R)
    rank = all_x.argsort(stable=True).argsort()[mine]
    return all_other.sort().values[rank]


def _smoothed(margin_R: Tensor, options: PreferenceOptions) -> Tensor:
    z, e = options.beta * margin_R, options.label_smoothing
    return -(1 - e) * F.logsigmoid(z) - e * F.logsigmoid(-z)


def _margin(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    return _divergence(pairs.chosen_ratio, options) - _divergence(pairs.rejected_ratio, options)


def _mean_margin(pairs: Pairs, options: PreferenceOptions) -> Tensor:
    chosen, rejected = _divergence(pairs.chosen_ratio, options), _divergence(pairs.rejected_ratio, options)
    return chosen / pairs.chosen_tokens - rejected / pairs.rejected_tokens


def _divergence(ratio_R: Tensor, options: PreferenceOptions) -> Tensor:
    """f'(exp(ratio)) of the f-divergence that binds policy and reference (Wang et al. 2024), up to a constant."""
    match options.f_divergence:
        case "forward_kl":
            return 1 - torch.exp(-ratio_R)
        case "js_divergence":
            return math.log(2) + F.logsigmoid(ratio_R)
        case "alpha_divergence":
            shifted = options.f_alpha - 1
            return (torch.exp((shifted * ratio_R).clamp(max=LARGEST_EXPONENT)) - 1) / shifted
        case _:
            return ratio_R
