"""Token-level distillation: at every token of an answer the student learns the teacher's whole distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Plan, Scored, Services, Term
from llama3_plugins.algorithms.options import (
    DistillationOptions,
    DivergenceOptions,
    OnlineDistillationOptions,
)

LEAST_TAIL = 1e-6
"""Probability that all tokens beyond the k are given at least: float32 cannot tell less of it from 0."""


class TokenDistillation(Algorithm):
    """What `distillation` and `online_distillation` share. With p the teacher's distribution and q the student's:

        forward_kl    KL(p || q)                                            Hinton et al. 2015 (arXiv 1503.02531)
        reverse_kl    KL(q || p)                                            Gu et al. 2023 (2306.08543)
        jsd           beta KL(p || m) + (1 - beta) KL(q || m),              Agarwal et al. 2023 (2306.13649), eq. 1
                      m = beta p + (1 - beta) q
        loss          mean over answer tokens

    p and q are taken over k + 1 outcomes: the teacher's k likeliest tokens, and all others as one. So no distribution
    over the whole vocabulary is kept, and by the data-processing inequality the divergence is at most that of the whole
    distributions; equal to it where k is the size of the vocabulary. `teacher_tail` and `student_tail` tell how much
    lies beyond the k.

    Needs a teacher with the same tokenizer. Legend: M targets, k tokens, K = k + 1 outcomes.
    """

    def __init__(self, options: DivergenceOptions, plan: Plan) -> None:
        self.options, self.plan = options, plan

    def prepare(self, batch: Batch, services: Services) -> Batch:
        ids_Mk, logps_Mk = services.teacher.top(batch, self.options.k)
        return batch.with_(per_target={"soft_ids": ids_Mk, "teacher_logps": logps_Mk})

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        teacher_MK, student_MK = with_tail(batch.per_target["teacher_logps"]), with_tail(scored.soft_logps_Mk)
        divergence_M = divergence(teacher_MK, student_MK, self.options)
        return {self.options.divergence: Term(divergence_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """`agreement`: how often the teacher's likeliest token is the student's likeliest of the k."""
        teacher_Mk, student_Mk = batch.per_target["teacher_logps"], scored.soft_logps_Mk
        columns = {
            "teacher_tail": 1 - teacher_Mk.exp().sum(-1),
            "student_tail": 1 - student_Mk.exp().sum(-1),
            "agreement": (student_Mk.argmax(-1) == 0).float(),
        }
        return {name: Term(column_M.sum(), per="target") for name, column_M in columns.items()}


class Distillation(TokenDistillation):
    """Learns from dialogs: their answers, and for a share `on_policy` of them one of its own (lambda of GKD)."""

    def __init__(self, options: DistillationOptions) -> None:
        super().__init__(options, Plan(own=options.on_policy))


class OnlineDistillation(TokenDistillation):
    """Learns from prompts: answers are its own, drawn anew at every step, and nobody rewards them."""

    def __init__(self, options: OnlineDistillationOptions) -> None:
        super().__init__(options, Plan(samples=options.samples))


def with_tail(logps_Mk: Tensor) -> Tensor:
    """Log-probs (M, K) of the k tokens and of all others together."""
    tail_M1 = (1 - logps_Mk.exp().sum(-1, keepdim=True)).clamp(min=LEAST_TAIL).log()
    return torch.cat([logps_Mk, tail_M1], dim=-1)


def divergence(teacher_MK: Tensor, student_MK: Tensor, options: DivergenceOptions) -> Tensor:
    """Divergence (M,) of two distributions that are given as log-probs."""
    match options.divergence:
        case "forward_kl":
            return kl(teacher_MK, student_MK)
        case "reverse_kl":
            return kl(student_MK, teacher_MK)
        case "jsd":
            beta = options.beta
            mixture_MK = torch.logaddexp(teacher_MK + math.log(beta), student_MK + math.log1p(-beta))
            return beta * kl(teacher_MK, mixture_MK) + (1 - beta) * kl(student_MK, mixture_MK)


def kl(p_MK: Tensor, q_MK: Tensor) -> Tensor:
    """KL(p || q), in nats, of distributions that are given as log-probs."""
    return (p_MK.exp() * (p_MK - q_MK)).sum(-1)
