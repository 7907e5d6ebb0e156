"""The frozen specs that plugins register: names and string targets, so that listing needs no import of torch.

`PluginSpec` is common to all families; each family adds what the core must know before it imports the
plugin's implementation (what data an algorithm eats, at which stages a guard stands).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Stability = Literal["stable", "experimental"]
API_VERSION = 2
"""Of the protocols in this release; a plugin written for another one is refused by name."""
Need = Literal["rollouts", "reward", "reference", "value", "score_head", "teacher"]
Want = Literal["logps", "entropy", "collision", "values", "score", "soft", "soft_logps"]
Material = Literal["documents", "tasks", "score", "judge"]
GuardStage = Literal["input", "tool_result", "output", "tool_call", "code", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSpec:
    """What every plugin says of itself.

    `name` is unique within its family; `factory` and `options` are "package.module:Class" targets, imported only
    when a config uses the plugin. `options` is a pydantic model (torch-free, `extra="forbid"`); the factory is
    called as `factory(options)`, or `factory()` where the spec names no options.
    """

    family: ClassVar[str] = ""

    name: str
    """What a config calls it: a-z, 0-9, _ and -."""
    factory: str
    """The class or function that builds the plugin of its options."""
    options: str | None = None
    """The pydantic model of its options; None: it takes none."""
    summary: str = ""
    """One line for `llama3 plugins list`."""
    api_version: int = API_VERSION
    """The version of the protocols that it is written for."""
    requires: tuple[str, ...] = ()
    """Importable modules that the plugin needs beyond its own package; a missing one is reported as `needs X`."""
    extra: str | None = None
    """The extra of the plugin's distribution that brings them."""
    stability: Stability = "stable"
    """Whether its options and results may still change from version to version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec(PluginSpec):
    """Reads raw documents: builds a `llama3.sources.Source`."""

    family: ClassVar[str] = "sources"

    labels: tuple[str, ...] = ()
    """Labels (weighted by `data.mix`) of a source that has no `source` option to set its one label."""
    endings: tuple[str, ...] = ()
    """Endings of the files that it reads where a folder is named alone, in the place of a config; "": all others. Its
    options then need `path` and `source` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSpec(PluginSpec):
    """Scores documents and says which to keep: builds a `llama3.filters.Filter`."""

    family: ClassVar[str] = "filters"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSpec(PluginSpec):
    """One axis of the device mesh: builds a `llama3.parallelism.ParallelStrategy`."""

    family: ClassVar[str] = "parallelism"

    axis: Literal["tp", "cp", "pp", "dp"]
    """The axis of the mesh that it supplies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKindSpec(PluginSpec):
    """What algorithms learn from: builds a `llama3.data_kinds.DataKind`, without torch."""

    family: ClassVar[str] = "data_kinds"

    artifact: Literal["shards", "dialogs", "preferences"]
    """Type of the artifact that holds it: what `pretrain`, `sft`, or `prefer` and `reward` read."""
    file: str
    """The artifact's file with its rows."""
    sampled: bool = False
    """Whether a round of post-training makes it of the model's own answers; else only `post_training.data` gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmSpec(PluginSpec):
    """A training algorithm: builds a `llama3.algorithms.Algorithm`."""

    family: ClassVar[str] = "algorithms"

    data: str
    """The kind of data that it learns from (family `data_kinds`)."""
    needs: frozenset[Need] = frozenset()
    """What else it takes; a config that lacks it is refused before work starts."""
    reward: str | None = None
    """The reward that scores with the model it trains, given that model as the option `path`; None: it trains none."""
    want: frozenset[Want] = frozenset({"logps"})
    """The columns of `llama3.algorithms.Scored` that `loss` and `metrics` read."""
    want_logged: frozenset[Want] = frozenset()
    """Columns that only `metrics` reads: computed on logged steps alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec(PluginSpec):
    """Scores answers: builds a `llama3.rewards.Reward`."""

    family: ClassVar[str] = "rewards"

    has_tasks: bool = True
    """Whether it can ask too (`TaskReward`). Only then can a run learn without prompts from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitySpec(PluginSpec):
    """Makes and verifies dialogs for one skill: builds a `llama3.capabilities.Capability`."""

    family: ClassVar[str] = "capabilities"

    needs: frozenset[Material] = frozenset()
    """What it cannot do without: tasks of the run's rewards, a reward that ranks answers (`score`), another model as
    the judge; documents are always there. A config that lacks it is refused before work starts."""
    share: float | None = None
    """The share of all dialogs of a round that it has at most, where the config says nothing; None: all that are
    kept."""
    last_differs: bool = False
    """Whether it does something else in the last round (`Workshop.last`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec(PluginSpec):
    """Turns weights into fewer bits: builds a `llama3.quantization.QuantizationScheme`."""

    family: ClassVar[str] = "quantization"

    devices: frozenset[Literal["cpu", "cuda"]] = frozenset({"cpu", "cuda"})
    """Where it runs; what its `supports` says must agree."""
    bits: float | None = None
    """Bits per weight without scales: what the conformance tests measure the error by. None: as many as are stored."""
    activation_bits: float | None = None
    """The same of inputs, where they are quantized too, each token as it comes; None where they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec(PluginSpec):
    """Judges text at the stages it declares: builds a `llama3.guards.Guard`."""

    family: ClassVar[str] = "guards"

    stages: frozenset[GuardStage]
    """Where it can stand: a policy may name it at these stages only."""
    deterministic: bool = True
    """Whether it says the same of the same text again; the conformance tests hold it to that."""
    models: frozenset[str] = frozenset()
    """Its options that name a folder or file of a model: a release carries what they name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackerSpec(PluginSpec):
    """Writes attacks for `llama3 redteam`: builds a `llama3.attackers.Attacker`."""

    family: ClassVar[str] = "attackers"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSpec(PluginSpec):
    """Measures a model: builds a `llama3.evaluators.Evaluator`."""

    family: ClassVar[str] = "evaluators"

    with_policy: bool = False
    """Whether it measures the guards too: only then does its subject have the policy."""
    with_text: bool = True
    """Whether it reads the corpus: where no suite does, `llama3 evaluate` makes none, and its subject has none."""
    with_tasks: bool = False
    """Whether it asks held-out tasks of the rewards: where none of them has any, and its options name no `rewards`, its
    suites are not measured."""
    with_shards: bool = False
    """Whether it asks what the model was trained on: only then does its subject have the token shards."""

    about_safety: bool = False
    """Whether the section of a model card on safety tells its figures, and names it where it was not asked."""
    keeps_prompts: bool = False
    """Whether it tells the prompts that it asks (`llama3.evaluators.KeepsPrompts`), so that none of them is trained
    on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSpec(PluginSpec):
    """Writes a checkpoint in another layout: builds a `llama3.exporters.Exporter`."""

    family: ClassVar[str] = "exporters"

    deterministic: bool = True
    """Whether it writes the same bytes of the same checkpoint again; the conformance tests hold it to that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerSpec(PluginSpec):
    """Receives metrics: builds a `llama3.loggers.Logger`."""

    family: ClassVar[str] = "loggers"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(PluginSpec):
    """A command of `llama3`: the factory target is a `typer.Typer`, imported when the command is used."""

    family: ClassVar[str] = "commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSpec(PluginSpec):
    """Config presets: the factory target is a package whose `*.yaml` files are the presets."""

    family: ClassVar[str] = "presets"
