"""TRL 1.12's PPO in a process of its own: `python trl_ppo_oracle.py FOLDER < cases.json > results.json`.

TRL dropped PPO after 1.12, and its trainer is one long method. Its helpers, and the statements of that method which
make advantages and losses, are taken out of TRL's own file by name and run as they stand there.

A case holds padded rows (logprobs, ref_logprobs, values, new_logprobs, vpred), `lengths`, `scores` and `args`. TRL puts
the score on the position after the end token, where the row has one; with rows as wide as their answers it lands on the
last token. `score_at: "end"` makes it land there in shorter rows too, by giving TRL's two variables that
reach one position further the values of those that do not.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

HELPERS = ("masked_mean", "masked_var", "masked_whiten")


def assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name


def between(method: ast.AST, first: str, last: str) -> Any:
    """The statements of one block from the first that assigns `first` to the last that assigns `last`."""
    for node in ast.walk(method):
        body = getattr(node, "body", None)
        if isinstance(body, list) and any(assigns(statement, first) for statement in body):
            start = next(i for i, statement in enumerate(body) if assigns(statement, first))
            end = max(i for i, statement in enumerate(body) if assigns(statement, last))
            return compile(ast.Module(body[start : end + 1], []), "<trl>", "exec")
    raise SystemExit(f"no block of TRL's PPO assigns {first}")


def main(folder: Path) -> None:
    tree = ast.parse((folder / "trl/experimental/ppo/ppo_trainer.py").read_text(encoding="utf-8"))
    helpers = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in HELPERS]
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PPOTrainer")
    train = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    scope: dict[str, Any] = {"torch": torch, "empty_cache": lambda: None}
    exec(compile(ast.Module(helpers, []), "<trl>", "exec"), scope)
    code = {
        "masks": between(train, "response_idxs", "values"),
        "advantages": between(train, "logr", "advantages"),
        "loss": between(train, "vpredclipped", "loss"),
        "statistics": between(train, "pg_clipfrac", "approxkl"),
    }
    json.dump([run(case, dict(scope), code) for case in json.load(sys.stdin)], sys.stdout)


def run(case: dict[str, Any], v: dict[str, Any], code: dict[str, Any]) -> dict[str, Any]:
    rows = ("logprobs", "ref_logprobs", "values", "new_logprobs", "vpred", "scores")
    v |= {name: torch.tensor(case[name]) for name in rows}
    v["args"] = SimpleNamespace(**case["args"])
    v["responses"], v["sequence_lengths"] = v["logprobs"], torch.tensor(case["lengths"]) - 1
    v["INVALID_LOGPROB"] = 1.0
    exec(code["masks"], v)
    if case["score_at"] == "end":
        v["sequence_lengths_p1"], v["padding_mask_p1"] = v["sequence_lengths"], v["padding_mask"]
        v["values"] = torch.masked_fill(v["values"], v["padding_mask"], 0)  # TRL's own line, with that mask
    exec(code["advantages"], v)
    v["mb_advantage"], v["mb_return"], v["mb_values"] = v["advantages"], v["returns"], v["values"]
    v["mb_logprobs"], v["micro_batch_inds"] = v["logprobs"], torch.arange(len(v["values"]))
    leaves = [v[name].requires_grad_() for name in ("new_logprobs", "vpred")]
    v["new_logprobs"] = torch.masked_fill(leaves[0], v["padding_mask"], v["INVALID_LOGPROB"])
    v["vpred"] = torch.masked_fill(leaves[1], v["padding_mask_p1"], 0)
    exec(code["loss"], v)
    v["loss"].backward()
    v["prob_dist"] = v["logits"] = torch.zeros(1, 1, 1)  # for the entropy, which is not compared
    with torch.no_grad():
        exec(code["statistics"], v)
    return {
        "advantages": v["advantages"].tolist(),
        "returns": v["returns"].tolist(),
        "kl": v["kl"].tolist(),
        "loss": v["loss"].item(),
        "policy": v["pg_loss"].item(),
        "value": v["vf_loss"].item(),
        "clipfrac": v["pg_clipfrac"].item(),
        "value_clipfrac": v["vf_clipfrac"].item(),
        "grads": [leaf.grad.tolist() for leaf in leaves],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
