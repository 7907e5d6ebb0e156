"""An algorithm that is asked: what it raises, and what it returns that cannot be learnt from, is told as its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llama3.config.slot_types import Slot
from llama3.model.batch import Batch, column_problems
from llama3.plugins.asking import ODD_RESULT, Fault, asked, asking, json_fault, what
from llama3.plugins.registry import discover
from llama3.training.algorithm import Algorithm, Plan, Term
from llama3.training.causes import is_told_elsewhere
from llama3.training.microbatch import UNITS


def build_algorithm(slot: Slot) -> Algorithm:
    """The algorithm that a slot names, under watch (`asked_algorithm`)."""
    return asked_algorithm(slot.name, discover().build("algorithms", slot.name, slot.options))


def asked_algorithm(name: str, algorithm: Algorithm) -> Algorithm:
    """`algorithm`, each of whose calls raises PluginError (L3-PLG-042, 043) where it fails or returns what the loop
    cannot use. What a device or another rank does to it passes: a run goes on after that."""
    where = f"algorithms.{name}"
    with asking(where, "plan", spares=is_told_elsewhere):
        plan = getattr(algorithm, "plan", None)
    if fault := plan_fault(plan):
        raise ODD_RESULT(where, method="plan", fault=fault)
    faults: dict[str, Fault] = {
        "prepare": batch_fault,
        "collate": batch_fault,
        "loss": loss_fault,
        "metrics": terms_fault,
        "state_dict": json_fault,
    }
    return asked(where, algorithm, faults, spares=is_told_elsewhere)


def plan_fault(plan: object) -> str:
    """Why a plan cannot be followed; "" where it can."""
    if not isinstance(plan, Plan):
        return f"{what(plan)}, not a Plan"
    counts = {name: getattr(plan, name) for name in ("samples", "epochs", "minibatches")}
    wrong = [name for name, count in counts.items() if type(count) is not int or count < 1]
    if not isinstance(plan.own, int | float) or not 0 <= plan.own <= 1:
        wrong.append("own")
    return f"its {', '.join(wrong)} cannot be followed: {plan}" if wrong else ""


def batch_fault(found: object, *_: Any) -> str:
    """Why something is no batch, wherever it lies: one on a GPU is not checked when it is made."""
    if not isinstance(found, Batch):
        return f"{what(found)}, not a Batch"
    return "; ".join(f"{problem.where}: {problem.what}" for problem in column_problems(found))


def terms_fault(terms: object, *_: Any) -> str:
    """Why something is not a mapping of names to Terms, each of a number."""
    if not isinstance(terms, Mapping):
        return f"{what(terms)}, not a mapping of names to Terms"
    return next((fault for name, term in terms.items() if (fault := _term_fault(name, term))), "")


def _term_fault(name: object, term: object) -> str:
    if not isinstance(name, str):
        return f"a Term is called {name!r}"
    if not isinstance(term, Term):
        return f'{name}: a {type(term).__name__} in place of a Term, such as Term(x_M.sum(), per="target")'
    if not isinstance(term.sum, Tensor) or term.sum.dim():
        shape = f"the shape {tuple(term.sum.shape)}" if isinstance(term.sum, Tensor) else f"type {type(term.sum)}"
        return f"{name}: its sum has {shape}, and must be a tensor of no dimension"
    if term.sum.is_complex() or term.per not in UNITS:
        return f"{name}: {term.sum.dtype} per {term.per!r}, and must be a number per {', '.join(UNITS)}"
    if not isinstance(term.weight, int | float) or not math.isfinite(term.weight):
        return f"{name}: its weight is {term.weight!r}"
    return ""


def loss_fault(terms: object, scored: object, batch: Batch) -> str:
    """Why nothing can be learnt from a loss. Where a gradient is wanted and there are targets, one term has a graph."""
    if fault := terms_fault(terms):
        return fault
    assert isinstance(terms, Mapping)
    if not terms:
        return "it has no Term"
    has_graph = any(term.sum.requires_grad for term in terms.values())
    if torch.is_grad_enabled() and batch.num_targets and not has_graph:
        return f"{', '.join(terms)}: without a graph to what was scored, so that nothing is learnt"
    return ""
