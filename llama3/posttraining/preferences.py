"""The stage `preferences`: pairs of a passing and a failing answer of the current model to the same prompt.

Pairs are close to the policy because the policy wrote both sides (paper 4.1.4). A prompt whose answers all pass, or
all fail, teaches no preference: it is skipped and counted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from llama3.artifacts import Checkpoint, Dialogs, StageOutput, stage
from llama3.checkpoints.load import load_model, read_config
from llama3.config.schema import Config
from llama3.errors import DataError
from llama3.inference.engine import throughput_engine
from llama3.model.device import device_of
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.posttraining.guarded_answers import policy_of_rollouts
from llama3.posttraining.rising import near_the_edge, pass_rates, widening
from llama3.posttraining.sampling import (
    Sampled,
    SamplingOptions,
    build_reward,
    draw_tasks,
    sample_tasks,
    sampling_metrics,
    task_messages,
    tell_silent,
    with_room,
)
from llama3.tasks.data_kind import data_kind
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer

NO_PAIRS = DataError.declare(
    "L3-PRF-001",
    "none of {count} prompts has a passing and a failing answer",
    why="{why}",
    fix="raise post_training.prefer.samples or prompts, or the temperature; where no answer is right, train longer "
    "or on easier tasks",
)


PART_SEEDS = 2_000_003
"""Between the seeds of the parts of a round, so that no run of another seed has them too."""


@dataclass(frozen=True, slots=True)
class RoundPart:
    """A part of the preference stage of a round: its number, from 1, and of how many."""

    number: int
    of: int

    def suffix(self, round_number: int) -> str:
        """Ends the names of its artifacts; the last part has those of the whole round."""
        return f"-{round_number}" if self.number == self.of else f"-{round_number}-part{self.number}"


ONLY = RoundPart(1, 1)


class PreferencesOptions(SamplingOptions):
    """Sampling; the pairs follow from it. `prompts_only`: the algorithm samples for itself, and no reward model learns
    from pairs."""

    prompts_only: bool = False
    rising: bool = False
    """Whether most is asked of the families that `asked` was neither sure nor helpless at."""

    @classmethod
    def of(cls, config: Config, round_number: int, part: RoundPart = ONLY) -> Self:
        """From the whole config. Rounds count from 1; each draws other tasks, and other ones than `reject`. A part of
        a round draws its share of them."""
        asked = config.post_training.prefer.prompts
        algorithm = discover().spec("algorithms", config.post_training.algorithm.name)
        samples_itself = isinstance(algorithm, AlgorithmSpec) and "rollouts" in algorithm.needs
        return cls(
            prompts_only=samples_itself and config.post_training.reward is None,
            rising=config.post_training.reject.rising,
            **cls.fields_of(config.post_training.prefer) | {"prompts": max(1, asked // part.of)},
            rewards=tuple(config.post_training.rewards),
            files=named_files(config.post_training.rewards),
            seed=config.run.seed * 1000 + 2 * round_number + 1 + PART_SEEDS * (part.number - 1),
            device=str(device_of(config.run.device)),
            precision=config.post_training.prefer.sampling_precision,
            policy=policy_of_rollouts(config),
        )


@stage(output="preferences")
def preferences(
    checkpoint: Checkpoint,
    reward: Checkpoint | None = None,
    asked: Dialogs | None = None,
    *,
    options: PreferencesOptions,
    out: StageOutput,
) -> None:
    """Write preferences.jsonl, labels.jsonl (every answer, passed or not, for algorithms that need no pairs),
    prompts.jsonl (the tasks, for those that sample themselves) and samples.jsonl. With `prompts_only` it samples
    nothing and writes prompts.jsonl only. `reward` is a checkpoint with a score head that joins the rewards; with
    `rising` the pass rates of the round's dialogs, `asked`, say what is asked most.

    Raises DataError (L3-PRF-001) when no prompt has both a passing and a failing answer.
    """
    folder = checkpoint.path
    config, tokenizer = read_config(folder), Tokenizer.load(folder)
    combined = build_reward(options.rewards, reward, options.device)
    rates = pass_rates(asked) if options.rising else {}
    drawn = draw_tasks(combined, options.prompts * widening(rates), options.seed, out)
    tasks = near_the_edge(drawn, rates, options.prompts)
    write_rows(out.path / "prompts.jsonl", [task.to_json() for task in tasks])
    if options.prompts_only:
        out.metrics |= {"prompts": len(tasks)}
        return
    engine = throughput_engine(load_model(folder, device=options.device), options.precision)
    fitting = with_room(tasks, tokenizer, options.max_tokens, config.max_seq_len, out)
    sampled = sample_tasks(engine, tokenizer, combined, fitting, options, out)
    tell_silent(combined.asked, combined.no_opinion, out)
    made = [pair for row in sampled if (pair := make_pair(row)) is not None]
    pairs, labels = (
        _that_can_be_learnt(kind, rows, tokenizer, config.max_seq_len)
        for kind, rows in (("pairs", made), ("labels", [label for row in sampled for label in make_labels(row)]))
    )
    if not pairs:
        raise NO_PAIRS("preferences", count=len(sampled), why=_why_no_pairs(sampled))
    write_rows(out.path / "preferences.jsonl", pairs)
    write_rows(out.path / "labels.jsonl", labels)
    write_rows(out.path / "samples.jsonl", [line for row in sampled for line in row.rows()])
    skipped = Counter(_skipped(row) for row in sampled if make_pair(row) is None)
    out.metrics |= sampling_metrics(sampled, options) | {
        "pairs": len(pairs),
        "unfit": len(made) - len(pairs),
        "skipped": dict(sorted(skipped.items())),
    }


def make_pair(row: Sampled) -> dict[str, Any] | None:
    """The best passing answer against the most likely failing one, the mistake the model most needs to unlearn."""
    ranked = row.ranked()
    passing = [sample for sample in ranked if sample.passed]
    failing = [sample for sample in ranked if not sample.passed]
    if not passing or not failing:
        return None
    rejected = max(failing, key=lambda sample: sample.mean_logp)
    return {
        "id": row.task.id,
        "family": row.task.family,
        "messages": task_messages(row.task),
        "chosen": passing[0].text,
        "rejected": rejected.text,
        "rewards": [passing[0].reward, rejected.reward],
    }


def _that_can_be_learnt(
    kind: str, rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, context: int
) -> list[dict[str, Any]]:
    """Rows that the chat template takes, whose answers differ as tokens and that fit the context: whatever a model says
    must not end the run."""
    kept = []
    for row in rows:
        with contextlib.suppress(DataError):
            if data_kind(kind).example(tokenizer, row, str(row["id"])).num_tokens <= context:
                kept.append(row)
    return kept


def _why_no_pairs(sampled: Sequence[Sampled]) -> str:
    rewards = {sample.reward for row in sampled for sample in row.ranked()}
    return f"the reward of every answer is {rewards.pop():g}" if len(rewards) == 1 else "pairs need both"


def make_labels(row: Sampled) -> list[dict[str, Any]]:
    """Each scorable answer with whether it passed; equal answers count once."""
    passed = {sample.text: sample.passed for sample in row.ranked()}
    return [
        {"id": row.task.id, "messages": task_messages(row.task), "completion": text, "label": label}
        for text, label in passed.items()
    ]


def _skipped(row: Sampled) -> str:
    ranked = row.ranked()
    if not ranked:
        return "not_scorable"
    return "all_passed" if ranked[-1].passed else "all_failed"
