"""The core schema of a run: what each key means, its type and its default. Torch-free.

Where a plugin is chosen, its options stay open here (llama3.config.slot_types).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llama3.config.audits import AuditSection
from llama3.config.canaries import CanarySection
from llama3.config.curation import (
    BoundsSection,
    DecontaminationSection,
    LineDedupSection,
    MinHashSection,
    RemovalAlarmSection,
)
from llama3.config.data_quality import QualitySection
from llama3.config.mixes import Mix
from llama3.config.precision import SamplingPrecision, TrainingPrecision
from llama3.config.reject import RejectSection
from llama3.config.reliability import ReliabilitySection
from llama3.config.retune import RetuneSection
from llama3.config.rollouts import OwnAnswersSection, RolloutsSection
from llama3.config.round_audit import RoundAuditSection
from llama3.config.safety_data import SafetyDataSection
from llama3.config.scale_study import ScaleSection
from llama3.config.section import Section
from llama3.config.sizes import SizeSection
from llama3.config.slot_types import (
    AlgorithmSlot,
    AxisSlot,
    CapabilityChoice,
    EvaluatorSlot,
    ExporterSlot,
    FilterSlot,
    GuardPolicy,
    LoggerSlot,
    ParallelSlot,
    QuantizationSlot,
    RewardSlot,
    Slot,
    SourceSlot,
    SuiteSlot,
)
from llama3.config.synthesis import SyntheticSection
from llama3.config.token_files import TokensSection

Axis = Literal["tp", "cp", "pp", "dp"]
"""Of the device mesh."""

Precision = Literal["bf16", "fp16", "fp32"]
"""Of stored weights."""


class RunSection(Section):
    """The run as a whole."""

    name: str = Field("run", description="name of the run, a directory's; its directory is <dir>/<name>")
    dir: str = Field("runs", description="directory that holds runs")
    seed: int = Field(1, ge=0, description="seed of everything random")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads (default: all cores)")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model computes")

    @field_validator("name")
    @classmethod
    def _one_directory(cls, name: str) -> str:
        """A run never leaves the directory of runs, nor is it that directory."""
        if name.strip() in ("", ".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
            raise ValueError("not the name of a directory: letters, digits, - and _ make one")
        return name


class DataSection(Section):
    """What text is read, how it is cleaned and in which proportions it is trained on."""

    sources: list[SourceSlot] = Field(
        default_factory=lambda: [Slot(name="stdlib")], min_length=1, description="where documents come from"
    )
    filters: list[FilterSlot] = Field(
        default_factory=lambda: [Slot(name="gopher")], description="which documents are kept; applied in this order"
    )
    urls: bool = Field(True, description="of the documents of one web address keep the newest only")
    exact: bool = Field(True, description="drop exact duplicates")
    minhash: MinHashSection = MinHashSection()
    against: list[str] = Field(
        default_factory=list,
        description="earlier corpora, or runs that made one, whose documents are not taken again: no exact duplicate, "
        "and with minhash no near one",
    )
    by_language: bool = Field(
        False, description="look for near duplicates and frequent lines inside each language on its own"
    )
    lines: LineDedupSection = LineDedupSection()
    decontaminate: DecontaminationSection = DecontaminationSection()
    bounds: BoundsSection = BoundsSection()
    alarm: RemovalAlarmSection = RemovalAlarmSection()
    tokens: TokensSection | None = Field(None, description="token files of another tool to train on")
    mix: Mix = Field(default_factory=dict, description="weight of each source or class; default: by size")
    classes: dict[str, str] = Field(
        default_factory=dict,
        description="class of each source, such as {web: general, proofs: reasoning}; its sources share its weight",
    )
    packing: Literal["concatenate", "best_fit"] = Field(
        "concatenate",
        description="documents in rows of pretrain.seq_len: one after the other, or laid so that few are cut",
    )
    held_out: float = Field(0.01, gt=0, lt=0.5, description="share of documents kept for evaluation")
    synthetic: SyntheticSection | None = Field(
        None, description="text that a model makes of the sources, before curation; default: none"
    )
    canaries: CanarySection | None = Field(None, description="made-up secrets in the shards; default: none")

    @model_validator(mode="after")
    def _packed_from_text(self) -> Self:
        if self.packing != "concatenate" and self.tokens is not None:
            raise ValueError("`packing` is of documents that are text: token files keep the order that they have")
        return self


class TokenizerSection(Section):
    """Train a tokenizer on the corpus, or load one."""

    path: str | None = Field(None, description="a tiktoken .model or a tokenizer.json; default: train one")
    vocab_size: int = Field(4096, ge=300, le=1 << 24, description="size when trained, special tokens included")
    num_special: int = Field(16, ge=12, le=256, description="special tokens when trained (Llama 3 has 256)")
    sample_bytes: int = Field(8_000_000, ge=1000, description="text the training sees")


class RopeScalingSection(Section):
    """Llama 3.1's RoPE scaling."""

    factor: float = Field(8.0, description="how many times longer the context becomes")
    low_freq_factor: float = Field(
        1.0, description="wavelengths above original_max_position / this are scaled by the full factor"
    )
    high_freq_factor: float = Field(4.0, description="wavelengths below original_max_position / this stay as they are")
    original_max_position: int = Field(8192, description="context length before scaling")


