"""Which models a study trains and on how many tokens: at each budget, the larger the model the fewer tokens.

A training run costs C = 6 N D floating-point operations, N all parameters (a tied output matrix once), D tokens: the
convention by which the paper's 405B parameters and 15.6T tokens are 3.8e25. Attention's own products are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from pydantic import BaseModel, ConfigDict

from llama3.config.schema import Config, ModelSection, PhaseSection, PretrainSection, ScaleSection
from llama3.config.yaml import Path
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError, DataError, Problem
from llama3.model.config import ModelConfig
from llama3.model.needs import TRAINED, Need, memory_here

FEW_SIZES = ConfigError.declare(
    "L3-SCL-001",
    "the budget of {budget} FLOPs gives {count} sizes of model, a curve needs 3",
    why="widths go in steps of one attention head of {head} channels; parameters in range: {sizes}",
    fix="widen scale.tokens_per_parameter, raise the budget, or give model more and narrower heads",
)
FEW_STEPS = ConfigError.declare(
    "L3-SCL-002",
    "the budget of {budget} FLOPs is {steps} steps of its largest model, a run needs {least}",
    why="{parameters} parameters see {tokens} tokens, in steps of {step}",
    fix="lower scale.batches or pretrain.seq_len, raise the budget, or lower the most of scale.sizes",
)
NO_STUDY = ConfigError.declare(
    "L3-SCL-003", "the config describes no study", fix="add `scale: {{budgets: [1.0e12, 3.0e12, 1.0e13]}}`"
)
ADOPTED = ConfigError.declare(
    "L3-SCL-004",
    "a study trains models of its own sizes",
    why="{path} has one size",
    fix="take model.path out; give trained models as scale.trained",
)
FEW_TOKENS = DataError.declare(
    "L3-SCL-005",
    "the smallest model of the budget of {budget} FLOPs needs {needed} tokens, the corpus has {there}",
    why="scale.epochs is {epochs}",
    fix="give more text, lower the budget or the most of scale.tokens_per_parameter, or raise scale.epochs",
)

FLOPS = 6
"""Of one parameter and one training token: 2 forward, 4 backward."""
LEAST_STEPS = 20
"""Of a run: its tokens are whole steps, and so within 2.5 % of what the budget asks."""
FINAL_LR = 0.1
"""Where the cosine ends, as a share of its peak (paper 3.2.1)."""
WARMUP_SHARE = 10
"""Warm-up takes at most one step in so many."""


class StudyRun(BaseModel):
    """One training of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    budget: float
    model: ModelSection
    parameters: int
    steps: int
    batch: int
    seq_len: int
    lr: float
    seed: int

    @property
    def tokens(self) -> int:
        """Training tokens, whole steps."""
        return self.steps * self.batch * self.seq_len

    @property
    def flops(self) -> float:
        """What it really costs; the budget, but for whole steps."""
        return float(FLOPS * self.parameters * self.tokens)

    def training(self, section: PretrainSection) -> PretrainSection:
        """How this run is trained: as `section` says, in one phase along the paper's curve."""
        return section.model_copy(
            update={
                "steps": self.steps,
                "batch": self.batch,
                "seq_len": self.seq_len,
                "lr": self.lr,
                "final_lr": FINAL_LR,
                "schedule": "cosine",
                "warmup": min(section.warmup, self.steps // WARMUP_SHARE),
                "phases": [PhaseSection()],
            }
        )


DEPTHS = 1.5
"""By how much the width over the depth of a model may differ from the base's: small widths alone leave large gaps."""


def runs_of(config: Config, vocab_size: int) -> list[StudyRun]:
    """All runs, budget by budget, the smallest model first. Raises ConfigError for a config without a study."""
    section = section_of(config)
    base = ModelConfig.from_section(config.model, vocab_size)
    runs: list[StudyRun] = []
    for budget, batch in zip(section.budgets, _batches(config, section), strict=True):
        for shape, model in _sizes(section, config.model, base, budget):
            for seed in range(section.seeds):
                steps = round(budget / (FLOPS * model.num_params() * batch * config.pretrain.seq_len))
                runs.append(
                    StudyRun(
                        key=_key(model.num_params(), steps * batch * config.pretrain.seq_len, seed),
                        budget=budget,
                        model=shape,
                        parameters=model.num_params(),
                        steps=steps,
                        batch=batch,
                        seq_len=config.pretrain.seq_len,
                        lr=config.pretrain.lr * (base.num_params() / model.num_params()) ** section.lr_power,
                        seed=config.run.seed + seed,
                    )
                )
    return runs


def _key(parameters: int, tokens: int, seed: int) -> str:
    """A run is known by what it is, not by its place: further budgets, sizes and seeds leave finished runs as they
    are."""
    return f"run-{parameters}-{tokens}" + (f"-{seed + 1}" if seed else "")


def section_of(config: Config) -> ScaleSection:
    """The study that a config describes. Raises ConfigError where there is none."""
    if config.scale is None:
        raise NO_STUDY("scale")
    return config.scale


def study_problems(config: Config, vocab_size: int, place: Callable[[Path], str]) -> Iterator[Problem]:
    """Everything that can be known to be wrong before there are tokens, DoesNotFit among it."""
    section = section_of(config)
    if config.model.path is not None:
        yield ADOPTED.problem(place(("model", "path")), path=config.model.path)
        return
    base, runs = ModelConfig.from_section(config.model, vocab_size), runs_of(config, vocab_size)
    for number, budget in enumerate(section.budgets):
        own = [run for run in runs if run.budget == budget]
        sizes, where = sorted({run.parameters for run in own}), place(("scale", "budgets", number))
        if len(sizes) < 3:
            told = [f"{size:,}" for size in sizes] or ["none"]
            yield FEW_SIZES.problem(where, budget=f"{budget:.3g}", count=len(sizes), head=base.head_dim, sizes=told)
        elif (shortest := min(own, key=lambda run: run.steps)).steps < LEAST_STEPS:
            yield FEW_STEPS.problem(
                where,
                budget=f"{budget:.3g}",
                steps=shortest.steps,
                least=LEAST_STEPS,
                parameters=f"{shortest.parameters:,}",
                tokens=f"{budget / (FLOPS * shortest.parameters):,.0f}",
                step=f"{shortest.batch * shortest.seq_len:,}",
            )
    largest = max(runs, key=lambda run: run.parameters)
    there = memory_here()
    model = ModelConfig.from_section(largest.model, vocab_size)
    if there and (problem := Need("pretraining", TRAINED).problem(model, there, "this machine")):
        yield problem


def require_tokens(config: Config, runs: list[StudyRun], plan: TokenPlan) -> None:
    """Raises DataError, all budgets at once, for runs that would read the corpus oftener than `scale.epochs`."""
    epochs, there = section_of(config).epochs, sum(source.tokens for source in plan.sources)
    problems = []
    for number, budget in enumerate(section_of(config).budgets):
        needed = max(run.tokens for run in runs if run.budget == budget)
        if needed > epochs * there:
            where = f"scale.budgets[{number}]"
            problems.append(
                FEW_TOKENS.problem(
                    where, budget=f"{budget:.3g}", needed=f"{needed:,}", there=f"{there:,}", epochs=f"{epochs:g}"
                )
            )
    if problems:
        raise DataError.of(problems)


def _batches(config: Config, section: ScaleSection) -> list[int]:
    return section.batches or [config.pretrain.batch] * len(section.budgets)


def _sizes(
    section: ScaleSection, shape: ModelSection, base: ModelConfig, budget: float
) -> list[tuple[ModelSection, ModelConfig]]:
    """Models whose tokens per parameter lie between the ends of tokens_per_parameter, smallest first; of many those
    nearest to sizes that lie evenly, in ratios."""
    most, least = (math.sqrt(budget / (FLOPS * ratio)) for ratio in section.tokens_per_parameter)
    fitting = {model.num_params(): (own, model) for own, model in _ladder(shape, base, least, most)}
    if len(fitting) <= section.sizes:
        return [fitting[size] for size in sorted(fitting)]
    chosen: set[int] = set()
    for i in range(section.sizes):
        wanted = least * (most / least) ** (i / (section.sizes - 1))
        chosen.add(min(fitting.keys() - chosen, key=lambda size: abs(math.log(size / wanted))))
    return [fitting[size] for size in sorted(chosen)]


def _ladder(
    shape: ModelSection, base: ModelConfig, least: float, most: float
) -> Iterator[tuple[ModelSection, ModelConfig]]:
    """Models of about the base's proportions with `least` to `most` parameters, one head wider each time.

    Kept are the width of a head, roughly the width of the hidden layer over the model's and the query heads of a
    key-value head, and within a factor of DEPTHS the width over the depth.
    """
    for heads in itertools.count(1):
        dim = heads * (base.dim // base.n_heads)
        groups = max(1, heads * base.n_kv_heads // base.n_heads)
        size = {
            "dim": dim,
            "n_heads": heads,
            "n_kv_heads": max(kv for kv in range(1, groups + 1) if heads % kv == 0),
            "ffn_dim": max(8, 8 * round(dim * base.ffn_dim / base.dim / 8)),
        }

        def rung(layers: int, size: dict[str, int] = size) -> tuple[ModelSection, ModelConfig]:
            section = shape.model_copy(update={**size, "n_layers": layers})
            return section, ModelConfig.from_section(section, base.vocab_size)

        depth = dim * base.n_layers / base.dim
        flattest, deepest = max(1, math.ceil(depth / DEPTHS)), max(1, math.floor(depth * DEPTHS))
        if rung(flattest)[1].num_params() > most:
            return
        if rung(deepest)[1].num_params() >= least:
            rungs = map(rung, range(flattest, deepest + 1))
            yield from ((section, model) for section, model in rungs if least <= model.num_params() <= most)
