"""The stage `probe`: what a model answers to training prompts that were drawn for no other stage, judged by verifiers.
What the audit of a round reads (llama3.evaluation.round_audit)."""

from __future__ import annotations

from typing import Self

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.checkpoints.load import load_model, read_config
from llama3.config.schema import Config
from llama3.config.slot_types import RewardSlot
from llama3.inference.engine import throughput_engine
from llama3.model.device import device_of
from llama3.posttraining.sampling import (
    SamplingOptions,
    build_reward,
    draw_tasks,
    sample_tasks,
    sampling_metrics,
    tell_silent,
    with_room,
)
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer

ANSWERS, TASKS = "samples.jsonl", "tasks.jsonl"


class RoundProbeOptions(SamplingOptions):
    """Sampling as the preference step does it; `verifiers` judge."""

    verifiers: tuple[RewardSlot, ...]

    @classmethod
    def of(cls, config: Config, round_number: int) -> Self:
        """From the whole config, whose `post_training.audit` is given."""
        post, section = config.post_training, config.post_training.audit
        assert section is not None
        rewards = tuple(post.rewards)
        return cls(
            **cls.fields_of(post.prefer) | {"prompts": section.prompts, "samples": section.samples},
            rewards=rewards,
            verifiers=tuple(section.verifiers) or rewards,
            files=named_files([*rewards, *section.verifiers]),
            seed=config.run.seed * 1000 + 700 + round_number,
            device=str(device_of(config.run.device)),
            precision=post.prefer.sampling_precision,
        )


@stage(output="report")
def probe(checkpoint: Checkpoint, *, options: RoundProbeOptions, out: StageOutput) -> None:
    """Write samples.jsonl (every answer with whether it `passed`) and tasks.jsonl. Raises DataError where the verifiers
    can score none of the answers."""
    folder = checkpoint.path
    tokenizer, room = Tokenizer.load(folder), read_config(folder).max_seq_len
    tasks = draw_tasks(build_reward(options.rewards, None, options.device), options.prompts, options.seed, out)
    asked = with_room(tasks, tokenizer, options.max_tokens, room, out)
    engine = throughput_engine(load_model(folder, device=options.device), options.precision)
    verifier = build_reward(options.verifiers, None, options.device)
    sampled = sample_tasks(engine, tokenizer, verifier, asked, options, out)
    tell_silent(verifier.asked, verifier.no_opinion, out)
    write_rows(out.path / ANSWERS, [line for row in sampled for line in row.rows()])
    write_rows(out.path / TASKS, [row.task.to_json() for row in sampled])
    out.metrics |= sampling_metrics(sampled, options)