class ModelSection(Section):
    """A released model to start from, or a new one's architecture: a preset, each value of which can be replaced."""

    path: str | None = Field(
        None, description="a released model to start from: a Hugging Face or Meta directory, or a .gguf file"
    )
    preset: str = Field("tiny", description="see llama3.model.config.PRESETS")
    dim: int | None = Field(None, ge=8, le=1 << 20, description="width of the residual stream")
    n_layers: int | None = Field(None, ge=1, le=1 << 14, description="transformer blocks")
    n_heads: int | None = Field(None, ge=1, le=1 << 16, description="query heads")
    n_kv_heads: int | None = Field(
        None, ge=1, le=1 << 16, description="key and value heads, shared by groups of query heads"
    )
    ffn_dim: int | None = Field(None, ge=8, le=1 << 24, description="width of the SwiGLU hidden layer")
    rope_theta: float | None = Field(None, gt=0, description="base of the rotary frequencies")
    rope_scaling: RopeScalingSection | None = None
    norm_eps: float | None = Field(None, gt=0, description="epsilon of RMSNorm")
    tied: bool | None = Field(None, description="input and output embedding are one matrix")
    max_seq_len: int | None = Field(None, ge=8, le=1 << 30, description="longest sequence the model is made for")


STRATEGIES: Mapping[str | None, str] = {"tp": "tensor", "cp": "all_gather", "pp": "pipeline", "dp": "fsdp"}
"""What supplies an axis of several ranks that names no strategy."""


