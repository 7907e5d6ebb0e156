"""The stage `reject`: rejection sampling (paper 4.2.2). The best verified of K answers becomes training data.

A base model passes almost nothing, so the rewards' own worked examples are mixed in: the part that human-written and
synthetic dialogs play in the paper's mix. Prompts and demonstrations are distinct tasks of the training split. General
dialogs can be mixed in too, so that the model keeps what it could do (rehearsal.py).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Self

from llama3.artifacts import Checkpoint, Dialogs, Report, StageOutput, stage
from llama3.checkpoints.load import load_model, read_config
from llama3.config.schema import Config
from llama3.errors import DataError
from llama3.inference.completion import Completion, FinishReason, Generator
from llama3.inference.engine import Engine, throughput_engine
from llama3.inference.sampling import Sampling
from llama3.model.device import device_of
from llama3.posttraining.examples import dialog_example, prompt_ids
from llama3.posttraining.guarded_answers import AnswerFilter, policy_of_rollouts
from llama3.posttraining.policies import OWN, by_policy
from llama3.posttraining.rehearsal import rehearsals
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
from llama3.posttraining.services import answer_text, chunks
from llama3.tasks import Task, prompt_digest
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer, stop_ids

NONE_PASSED = DataError.declare(
    "L3-REJ-001",
    "none of {count} answers passed",
    why="there is nothing to learn from",
    fix="set post_training.reject.demonstrations above 0",
)

NONE_FIT = DataError.declare(
    "L3-REJ-002",
    "none of {count} dialogs fits",
    why="the model was made for {room} tokens",
    fix="lower post_training.reject.max_tokens, or shorten the prompts",
)

SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s)")
"""Not the point after a list's number."""


class RejectOptions(SamplingOptions):
    """Sampling, and how many worked examples and general dialogs are mixed in."""

    demonstrations: int
    rehearsal: int = 0
    rehearsal_tokens: int = 128
    rising: bool = False
    """Whether most is asked of the families that `earlier` was neither sure nor helpless at."""

    @classmethod
    def of(cls, config: Config, round_number: int) -> Self:
        """From the whole config. Rounds count from 1; each draws other tasks."""
        section = config.post_training.reject
        return cls(
            **cls.fields_of(section),
            demonstrations=section.demonstrations,
            rehearsal=section.rehearsal,
            rehearsal_tokens=section.rehearsal_tokens,
            rising=section.rising,
            rewards=tuple(config.post_training.rewards),
            files=named_files(config.post_training.rewards),
            seed=config.run.seed * 1000 + 2 * round_number,
            device=str(device_of(config.run.device)),
            precision=section.precision,
            policy=policy_of_rollouts(config),
        )


@stage(output="dialogs")
def reject(
    checkpoint: Checkpoint,
    reward: Checkpoint | None = None,
    earlier: Dialogs | None = None,
    chosen: Report | None = None,
    *,
    options: RejectOptions,
    out: StageOutput,
    **others: Checkpoint,
) -> None:
    """Write dialogs.jsonl (what to learn) and samples.jsonl (every answer, the rejected ones too). `reward` is a
    checkpoint with a score head, such as the stage of that name makes, that joins the rewards of the options. `earlier`
    are the dialogs of the round before; with `rising` their pass rates say what is asked most. Where `chosen` (the
    stage `policies`) names one of `others` for a kind of task, that one answers it.

    Raises DataError (L3-REJ-001) when nothing passed and there are no demonstrations.
    """
    folder = checkpoint.path
    room = read_config(folder).max_seq_len
    tokenizer, combined = Tokenizer.load(folder), build_reward(options.rewards, reward, options.device)
    rates = pass_rates(earlier) if options.rising else {}
    tasks = draw_tasks(combined, options.demonstrations + options.prompts * widening(rates), options.seed, out)
    shown = len(tasks) * options.demonstrations // (options.demonstrations + options.prompts * widening(rates))
    edge = near_the_edge(tasks[shown:], rates, options.prompts)
    demonstrations, asked = tasks[:shown], with_room(edge, tokenizer, options.max_tokens, room, out)
    engine = _engine(folder, options)
    sampled: list[Sampled] = []
    for role, theirs in by_policy(asked, chosen).items():
        policy = engine if role == OWN else _engine(others[role].path, options)
        sampled += sample_tasks(policy, tokenizer, combined, theirs, options, out)
    tell_silent(combined.asked, combined.no_opinion, out)
    dialogs = [_dialog(task, task.reference, "demonstration") for task in demonstrations]
    accepted = [(row.task, best) for row in sampled if (best := _accepted(row)) is not None]
    dialogs += [_dialog(task, best, "rejection_sampling") for task, best in accepted]
    if not dialogs:
        raise NONE_PASSED("reject", count=len(sampled) * options.samples)
    dialogs += rehearse(engine, tokenizer, options, out)
    dialogs, unfit = _that_can_be_learnt(dialogs, tokenizer, room)
    if unfit:
        out.event("dialogs_unfit", dialogs=unfit, context=room)
        told = f"{unfit:,} of {len(dialogs) + unfit:,} dialogs do not fit into {room:,} tokens or the chat template"
        out.display.note(f"[yellow]![/] {told}: left out")
    write_rows(out.path / "dialogs.jsonl", dialogs)
    write_rows(out.path / "samples.jsonl", [line for row in sampled for line in row.rows()])
    sources = Counter(dialog["source"] for dialog in dialogs)
    out.metrics |= sampling_metrics(sampled, options) | {"dialogs": dict(sorted(sources.items())), "unfit": unfit}


