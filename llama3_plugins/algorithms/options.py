"""Options of the algorithms, apart from them so that checking a config imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

KLEstimator = Literal["k1", "k2", "k3", "abs"]
F_ALPHA, JSD_BETA, SAMPLER_CAP = 0.5, 0.5, 3.0
_ESTIMATORS = "k1: log ratio; k2: half its square; k3: never negative; abs: its size"

LossName = Literal[
    "sigmoid", "cdpo", "robust", "hinge", "ipo", "sigmoid_norm", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "simpo",
]  # fmt: skip
"""The preference losses; llama3_plugins.algorithms.preference_losses has their equations."""
BATCH_WIDE: frozenset[LossName] = frozenset({"aot", "aot_unpaired"})
"""Losses that compare each pair with others of its step."""
_SMOOTHED: frozenset[LossName] = BATCH_WIDE | {"cdpo", "robust", "exo_pair"}
_DIVERGING: frozenset[LossName] = frozenset(
    {"sigmoid", "cdpo", "robust", "hinge", "ipo", "sigmoid_norm", "exo_pair", "discopop"}
)


def _sigmoid() -> dict[LossName, float]:
    return {"sigmoid": 1.0}


class PreferenceOptions(BaseModel):
    """Of the algorithms that learn from a better and a worse answer. The paper's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: dict[LossName, float] = Field(
        default_factory=_sigmoid,
        description=f"one of {', '.join(get_args(LossName))}; or several: a list, or names with weights",
        min_length=1,
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs whose label is wrong (cdpo, robust, exo_pair, aot, aot_unpaired)"
    )
    gamma: float = Field(0.5, ge=0, description="margin by which the chosen answer must win (simpo)")
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        "reverse_kl", description="divergence that binds the policy to the reference (losses of the margin z)"
    )
    f_alpha: float = Field(F_ALPHA, gt=0, lt=1, description="alpha of alpha_divergence; towards 1 it is the reverse KL")
    reference_free: bool = Field(False, description="take a reference that finds all answers equally likely")
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the tokens beyond the shorter answer's length (LD-DPO); null: 1"
    )
    nll_weight: float = Field(0.2, ge=0, description="weight of the chosen answer's negative log-likelihood")
    nll_reduction: Literal["sequence_mean", "token_mean"] = Field(
        "sequence_mean",
        description="mean over answers of their means (Pang et al. 2024), or over all their tokens (TRL)",
    )
    mask_format: bool = Field(True, description="leave header and end tokens out of the preference losses")

    @field_validator("loss", mode="before")
    @classmethod
    def _with_weights(cls, loss: Any) -> Any:
        """A name or a list of names stands for weights of 1."""
        names = [loss] if isinstance(loss, str) else loss
        return dict.fromkeys(names, 1.0) if isinstance(names, list | tuple) else names

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if "exo_pair" in self.loss and self.label_smoothing == 0:
            raise ValueError("exo_pair needs label_smoothing above 0: it takes its logarithm (0.1 is usual)")
        if self.label_smoothing > 0 and _SMOOTHED.isdisjoint(self.loss):
            raise ValueError(f"label_smoothing has no effect on {', '.join(self.loss)}: add robust, or leave it out")
        if self.f_divergence != "reverse_kl" and _DIVERGING.isdisjoint(self.loss):
            raise ValueError(f"f_divergence has no effect on {', '.join(self.loss)}: leave it out")
        if self.f_alpha != F_ALPHA and self.f_divergence != "alpha_divergence":
            raise ValueError(f"f_alpha has no effect on {self.f_divergence}: leave it out")
        if not all(weight > 0 for weight in self.loss.values()):
            raise ValueError("weights of losses are above 0: leave out what should not count")
        return self


class DPOOptions(PreferenceOptions):
    """Pairs are given; the defaults are the paper's (4.1.4)."""


class WPOOptions(PreferenceOptions):
    """As `dpo`; pairs have weights of their own, so that no loss may compare pairs with each other."""

    @model_validator(mode="after")
    def _each_pair_alone(self) -> Self:
        if paired := sorted(BATCH_WIDE & self.loss.keys()):
            raise ValueError(f"{', '.join(paired)} compares pairs with each other, which have no weights then")
        return self


class OnlineDPOOptions(PreferenceOptions):
    """Pairs are made from the policy's own answers; TRL draws two."""

    samples: int = Field(2, ge=2, le=64, description="answers drawn per prompt, of which the best and the worst count")


