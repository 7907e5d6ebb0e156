"""Functions of verl's own files, without Ray and what else its package imports: taken out by name, as they stand."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ORACLE = Path(sys.prefix) / "oracles" / "verl-0.9.1"


def _functions(file: str, names: tuple[str, ...], scope: dict[str, Any]) -> SimpleNamespace:
    tree = ast.parse((ORACLE / file).read_text(encoding="utf-8"))
    chosen = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in chosen:
        node.decorator_list, node.returns = [], None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
    exec(compile(ast.Module(chosen, []), "<verl>", "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def verl() -> SimpleNamespace:
    """The functions that our tests compare with."""
    masked = ("masked_sum", "masked_mean", "masked_var", "masked_whiten")
    helpers = _functions("verl/utils/torch_functional.py", masked, {"torch": torch})
    names = (
        "agg_loss", "compute_policy_loss_vanilla", "compute_reinforce_plus_plus_baseline_outcome_advantage",
        "compute_reinforce_plus_plus_outcome_advantage", "kl_penalty_forward",
    )  # fmt: skip
    scope = {"torch": torch, "verl_F": helpers, "defaultdict": defaultdict, "AlgoConfig": type("AlgoConfig", (), {})}
    return _functions("verl/trainer/ppo/core_algos.py", names, scope)
