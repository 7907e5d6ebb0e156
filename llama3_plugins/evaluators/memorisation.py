"""How often a model goes on word for word as its training data does (Llama 3 paper, 5.4.2).

Runs of tokens are drawn from the token shards, each place as likely as any other, so that what occurs often is drawn
often: a plain share of them is an average by prevalence. The model is given the beginning of a run after BOS, and says
greedily what follows. Two shares are told: how many answers hold the true continuation (the inclusion rate), and how
many hold any n tokens that stand together in the training data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llama3.errors import DataError
from llama3.evaluators import Llama, Result, Sampling, Subject, TokenPlan, count_ngrams, draw_runs, wilson
from llama3_plugins.evaluators.options import MemorisationOptions

NO_SHARDS = DataError.declare(
    "L3-EVL-080",
    "nobody knows what this model was trained on",
    why="its lineage names no token shards that are here",
    fix="name them: {{name: {evaluator}, path: runs/NAME/artifacts/shard/plan.json}}",
)
OTHER_TOKENS = DataError.declare(
    "L3-EVL-081",
    "the token shards are of another tokenizer than the model's",
    why="{shards} there, {model} here",
    fix="name shards that the model's tokenizer made",
)
NO_ROOM = DataError.declare(
    "L3-EVL-082",
    "{tokens} tokens do not fit into the model's context of {limit}",
    fix="give the suite fewer: prompt + answer is at most {room}",
)
NO_RUN = DataError.declare(
    "L3-EVL-083", "no training document has {length} tokens in a row", fix="give the suite a smaller prompt or n"
)

BANDS: Mapping[str, tuple[int, float]] = {
    "1": (1, 1), "2-9": (2, 9), "10-99": (10, 99), "100 and more": (100, float("inf"))
}  # fmt: skip
"""How often a run occurs, all of it: first and last number of each band."""


class Memorisation:
    """Result: `inclusion` and `verbatim` {rate, low, high, n}, both also by source and by how often the run occurs. One
    sample per run, of score 1 where the answer does not hold the continuation, so that higher is better."""

    def __init__(self, options: MemorisationOptions) -> None:
        self.options = options
        self.plan = None if options.path is None else TokenPlan.load(Path(options.path))

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        options, model = self.options, subject.model
        plan = known_shards(self.plan or subject.shards, model, "memorisation")
        said = options.answer or 2 * options.n
        require_room(model, options.prompt + said)
        runs = draw_runs(plan, options.prompt + options.n, options.limit or limit, seed)
        if not runs.ids:
            raise NO_RUN("memorisation", length=options.prompt + options.n)
        answers = greedy(model, runs.tokens[:, : options.prompt], said)
        rows = [
            {"id": runs.ids[k], "source": runs.sources[k], **facts}
            for k, facts in enumerate(self._facts(plan, model, runs.tokens, answers))
        ]
        metrics = {
            **_rates(rows),
            "by_frequency": {
                name: _rates([row for row in rows if low <= row["occurs"] <= high])
                for name, (low, high) in BANDS.items()
            },
            "by_source": {
                source.name: _rates([row for row in rows if row["source"] == source.name]) for source in plan.sources
            },
            "asked": {
                "n": options.n,
                "prompt": options.prompt,
                "generated": said,
                "tokens": sum(source.tokens for source in plan.sources),
            },
        }
        return Result(metrics, rows, rate_better="lower", scored="not recited")

    def _facts(
        self, plan: TokenPlan, model: Llama, runs: np.ndarray, answers: Sequence[np.ndarray]
    ) -> Iterator[dict[str, Any]]:
        """What is told of each run and its answer."""
        n, decode = self.options.n, model.tokenizer.decode
        often = count_ngrams(plan, runs, runs.shape[1])[:, 0]
        is_verbatim = [bool(found.any()) for found in count_ngrams(plan, np.stack(answers), n)]
        for run, answer, occurs, verbatim in zip(runs, answers, often, is_verbatim, strict=True):
            prompt, truth = run[: self.options.prompt], run[self.options.prompt :]
            included = bool((sliding_window_view(answer, n) == truth).all(1).any())
            yield {
                "occurs": int(occurs),
                "prompt": decode(prompt),
                "reference": decode(truth),
                "answer": decode(answer),
                "included": included,
                "verbatim": verbatim,
                "score": float(not included),
            }


def known_shards(plan: TokenPlan | None, model: Llama, evaluator: str) -> TokenPlan:
    """The shards. Raises DataError where there are none, or they are not in the model's tokens."""
    if plan is None:
        raise NO_SHARDS(evaluator, evaluator=evaluator)
    if plan.tokenizer != model.tokenizer.hash:
        raise OTHER_TOKENS(evaluator, shards=plan.tokenizer[:16], model=model.tokenizer.hash[:16])
    return plan


def require_room(model: Llama, tokens: int) -> None:
    """Raises DataError where BOS and so many tokens are more than the model's context."""
    limit = model.config.max_seq_len
    if tokens + 1 > limit:
        raise NO_ROOM("suite", tokens=tokens + 1, limit=limit, room=limit - 1)


def greedy(model: Llama, prompts: Sequence[np.ndarray] | np.ndarray, tokens: int) -> list[np.ndarray]:
    """What the model says after BOS and each prompt: the likeliest token every time, whatever ends an answer."""
    bos = model.tokenizer.encode("", bos=True)
    sampling = Sampling(max_tokens=tokens, temperature=0.0, stop_ids=frozenset())
    asked = [np.concatenate([bos, prompt]) for prompt in prompts]
    return [np.array(answer.ids, np.uint32) for (answer,) in model.engine.generate(asked, sampling)]


def _rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Both shares of some rows; none of no rows."""
    return {
        name: wilson(sum(row[column] for row in rows), len(rows)).to_json() if rows else None
        for name, column in (("inclusion", "included"), ("verbatim", "verbatim"))
    }