def rehearse(
    generator: Generator, tokenizer: Tokenizer, options: RejectOptions, out: StageOutput
) -> list[dict[str, Any]]:
    """Dialogs of `options.rehearsal` general prompts with the model's own greedy answers. One that does not end within
    `rehearsal_tokens` is cut after its last whole sentence, because learning the rest would teach to break off."""
    dialogs = []
    greedy = Sampling(options.rehearsal_tokens, temperature=0, seed=options.seed, stop_ids=stop_ids(tokenizer))
    with out.progress("rehearsal", options.rehearsal) as progress, AnswerFilter(options.policy) as guard:
        for chunk in chunks(rehearsals(options.rehearsal, options.seed), 64):
            asked = [row for row in chunk if row.answer is None]
            prompts = [prompt_ids(tokenizer, [{"role": "user", "content": row.prompt}]).tolist() for row in asked]
            found = generator.generate(prompts, greedy)
            own = {row.prompt: whole_sentences(tokenizer, answer) for row, (answer,) in zip(asked, found, strict=True)}
            for row in chunk:
                asked_with = [{"role": "user", "content": row.prompt}]
                if (answer := row.answer or own[row.prompt]) and (row.answer or guard.passes(asked_with, answer)):
                    turns = (("user", row.prompt), ("assistant", answer))
                    messages = [{"role": role, "content": content} for role, content in turns]
                    dialogs.append({"id": prompt_digest(row.prompt), "source": "rehearsal", "messages": messages})
            progress.advance(len(chunk))
    return dialogs


def whole_sentences(tokenizer: Tokenizer, answer: Completion) -> str:
    """An answer up to the end of its last whole sentence; "" where not even one was finished."""
    text = answer_text(tokenizer, answer.ids).strip()
    if answer.finish_reason is FinishReason.STOP:
        return text
    return text[: max((end.end() for end in SENTENCE_END.finditer(text)), default=0)]


def _engine(model: Path, options: RejectOptions) -> Engine:
    return throughput_engine(load_model(model, device=options.device), options.precision)


def _accepted(row: Sampled) -> str | None:
    """The best answer that passed and says something."""
    return next((sample.text for sample in row.ranked() if sample.passed and sample.text.strip()), None)


def _that_can_be_learnt(
    dialogs: list[dict[str, Any]], tokenizer: Tokenizer, room: int
) -> tuple[list[dict[str, Any]], int]:
    """Those that the chat template takes and that fit the context, and the number of the others: whatever a model says
    must not end the run. Raises DataError where none is left."""
    kept, problems = [], []
    for row in dialogs:
        try:
            if dialog_example(tokenizer, row["messages"], str(row["id"])).num_tokens <= room:
                kept.append(row)
        except DataError as error:
            problems += error.problems
    if not kept:
        raise DataError.of(problems) if problems else NONE_FIT("reject", count=len(dialogs), room=room)
    return kept, len(dialogs) - len(kept)


def _dialog(task: Task, answer: str, source: str) -> dict[str, Any]:
    messages = [*task_messages(task), {"role": "assistant", "content": answer}]
    return {"id": task.id, "source": source, "family": task.family, "messages": messages}
