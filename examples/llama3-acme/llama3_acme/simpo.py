import torch.nn.functional as F

from llama3.algorithms import Algorithm, Term


class SimPO(Algorithm):
    """Meng et al. 2024, equation 6: mean log-probs instead of ratios to a reference."""

    def __init__(self, options):
        self.options = options

    def loss(self, scored, batch):
        mean_S = batch.mean_by_segment(scored.logps_M)
        margin_R = self.options.beta * (mean_S[batch.child(0)] - mean_S[batch.child(1)]) - self.options.gamma
        return {"preference": Term(-F.logsigmoid(margin_R).sum(), per="tree")}
