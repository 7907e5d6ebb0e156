"""Direct preference optimization as Llama 3 uses it: format tokens masked, NLL on the chosen answer (paper 4.1.4)."""

from __future__ import annotations

from llama3.algorithms import Batch, Services
from llama3_plugins.algorithms.preference_losses import PreferenceAlgorithm


class DPO(PreferenceAlgorithm):
    """Rafailov et al. 2023, equation 7, plus the NLL term of Pang et al. 2024. Needs a reference; learns from pairs.

        -log sigmoid(beta * (margin(chosen) - margin(rejected))) + nll_weight * NLL(chosen)

    where a margin is the answer's log-prob minus the reference's, summed over its content tokens. The mask takes out
    tokens that both answers share by format and would be pushed both ways at once; the NLL term keeps them, because
    it is what preserves the format. `loss` puts other losses, or a weighted sum of several, in the place of the first
    term: see the table of llama3_plugins.algorithms.preference_losses.
    """

    def prepare(self, batch: Batch, services: Services) -> Batch:
        return self.columns(batch, services)
