"""What authors of training algorithms need (hook `llama3_algorithms`). Stable: names go only with a new version of
the protocols.
"""

from __future__ import annotations

from llama3.inference.completion import FinishReason
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import Scored, score
from llama3.posttraining.advantages import gae, group_advantages, kl_estimate, last_M, whiten
from llama3.posttraining.packing import pack_answers, pack_rankings
from llama3.training.algorithm import Algorithm, Plan, Scorer, Services, Stats, Term, ValueModel

__all__ = [
    "Algorithm",
    "Batch",
    "FinishReason",
    "Plan",
    "Sampling",
    "Scored",
    "Scorer",
    "Segment",
    "Services",
    "Stats",
    "Term",
    "Tree",
    "ValueModel",
    "gae",
    "group_advantages",
    "kl_estimate",
    "last_M",
    "pack_answers",
    "pack_rankings",
    "score",
    "whiten",
]