class RejectionSamplingOptions(BaseModel):
    """The paper draws 10 to 30 answers (4.2.2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(10, ge=1, le=64, description="answers drawn per prompt (K)")
    threshold: float | None = Field(
        1.0, description="least reward of an answer that is learnt; null: the best of every prompt is"
    )


class KTOOptions(BaseModel):
    """TRL's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    desirable_weight: float = Field(1.0, gt=0, description="weight of the loss of good answers")
    undesirable_weight: float = Field(1.0, gt=0, description="weight of the loss of bad answers")


class RewardModelOptions(BaseModel):
    """The paper's loss (4.1.2): without a margin."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(0.0, ge=0, description="by which the better answer's score must lie above the worse one's")
    centering: float = Field(0.0, ge=0, description="weight of the squared sum of both scores; 0.01 is usual")


class SFTOptions(BaseModel):
    """The paper's loss (4.1.3) is the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["nll", "dft"] = Field(
        "nll", description="negative log-likelihood; or weighted by the token's probability (DFT), which is not moved"
    )


class DivergenceOptions(BaseModel):
    """Of the algorithms that compare the distributions of a student and a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl", description="KL(teacher || student), KL(student || teacher), or generalised Jensen-Shannon"
    )
    beta: float = Field(
        JSD_BETA,
        gt=0,
        lt=1,
        description="the teacher's share of the mixture of jsd; towards 0 forward, towards 1 reverse",
    )
    k: int = Field(64, ge=1, description="the teacher's likeliest tokens that are compared; all others count as one")

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        if self.beta != JSD_BETA and self.divergence != "jsd":
            raise ValueError(f"beta has no effect on {self.divergence}: choose jsd, or leave it out")
        return self


class DistillationOptions(DivergenceOptions):
    """TRL's lambda is `on_policy`; it draws half of the answers unless told otherwise."""

    on_policy: float = Field(0.0, ge=0, le=1, description="share of the answers that the student draws itself")


class OnlineDistillationOptions(DivergenceOptions):
    """All answers are the student's own."""

    samples: int = Field(1, ge=1, le=64, description="answers drawn per prompt and step")


@dataclass(frozen=True, slots=True)
class Clips:
    """How far the ratio of probabilities counts: 1 - low to 1 + high, and that of bad tokens up to `dual`."""

    low: float
    high: float
    dual: float | None = None


_DUAL_CLIP = Field(None, gt=1, description="ratio up to which a bad token counts (3 is usual); null: any")


class PPOOptions(BaseModel):
    """TRL's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(4, ge=1, le=64, description="answers drawn per prompt and step")
    epochs: int = Field(4, ge=1, description="passes over the answers of a step")
    minibatches: int = Field(1, ge=1, description="optimizer updates per pass")
    clip: float = Field(0.2, gt=0, description="how far a token's probability ratio may leave 1")
    dual_clip: float | None = _DUAL_CLIP
    clip_value: float = Field(0.2, gt=0, description="how far a value may leave what it was when the answer was drawn")
    vf_coef: float = Field(0.1, ge=0, description="weight of the value loss")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    kl_coef: float = Field(0.05, ge=0, description="weight of the KL to the reference in the reward")
    kl_estimator: KLEstimator = Field("k1", description=_ESTIMATORS)
    kl_target: float | None = Field(None, gt=0, description="adapt kl_coef towards this KL per answer, in nats")
    kl_horizon: int = Field(10_000, ge=1, description="answers over which kl_coef adapts")
    whiten_rewards: bool = Field(False, description="scale the rewards of a step to unit variance")
    reward_clip: float | None = Field(None, gt=0, description="rewards of answers are kept within +- this; null: any")
    missing_eos_penalty: float = Field(0.0, ge=0, description="taken from the reward of an answer that does not end")
    score_at: Literal["end", "after_end"] = Field(
        "end",
        description="where the reward of an answer stands: on its end token, or on the state after it (TRL's post_eos)",
    )

    @property
    def clips(self) -> Clips:
        return Clips(self.clip, self.clip, self.dual_clip)

    @model_validator(mode="after")
    def _one_update_of_all_steps(self) -> Self:
        if self.score_at == "after_end" and self.minibatches > 1:
            raise ValueError("score_at: after_end takes means over the whole step: minibatches is 1")
        return self


class ReinforcePPOptions(BaseModel):
    """The paper's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: Literal["none", "group"] = Field(
        "none", description="what rewards are compared with: none, or the mean of the prompt's others and itself"
    )
    samples: int = Field(4, ge=1, le=64, description="answers drawn per prompt and step")
    epochs: int = Field(1, ge=1, description="passes over the answers of a step")
    minibatches: int = Field(1, ge=1, description="optimizer updates per pass")
    clip: float = Field(0.2, gt=0, description="how far a token's probability ratio may leave 1")
    dual_clip: float | None = _DUAL_CLIP
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token (baseline none)")
    kl_coef: float = Field(
        0.01,
        ge=0,
        description="weight of the KL to the reference, in the reward (baseline none) or the loss (group)",
    )
    kl_estimator: KLEstimator = Field("k1", description=f"{_ESTIMATORS}; in a loss k2 or k3")

    @property
    def clips(self) -> Clips:
        return Clips(self.clip, self.clip, self.dual_clip)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.baseline == "none":
            return self
        if self.samples == 1:
            raise ValueError("baseline group compares answers to one prompt: samples is at least 2")
        if self.gamma != 1:
            raise ValueError("gamma has no effect with baseline group: leave it out")
        if self.kl_coef and self.kl_estimator in ("k1", "abs"):
            raise ValueError(
                f"{self.kl_estimator} has no gradient of the KL in a loss (Zhang et al. 2025): kl_estimator is k2 or k3"
            )
        return self


