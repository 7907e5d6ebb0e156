"""An algorithm that is asked: what it raises, and what it returns that cannot be learnt from, is told as its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llama3.config.slot_types import Slot
from llama3.errors import LlamaError, PluginError
from llama3.model.batch import Batch, column_problems
from llama3.plugins.asking import ODD_RESULT, Fault, asked, asking, called, json_fault, what
from llama3.plugins.loader import BUILT_IN
from llama3.plugins.registry import discover
from llama3.training.algorithm import Algorithm, Plan, Term
from llama3.training.causes import is_told_elsewhere
from llama3.training.microbatch import UNITS

NO_TERM = PluginError.declare(
    "L3-TRN-003",
    "{fault}",
    why="losses and metrics are sums with their unit, so that they do not depend on how a step is cut",
    fix='return Term(x_M.sum(), per="target"), or per segment or tree; see docs/plugins.md',
)
NOTHING_LEARNT = LlamaError.declare(
    "L3-TRN-005",
    "none of {count} updates by {algorithm} had a finite gradient",
    why="the weights that it began with, the examples or the options of {algorithm} are broken",
    fix="look at those, and at metrics.jsonl; nothing is kept of this stage",
)
NEVER_FINITE = PluginError.declare(
    "L3-TRN-006",
    "none of {count} updates of stage {stage} had a finite gradient",
    why="its loss, or the gradient of its loss, is NaN or infinite whatever it is given",
    fix="tell the plugin's author, or choose another algorithm; nothing is kept of this stage",
)
FAMILY = "algorithms"


def build_algorithm(slot: Slot) -> Algorithm:
    """The algorithm that a slot names, under watch (`asked_algorithm`)."""
    return asked_algorithm(slot.name, discover().build(FAMILY, slot.name, slot.options))


def asked_algorithm(name: str, algorithm: Algorithm) -> Algorithm:
    """`algorithm`, each of whose calls raises PluginError (L3-PLG-042, 043) where it fails or returns what the loop
    cannot use. What a device or another rank does to it passes: a run goes on after that."""
    where = f"{FAMILY}.{name}"
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


def shares(terms: Mapping[str, Term], counts: Sequence[float]) -> dict[str, Tensor]:
    """Each term over the update's count of its unit. Raises PluginError for what is no term."""
    if fault := terms_fault(terms):
        raise NO_TERM("algorithm", fault=fault)
    return {name: term.sum * (term.weight / max(counts[UNITS.index(term.per)], 1.0)) for name, term in terms.items()}


def nothing_learnt(stage: str, algorithm: Algorithm, count: int) -> LlamaError:
    """The error for a stage whose updates all had no finite gradient: of a third party's algorithm, the plugin's."""
    where = called(algorithm)
    family, _, name = where.partition(".")
    if family == FAMILY and discover().offer(FAMILY, name).dist != BUILT_IN:
        return NEVER_FINITE(where, count=count, stage=stage)
    return NOTHING_LEARNT(f"stage {stage}", count=count, algorithm=where)
