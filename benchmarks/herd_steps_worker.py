"""One candidate of herd_steps.py in its own process: `herd_steps_worker.py JOB CANDIDATE FOLDER DATA`.

JOB is "grpo" or "ppo": one step draws ANSWERS answers of NEW_TOKENS tokens to every prompt, rewards them by the share
of even token ids, and learns from them. With "given" in the candidate's name the answers are those of the data, so that
both sides must have equal losses. Commands and answers are those of posttraining_worker.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from posttraining_worker import ADAMW, LR, Rows, Turns, trl_settings

ANSWERS, NEW_TOKENS = 8, 32
UNUSED = "<|endoftext|>"
"""A token that no prompt has."""
EPOCHS = 2
"""Of PPO, so that the second pass sees what the first has done."""
PPO = {"kl_coef": 0.05, "lam": 0.95, "vf_coef": 0.1, "clip": 0.2, "clip_value": 0.2}


def ppo_options(candidate: str) -> dict[str, float]:
    """Of given answers no value is learnt: ours has a head on the policy's trunk and TRL a stand-in, which would learn
    other values, and from them other advantages."""
    return {**PPO, "vf_coef": 0.0} if "given" in candidate else PPO


def reward(ids: list[int]) -> float:
    """The share of even ids."""
    return sum(token % 2 == 0 for token in ids) / len(ids)


def ours(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    import numpy as np

    from llama3.checkpoints.load import load_model
    from llama3.config.schema import PreferSection
    from llama3.inference.completion import Completion, FinishReason
    from llama3.inference.sampling import Sampling
    from llama3.training.loop import train
    from llama3.training.metrics import Reporter
    from llama3.training.parallel import GlobalStats, Parallel, ParallelContext
    from llama3.training.placed import PlacedModel
    from llama3.training.rollouts import Rewards, Rollouts
    from llama3.training.schedule import Schedule
    from llama3_plugins.algorithms import ppo
    from llama3_plugins.algorithms.grpo import GRPO
    from llama3_plugins.algorithms.options import GRPOOptions, PPOOptions
    from llama3_plugins.data_kinds.prompts import PromptExample, Prompts

    context = ParallelContext(torch.device("cpu"))
    heads = ["value_head"] if job == "ppo" else []
    model = PlacedModel.loaded(folder, Parallel(context), heads=heads)
    precision: Any = "fp32" if "fp32" in candidate else "bf16"
    options = PreferSection(lr=LR, warmup=0, clip=1e9, log_every=1, precision=precision, **ADAMW)
    if job == "grpo":
        algorithm: Any = GRPO(GRPOOptions(samples=ANSWERS))
        want, logged = frozenset({"logps"}), frozenset({"entropy"})
    else:
        algorithm = ppo.PPO(PPOOptions(samples=ANSWERS, epochs=EPOCHS, **ppo_options(candidate)))
        want, logged = frozenset({"logps", "values"}), frozenset({"entropy"})
    scorer = model.scorer(precision=precision)
    frozen = PlacedModel(load_model(folder)).frozen().scorer(precision=precision) if job == "ppo" else None

    class Given:
        def generate(self, prompts: Any, sampling: Sampling) -> list[list[Completion]]:
            done = lambda ids: Completion(ids, [0.0] * len(ids), FinishReason.LENGTH)
            return [[done(ids) for ids in row["answers"]] for row in rows]

    class Even:
        def score(self, batch: Any) -> Rewards:
            even_S = batch.mean_by_segment((batch.target_ids_M % 2 == 0).float())
            answers = batch.segment_M.unique()
            return Rewards({"reward": even_S[answers].tolist()}, ())

    drawing: Any = Given() if "given" in candidate else model.generator(precision)
    examples = np.empty(len(rows), object)
    examples[:] = [PromptExample(np.array(row["prompt"]), i) for i, row in enumerate(rows)]

    def step_examples(_step: int) -> Any:
        turns.wait()
        return examples

    def told(_: int, metrics: Any) -> None:
        names = ("loss", "entropy") if job == "grpo" else ("loss/policy",)
        losses = [metrics[name] for name in names]
        turns.done(loss=losses, tokens=len(rows) * ANSWERS * NEW_TOKENS)

    turns.ready()
    train(
        model,
        algorithm,
        SimpleNamespace(examples=step_examples),  # type: ignore[arg-type]
        collate=Prompts().collate,
        options=options,
        schedule=Schedule.cosine(LR, 1.0, 0, 1000),
        seed=0,
        want=want,  # type: ignore[arg-type]
        want_logged=logged,  # type: ignore[arg-type]
        services=SimpleNamespace(  # type: ignore[arg-type]
            policy=scorer, value=scorer, reference=frozen, stats=GlobalStats(context), sampling=Sampling(NEW_TOKENS)
        ),
        rollouts=Rollouts(drawing, Sampling(NEW_TOKENS), Even()),
        reporter=Reporter("bench", progress=told),
    )


def _trl_settings(candidate: str, folder: str) -> dict[str, Any]:
    """What the trainers of both versions take."""
    sampling = {"temperature": 1.0, "max_grad_norm": 1e9, "logging_steps": 1}
    return trl_settings(folder, bf16=candidate == "TRL bf16") | sampling


def _trl_model(candidate: str, folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = torch.bfloat16 if "weights" in candidate else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # TRL's PPO takes every token that equals the padding for padding, and <|im_end|>, which ends each turn of a prompt,
    # is this model's: with it both sides would learn from other contexts.
    tokenizer.pad_token = UNUSED
    return AutoModelForCausalLM.from_pretrained(folder, dtype=weights), tokenizer


def trl_grpo(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = _trl_model(candidate, folder)

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            losses = [float(trainer.last_loss), trainer._metrics["train"]["entropy"][-1]]
            turns.done(loss=losses, tokens=len(rows) * ANSWERS * NEW_TOKENS)

    class Trainer(GRPOTrainer):
        def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
            self.last_loss = super().training_step(*arguments, **options)
            return self.last_loss

    def given(prompts: list[str], _trainer: Any) -> dict[str, Any]:
        places = [int(prompt) for prompt in prompts]
        return {
            "prompt_ids": [rows[place]["prompt"] for place in places],
            "completion_ids": [rows[place]["answers"][i % ANSWERS] for i, place in enumerate(places)],
            "logprobs": None,
        }

    config = GRPOConfig(
        **_trl_settings(candidate, folder),
        per_device_train_batch_size=len(rows) * ANSWERS,
        num_train_epochs=1000,
        num_generations=ANSWERS,
        max_completion_length=NEW_TOKENS,
        shuffle_dataset=False,
        generation_kwargs={"min_new_tokens": NEW_TOKENS, "top_k": 0},
    )
    texts = [str(i) if "given" in candidate else tokenizer.decode(row["prompt"]) for i, row in enumerate(rows)]
    trainer: Any = Trainer(
        model,
        reward_funcs=[lambda completion_ids, **_: [reward(ids) for ids in completion_ids]],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        rollout_func=given if "given" in candidate else None,
    )
    trainer.add_callback(Steps())
    turns.ready()
    trainer.train()


class Small(torch.nn.Module):
    """Stands for TRL's reward and value models, which are whole models there: it costs nothing. Its `score` gives the
    reward on every token, or 0 that learns nothing of the text, as a new value head does."""

    base_model_prefix = "backbone"

    def __init__(self, of_reward: bool, context: int) -> None:
        super().__init__()
        self.of_reward, self.context = of_reward, context
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace()

    @property
    def backbone(self) -> Any:
        return self.hidden

    def hidden(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(hidden_states=[input_ids[..., None].float()])

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.of_reward:
            return torch.zeros_like(hidden) + self.bias
        even = (hidden[:, self.context :] % 2 == 0).float().mean(1, keepdim=True)
        return even.expand(-1, hidden.shape[1], -1)


def trl_ppo(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    model, tokenizer = _trl_model(candidate, folder)
    reference, _ = _trl_model(candidate, folder)
    longest, options = max(len(row["prompt"]) for row in rows), ppo_options(candidate)
    generate, begun = ppo_trainer.batch_generation, []
    made = torch.tensor([ids for row in rows for ids in row["answers"]])

    def batch_generation(policy: Any, queries: torch.Tensor, *arguments: Any) -> Any:
        if begun:
            turns.done(loss=begun[-1], tokens=len(rows) * ANSWERS * NEW_TOKENS)
        begun.append([])
        turns.wait()
        if "given" not in candidate:
            return generate(policy, queries, *arguments)
        both = torch.cat([queries, made], dim=1)
        with torch.no_grad():
            logits = ppo_trainer.forward(policy, both, tokenizer.pad_token_id).logits
        return both, logits[:, queries.shape[1] - 1 : -1]

    ppo_trainer.batch_generation = batch_generation
    config = PPOConfig(
        **_trl_settings(candidate, folder),
        per_device_train_batch_size=len(rows) * ANSWERS,
        local_rollout_forward_batch_size=len(rows) * ANSWERS,
        total_episodes=1000 * len(rows) * ANSWERS,
        num_ppo_epochs=EPOCHS,
        num_mini_batches=1,
        num_sample_generations=0,
        response_length=NEW_TOKENS,
        kl_coef=options["kl_coef"],
        lam=options["lam"],
        vf_coef=options["vf_coef"],
        cliprange=options["clip"],
        cliprange_value=options["clip_value"],
    )
    padded = [[tokenizer.pad_token_id] * (longest - len(row["prompt"])) + row["prompt"] for row in rows]
    trainer: Any = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=model,
        ref_model=reference,
        reward_model=Small(True, longest),
        value_model=Small(False, longest),
        train_dataset=Dataset.from_dict({"input_ids": [ids for ids in padded for _ in range(ANSWERS)]}),
    )
    model.generation_config.eos_token_id = None
    log = trainer.log
    trainer.log = lambda told, *rest, **more: (
        begun[-1].append(told["loss/policy_avg"]) if "loss/policy_avg" in told else None,
        log(told, *rest, **more),
    )
    turns.ready()
    trainer.train()


def main() -> None:
    job, candidate, folder, data = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = json.loads((Path(folder).parent / data).read_text(encoding="utf-8"))
    run = ours if candidate.startswith("llama3") else {"grpo": trl_grpo, "ppo": trl_ppo}[job]
    run(Turns(), job, candidate, folder, rows)


if __name__ == "__main__":
    main()