class RLOOOptions(BaseModel):
    """TRL's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(2, ge=2, le=64, description="answers drawn per prompt and step")
    epochs: int = Field(1, ge=1, description="passes over the answers of a step")
    minibatches: int = Field(1, ge=1, description="optimizer updates per pass")
    clip: float = Field(0.2, gt=0, description="how far an answer's probability ratio may leave 1")
    beta: float = Field(0.05, ge=0, description="weight of the KL to the reference in the reward")


Reduction = Literal["grpo", "bnpo", "dapo", "dr_grpo", "luspo"]
SamplerCorrection = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class GRPOOptions(BaseModel):
    """TRL's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(8, ge=2, le=64, description="answers drawn per prompt and step: the group")
    epochs: int = Field(1, ge=1, description="passes over the answers of a step")
    minibatches: int = Field(1, ge=1, description="optimizer updates per pass")
    clip_low: float = Field(0.2, gt=0, le=1, description="how far a ratio may fall below 1")
    clip_high: float = Field(0.2, gt=0, description="how far a ratio may rise above 1")
    beta: float = Field(0.0, ge=0, description="weight of the KL to the reference; 0 needs no reference")
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="whose std divides the advantages")
    reduction: Reduction = Field(
        "dapo",
        description="grpo: mean of answers' means; dapo, bnpo: mean over tokens of the step, of the update; "
        "dr_grpo: sum over tokens by max_tokens; luspo: mean of answers' sums",
    )
    importance: Literal["token", "sequence"] = Field("token", description="one ratio per token, or per answer (GSPO)")
    surrogate: Literal["clip", "cispo", "sapo", "vespo"] = Field(
        "clip", description="how ratios weigh advantages: clipped as in PPO, or softly; see above"
    )
    dual_clip: float | None = _DUAL_CLIP
    sampler_correction: SamplerCorrection = Field(
        "none",
        description="weigh tokens or answers by how much likelier the policy finds them than the sampler did, up to "
        "sampler_cap (truncate), or leave those above it out (mask)",
    )
    sampler_cap: float = Field(SAMPLER_CAP, gt=0, description="largest such weight")

    @property
    def clips(self) -> Clips:
        return Clips(self.clip_low, self.clip_high, self.dual_clip)

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.reduction == "luspo" and self.importance != "sequence":
            raise ValueError("reduction luspo is of ratios of whole answers: importance is sequence")
        if self.surrogate == "vespo" and (self.importance != "token" or self.sampler_correction != "none"):
            raise ValueError("vespo has its own weight of an answer: leave out importance and sampler_correction")
        if self.dual_clip is not None and self.surrogate != "clip":
            raise ValueError(f"dual_clip has no effect on {self.surrogate}: leave it out")
        if self.sampler_cap != SAMPLER_CAP and self.sampler_correction == "none":
            raise ValueError("sampler_cap has no effect without sampler_correction: leave it out")
        return self