class ParallelismSection(Section):
    """The device mesh, inner to outer [tp, cp, pp, dp], and how each device computes its share. An axis of size over 1
    is supplied by the named plugin, or by the axis's own: `tp: 2` is `tp: {name: tensor, size: 2}`."""

    tp: ParallelSlot = Field(AxisSlot(size=1), description="ranks that share each matrix")
    cp: ParallelSlot = Field(AxisSlot(size=1), description="ranks that share each sequence")
    pp: ParallelSlot = Field(AxisSlot(size=1), description="ranks that share the layers")
    dp: ParallelSlot = Field(AxisSlot(), description="ranks that share the examples of a step")
    activation_bytes: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="bytes that a forward may keep for its backward on each device; beyond that, blocks are computed "
        "again; 0: as little as can be; auto: half of what is free beside weights, gradients and moments",
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="whether the blocks are compiled for training; auto: on a GPU"
    )

    @field_validator("tp", "cp", "pp", "dp")
    @classmethod
    def _named(cls, slot: AxisSlot, info: ValidationInfo) -> AxisSlot:
        return _with_strategy(info.field_name, slot, slot.size or 1)

    @property
    def slots(self) -> dict[Axis, AxisSlot]:
        """The four axes by their names."""
        return {"tp": self.tp, "cp": self.cp, "pp": self.pp, "dp": self.dp}

    def sizes(self, world: int) -> dict[Axis, int]:
        """Ranks along each axis in a world of so many processes."""
        sizes = {axis: slot.size or 1 for axis, slot in self.slots.items()}
        if self.dp.size is None:
            sizes["dp"] = max(1, world // math.prod(sizes.values()))
        return sizes

    def strategies(self, world: int) -> dict[Axis, AxisSlot]:
        """What supplies each axis that has a strategy, in a world of so many processes."""
        sizes = self.sizes(world)
        slots = {axis: _with_strategy(axis, slot, sizes[axis]) for axis, slot in self.slots.items()}
        return {axis: slot for axis, slot in slots.items() if slot.name}


def _with_strategy(axis: str | None, slot: AxisSlot, size: int) -> AxisSlot:
    """With the axis's own strategy, where it has several ranks and the slot names none."""
    return slot if slot.name or size == 1 else slot.model_copy(update={"name": STRATEGIES[axis]})


class OptimizerSection(Section):
    """The optimizer, its schedule and the size of a step."""

    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: Muon for the matrices of the blocks, AdamW for the rest, at the same learning rate"
    )
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    final_lr: float = Field(0.01, ge=0, le=1, description="cosine floor as a share of the peak")
    warmup: int = Field(20, ge=0, description="steps of linear warm-up")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the mean of squared gradients")
    eps: float = Field(1e-8, gt=0, description="added to the denominator of the update")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices; norms and biases have none")
    clip: float = Field(1.0, gt=0, description="gradient norm above which gradients are scaled down")
    microbatch_tokens: int = Field(8192, ge=1, description="tokens of one forward and backward")
    precision: TrainingPrecision = Field(
        "auto", description="of matrix products in training; auto: what this machine multiplies faster in"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    spike: float | None = Field(
        None,
        gt=0,
        description="a logged loss above the median by so many median deviations makes training go back and leave out "
        "the data of these steps; null: never",
    )


Curve = Literal["cosine", "linear", "constant"]
"""How the learning rate goes from its peak to its end."""


class ExtendSection(Section):
    """Long-context stages in place of one phase (paper 3.4.2): a gated phase of longer rows for each length."""

    to: int = Field(131_072, ge=16, le=1 << 30, description="context in the end")
    stages: int = Field(6, ge=1, le=64, description="stages on the way there, at most")
    lengths: list[int] = Field(
        default_factory=list,
        description="context of each stage, up to `to`; default: by about the same factor each time",
    )


class GateSection(Section):
    """What a gated phase must show before the next one begins: the suites of `evaluation.tasks`, measured at the length
    before the stages, are no worse than before them by the margins of `audit`, and every item of `tasks` is right."""

    rounds: int = Field(3, ge=1, le=1000, description="how often the phase is trained until it passes, at most")
    tasks: list[EvaluatorSlot] = Field(
        default_factory=lambda: [SuiteSlot(name="needle")],
        min_length=1,
        description="suites whose items have a `length`; all must be right, up to the context of the phase",
    )


class PhaseSection(Section):
    """Steps of pretraining that are alike. What a phase does not name it takes from `pretrain`; a phase that names none
    of lr, final_lr, warmup and schedule goes on along the learning-rate curve of the one before it.

    A phase that is gated, or that changes the rotary embedding, begins with a new optimizer, and so does the one after
    a gated phase. From there on rows are as long as the longest before, and steps have as many tokens as before.
    """

    steps: int | None = Field(None, ge=1, description="steps of the phase")
    tokens: int | None = Field(None, ge=1, description="in place of steps: so many tokens, in whole steps")
    batch: int | None = Field(None, ge=1, le=1 << 24, description="rows per step over all ranks")
    seq_len: int | None = Field(None, ge=8, le=1 << 30, description="tokens per row")
    mix: Mix = Field(default_factory=dict, description="weight of each source or class; default: data.mix")
    lr: float | None = Field(None, gt=0, description="peak of a new curve; default: the rate that was reached")
    final_lr: float | None = Field(None, ge=0, le=1, description="end of the curve as a share of its peak")
    warmup: int | None = Field(None, ge=0, description="steps of linear warm-up to the peak; default: none")
    schedule: Curve | None = Field(None, description="how the rate goes from the peak to the end")
    average_last: int = Field(
        0, ge=0, description="the final weights are the mean of so many checkpoints of this, the last phase; 0: no mean"
    )
    rope_theta: float | None = Field(None, gt=1, description="base of the rotary frequencies from here on")
    rope_scaling: RopeScalingSection | None = Field(None, description="scaling of the rotary frequencies from here on")
    gated: bool = Field(False, description="the next phase begins only when the model passes `pretrain.gate`")
    extend: ExtendSection | None = Field(
        None, description="long-context stages, which share the phase's steps or tokens: {to: 131072}"
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("a phase has steps or tokens, not both")
        if self.extend is not None and (self.seq_len is not None or self.batch is not None):
            raise ValueError("`extend` says how long the rows are, and steps keep the tokens that they have before it")
        if self.average_last and (self.gated or self.extend is not None):
            raise ValueError("a gated phase ends in no mean: give `average_last` to a phase after it")
        return self

    @property
    def opens_part(self) -> bool:
        """Whether it begins with a new optimizer."""
        return self.gated or self.rope_theta is not None or self.rope_scaling is not None or self.extend is not None


class PretrainSection(OptimizerSection):
    """Next-token prediction over the token shards, in phases. One step reads `batch` rows of `seq_len` tokens."""

    algorithm: AlgorithmSlot = Slot(name="next_token")
    steps: int = Field(1000, ge=1, description="steps of a phase")
    batch: int = Field(16, ge=1, le=1 << 24, description="rows per step over all ranks")
    seq_len: int = Field(512, ge=8, le=1 << 30, description="tokens per row")
    schedule: Curve = Field("cosine", description="how the learning rate goes from its peak to its end")
    phases: list[PhaseSection] = Field(
        default_factory=lambda: [PhaseSection()], min_length=1, description="what follows what; default: one phase"
    )
    gate: GateSection | None = Field(None, description="what gated phases must show; default: that of {}")

    @model_validator(mode="before")
    @classmethod
    def _no_anneal(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "anneal" in values:
            last = "{steps: 150, schedule: linear, final_lr: 0, average_last: 4}"
            raise ValueError(f"the anneal is a phase like others: write `phases: [{{}}, {last}]`")
        return values


class LoRASection(Section):
    """Low-rank adapters: the weights stay frozen and serve as the reference (Hu et al. 2021)."""

    rank: int = Field(16, ge=1, le=1 << 16, description="rank of the update of each matrix")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="the projections that are adapted, by their Hugging Face names",
    )


class TeacherSection(Section):
    """A model whose distributions an algorithm learns from."""

    path: str = Field(description="a model of any layout, with the same tokenizer as the one that learns")


_TEACHER = Field(None, description="for algorithms that need a teacher: {path: FOLDER}")
_MEMBERS = Field(1, ge=1, le=16, description="models that see the data in another order each and are averaged")
_LORA = Field(None, description="train adapters instead of all weights: {rank: 16}")


class SFTSection(OptimizerSection):
    """Supervised finetuning: loss on the target tokens only (paper 4.1.3)."""

    algorithm: AlgorithmSlot = Slot(name="sft")
    members: int = _MEMBERS
    teacher: TeacherSection | None = _TEACHER
    own_answers: OwnAnswersSection | None = Field(
        None, description="for algorithms that draw answers: {max_tokens: 64}; default: that of {}"
    )
    lora: LoRASection | None = _LORA
    epochs: int = Field(2, ge=1, description="passes over the examples")
    batch: int = Field(64, ge=1, le=1 << 24, description="examples per step over all ranks")
    replay: float = Field(0.0, ge=0, le=0.9, description="share of text of the pre-training among the tokens learnt")
    neftune: float | None = Field(
        None, gt=0, description="alpha of the noise on embeddings (NEFTune; 5 is usual); null: no noise"
    )


class PreferSection(OptimizerSection):
    """Preference stage: pairs (or prompts) made with the current model, then the chosen algorithm."""

    members: int = _MEMBERS
    teacher: TeacherSection | None = _TEACHER
    lora: LoRASection | None = _LORA
    prompts: int = Field(512, ge=1, description="prompts asked per round, at most")
    samples: int = Field(8, ge=2, le=64, description="answers per prompt from which pairs are made")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this probability is sampled from")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")
    sampling_precision: SamplingPrecision = Field(
        "auto", description="of sampling; auto: what this machine multiplies few rows faster in"
    )
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    batch: int = Field(32, ge=1, le=1 << 24, description="pairs per step over all ranks")


class RewardSection(OptimizerSection):
    """A reward model, learnt from the pairs or rankings of the preference data (paper 4.1.2)."""

    algorithm: AlgorithmSlot = Slot(name="reward_model")
    members: int = _MEMBERS
    updates: int = Field(
        0,
        ge=0,
        le=64,
        description="times in a round that it goes on learning, from answers that the policy gives by then; the "
        "preference stage has one part more than that",
    )
    lora: LoRASection | None = _LORA
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    batch: int = Field(32, ge=1, le=1 << 24, description="pairs per step over all ranks")


class PostTrainingSection(Section):
    """Rounds of reject -> sft -> prefer -> average (paper 4)."""

    rounds: int = Field(1, ge=0, description="rounds of post-training; 0 leaves it out")
    algorithm: AlgorithmSlot = Field(default_factory=lambda: Slot(name="dpo"), description="of the preference stage")
    rewards: list[RewardSlot] = Field(
        default_factory=lambda: [Slot(name="verifiable")], description="what scores answers"
    )
    data: str | None = Field(
        None, description="your own rows, a .jsonl in TRL's column names; default: made by the model"
    )
    rollouts: RolloutsSection = RolloutsSection()
    reject: RejectSection = RejectSection()
    capabilities: list[CapabilityChoice] = Field(
        default_factory=list,
        description="recipes that make and verify dialogs for one skill, which join those of a round: {name: NAME}",
    )
    sft: SFTSection = SFTSection()
    prefer: PreferSection = PreferSection()
    reward: RewardSection | None = Field(
        None, description="train a reward model, which joins the rewards: {} for its defaults; null: there is none"
    )
    safety: SafetyDataSection | None = Field(
        None, description="dialogs and pairs of safety prompts that join those of a round: {borderline: 1, share: 0.3}"
    )
    quality: QualitySection | None = Field(
        None, description="which dialogs are finetuned on: {}; null: all that passed"
    )
    retune: RetuneSection | None = Field(
        None,
        description="learn from round to round more of what the model fails at: {by: [family]}; null: all alike",
    )
    audit: RoundAuditSection | None = Field(
        None, description="audits that can end the run after a round: {} for their defaults; null: no audits"
    )
    average: list[float] = Field(
        default_factory=lambda: [0.5, 0.5],
        description="weights of the sft and the preference checkpoint; a third is that of the base model",
    )


class SafetySection(Section):
    """The guard policy: a tree of guards per stage (see llama3.safety.policy)."""

    policy: GuardPolicy = Field(
        default_factory=lambda: {"input": {"guard": "prompt_injection"}},
        description="stage -> leaf {guard: NAME or {name: NAME, ...}} or node {any|all: [...]} or "
        "{k_of: {k: 2, of: [...]}}",
    )
    rollouts: bool = Field(
        False, description="judge the answers that a model draws to learn from too: what is refused is not learnt"
    )


class EvaluationSection(Section):
    """What is measured, on held-out data."""

    tasks: list[EvaluatorSlot] = Field(
        description="what is measured",
        default_factory=lambda: [
            SuiteSlot(name="bits_per_byte"),
            SuiteSlot(name="pass_rate"),
        ],
    )
    limit: int = Field(400, ge=1, description="held-out tasks per evaluation, at most")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")


class ReleaseSection(Section):
    """The release directory."""

    exports: list[ExporterSlot] = Field(
        default_factory=lambda: [Slot(name="hf")], min_length=1, description="layouts of the release"
    )
    name: str = Field("Llama-3-tiny", description="name on the model card")
    precision: Precision = Field(
        "bf16", description="of the final weights: what is evaluated, audited, quantized and released"
    )
    license: str | None = Field(
        None, description="license of the released weights; default: that of the adopted model, else apache-2.0"
    )
    red_team: str | None = Field(
        None, description="folder that `llama3 redteam --out` wrote; the model card tells what it found and covered"
    )


class Config(Section):
    """A whole run."""

    extends: str | None = Field(
        None, description="preset or file beside this one that it builds on; such a file may build on another"
    )
    run: RunSection = RunSection()
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    model: ModelSection = ModelSection()
    parallelism: ParallelismSection = ParallelismSection()
    reliability: ReliabilitySection = ReliabilitySection()
    pretrain: PretrainSection = PretrainSection()
    post_training: PostTrainingSection = PostTrainingSection()
    sizes: dict[str, SizeSection] = Field(
        default_factory=dict,
        description="models that this one recipe raises, the teachers of others first; default: one",
    )
    safety: SafetySection = SafetySection()
    quantization: list[QuantizationSlot] = Field(
        default_factory=lambda: [Slot(name="int8")], description="schemes the final model is quantized with"
    )
    evaluation: EvaluationSection = EvaluationSection()
    audit: AuditSection = AuditSection()
    release: ReleaseSection = ReleaseSection()
    scale: ScaleSection | None = Field(None, description="a study of scaling laws: `llama3 scale`")
    logging: list[LoggerSlot] = Field(
        default_factory=lambda: [Slot(name="jsonl"), Slot(name="console")], description="where metrics go"
    )


def own_rows_suite(suite: str, path: str, kind: str) -> dict[str, Any]:
    """What held-out rows of the user's own, of this kind, are measured by, as it would stand in `evaluation.tasks`."""
    if kind == "prompts":
        return {"name": "pass_rate", "suite": suite, "rewards": [{"name": "jsonl_tasks", "path": path}]}
    return {"name": "answer_bits" if kind == "dialogs" else "preference_accuracy", "suite": suite, "path": path}


ATTACKER = "templates"
"""Who writes the attacks of `llama3 redteam` unless said otherwise."""
