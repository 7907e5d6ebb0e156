"""One candidate of posttraining.py in its own process: `posttraining_worker.py JOB CANDIDATE FOLDER DATA`.

Reads commands from standard input and answers each with one line of JSON: "step" does the job once, "end" tells the
peak memory. Both sides take one optimizer step on the same rows each time; AdamW with the same constants.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LR, BETA, ANSWERS, NEW_TOKENS, GREEDY_TOKENS = 1e-5, 0.1, 16, 32, 16
ADAMW = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}

Rows = list[dict[str, list[int]]]


class Turns:
    """The other end of the pipe: waits for its turn, and tells how long the turn took."""

    def __init__(self) -> None:
        # Answers go to the standard output that was given; what libraries print goes to standard error.
        self.out = os.dup(1)
        os.dup2(2, 1)

    def ready(self) -> None:
        self._say({"ready": True})

    def wait(self) -> None:
        """Return when a step is asked for; end the process when nothing more is."""
        for line in sys.stdin:
            if line.strip() == "step":
                self.start, self.cpu_start = time.perf_counter(), time.process_time()
                return
            self._say({"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})
        os._exit(0)

    def done(self, **answer: Any) -> None:
        seconds, cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start
        self._say({"seconds": seconds, "cpu_seconds": cpu_seconds, **answer})

    def serve(self, run: Callable[[], dict[str, Any]]) -> None:
        self.ready()
        while True:
            self.wait()
            self.done(**run())

    def _say(self, answer: dict[str, Any]) -> None:
        os.write(self.out, json.dumps(answer).encode() + b"\n")


def tokens(rows: Rows, job: str) -> int:
    """Of the rows as a trainer without sharing sees them, without padding."""
    answers = ("chosen",) if job == "sft" else ("chosen", "rejected")
    return sum(len(row["prompt"]) + len(row[answer]) for row in rows for answer in answers)


# -- training ------------------------------------------------------------------------------------------------


def our_training(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from types import SimpleNamespace

    import numpy as np

    from llama3.checkpoints.load import load_model
    from llama3.config.schema import SFTSection
    from llama3.model import share
    from llama3.posttraining.examples import AnswerTokens, DialogExample
    from llama3.training.loop import train
    from llama3.training.metrics import Reporter
    from llama3.training.parallel import GlobalStats, ParallelContext
    from llama3.training.placed import PlacedModel
    from llama3.training.schedule import Schedule
    from llama3_plugins.algorithms.dpo import DPO
    from llama3_plugins.algorithms.options import DPOOptions, SFTOptions
    from llama3_plugins.algorithms.sft import SFT
    from llama3_plugins.data_kinds.dialogs import Dialogs
    from llama3_plugins.data_kinds.pairs import PairExample, Pairs

    if candidate == "llama3, sharing off":
        share.WORTH_A_FOREST = 1e-9  # type: ignore[assignment]
    span = lambda ids: AnswerTokens(np.array(ids), np.zeros(len(ids), bool))
    model = PlacedModel(load_model(folder))
    context = ParallelContext(torch.device("cpu"))
    options = SFTSection(
        lr=LR, warmup=0, clip=1.0, log_every=1, precision="fp32" if candidate.endswith("fp32") else "bf16", **ADAMW
    )
    if job == "sft":
        algorithm: Any = SFT(SFTOptions())
        examples: list[Any] = [DialogExample(np.array(row["prompt"]), span(row["chosen"])) for row in rows]
        collate, reference = Dialogs().collate, None
    else:
        algorithm = DPO(DPOOptions(beta=BETA, nll_weight=0.0, mask_format=False))
        examples = [PairExample(np.array(r["prompt"]), span(r["chosen"]), span(r["rejected"])) for r in rows]
        collate = Pairs().collate
        scorer = model.scorer(precision=options.precision)
        known = scorer.logps(collate(examples))  # precomputed, as TRL's are
        reference = SimpleNamespace(logps=lambda batch: known)
    batch = np.empty(len(examples), object)
    batch[:] = examples

    def step_examples(_step: int) -> np.ndarray:
        turns.wait()
        return batch

    turns.ready()
    train(
        model,
        algorithm,
        SimpleNamespace(examples=step_examples),  # type: ignore[arg-type]
        collate=collate,
        options=options,
        schedule=Schedule.cosine(LR, 1.0, 0, 1000),
        seed=0,
        services=SimpleNamespace(reference=reference, stats=GlobalStats(context)),  # type: ignore[arg-type]
        reporter=Reporter(
            "bench", progress=lambda _, metrics: turns.done(loss=metrics["loss"], tokens=tokens(rows, job))
        ),
    )


def trl_settings(folder: str, *, bf16: bool) -> dict[str, Any]:
    """Arguments of a trainer of TRL: its fastest setting on a CPU, our AdamW."""
    return {
        "output_dir": str(Path(folder).parent / "trl"),
        "use_cpu": True,
        "bf16": bf16,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "weight_decay": ADAMW["weight_decay"],
        "adam_beta1": ADAMW["beta1"],
        "adam_beta2": ADAMW["beta2"],
        "adam_epsilon": ADAMW["eps"],
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trl_training(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    weights = torch.bfloat16 if "weights" in candidate else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=weights)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done(loss=float(trainer.last_loss), tokens=tokens(rows, job))

    common = {
        **trl_settings(folder, bf16=candidate != "TRL fp32" and weights == torch.float32),
        "per_device_train_batch_size": len(rows),
        "num_train_epochs": 1000,
        "max_grad_norm": 1.0,
        "max_length": None,
    }
    if job == "sft":
        table = [
            {
                "input_ids": row["prompt"] + row["chosen"],
                "labels": [-100] * len(row["prompt"]) + row["chosen"],
            }
            for row in rows
        ]
        config: Any = SFTConfig(
            **common, padding_free="padding-free" in candidate, dataset_kwargs={"skip_prepare_dataset": True}
        )
        kind: type = SFTTrainer
    else:
        table = [{f"{name}_ids": row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
        config, kind = DPOConfig(**common, beta=BETA, precompute_ref_log_probs=True), DPOTrainer
    trainer: Any = _on_tokens(kind)(
        model, args=config, train_dataset=Dataset.from_list(table), processing_class=tokenizer
    )
    trainer.add_callback(Steps())
    turns.ready()
    trainer.train()


def _on_tokens(trainer: type) -> type:
    """The trainer on a data set that is tokenized already; it keeps the loss of its last step unrounded."""

    def training_step(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        self.last_loss = super(kind, self).training_step(*arguments, **options)
        return self.last_loss

    members = {"_prepare_dataset": lambda self, dataset, *_, **__: dataset, "training_step": training_step}
    kind = type(trainer.__name__, (trainer,), members)
    return kind


# -- sampling ------------------------------------------------------------------------------------------------


def our_sampling(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from llama3.checkpoints.load import load_model
    from llama3.inference import Engine, Sampling
    from llama3.inference.engine import throughput_engine

    prompts = [row["prompt"] for row in rows]
    precision = torch.float32 if job == "greedy" else torch.bfloat16
    model = load_model(folder, dtype=precision).requires_grad_(False)

    def greedy() -> dict[str, Any]:
        answers = Engine(model).generate(prompts, Sampling(GREEDY_TOKENS, temperature=0))
        return {"ids": [answer.ids for (answer,) in answers]}

    engine = throughput_engine(model)

    def sample() -> dict[str, Any]:
        engine.reset()  # no prompt is cached from the round before
        made = engine.generate(prompts, Sampling(NEW_TOKENS, n=ANSWERS))
        return {"tokens": sum(len(answer.ids) for answers in made for answer in answers)}

    turns.serve(greedy if job == "greedy" else sample)


def transformers_sampling(turns: Turns, job: str, candidate: str, folder: str, rows: Rows) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    prompts = [row["prompt"] for row in rows]
    precision = torch.float32 if job == "greedy" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).eval()
    settings: dict[str, Any] = (
        {"do_sample": False, "max_new_tokens": GREEDY_TOKENS}
        if job == "greedy"
        else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW_TOKENS}
    )
    count = 1 if job == "greedy" else ANSWERS

    def padded() -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        model.generation_config.eos_token_id = None
        found = model.generate(ids, attention_mask=mask, num_return_sequences=count, pad_token_id=0, **settings)
        return found[:, longest:].tolist()

    def batching() -> list[list[int]]:
        config = GenerationConfig(**settings, eos_token_id=-1, pad_token_id=0)
        repeated = [prompt for prompt in prompts for _ in range(count)]
        found = model.generate_batch(inputs=repeated, generation_config=config, progress_bar=False)
        return [output.generated_tokens for output in found.values()]

    generate = batching if "generate_batch" in candidate else padded

    def step() -> dict[str, Any]:
        ids = generate()
        return {"ids": ids, "tokens": sum(map(len, ids))}

    turns.serve(step)


def main() -> None:
    job, candidate, folder, data = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = json.loads((Path(folder).parent / data).read_text(encoding="utf-8"))
    training = job in ("sft", "dpo")
    if candidate.startswith("llama3"):
        run = our_training if training else our_sampling
    else:
        run = trl_training if training else transformers_sampling
    run(Turns(), job, candidate, folder, rows)


if __name__ == "__main__":
    main()
