"""The types of the places of a config where a plugin is named, with its options beside the name. Torch-free.

The schema leaves options open; the plugin's own model validates them in a second pass (llama3.config.loading).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class Slot(BaseModel):
    """A plugin chosen by name; its options stand beside `name`. `dpo` is short for `{name: dpo}`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="name of the plugin within its family")

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's options, as written (validated in the second pass)."""
        return dict(self.model_extra or {})

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """What a short form stands for; anything else as it is."""
        return {"name": value} if isinstance(value, str) else value


AUTO = "auto"


class AxisSlot(Slot):
    """A parallelism strategy and the number of ranks along its axis. `2` is short for `{size: 2}`, and `auto` for
    neither: the axis's own strategy, of its own size. An axis of one rank needs no strategy."""

    name: str = Field("", description="name of the strategy (default: the one of the axis, where there are more ranks)")
    size: int | None = Field(
        None, ge=1, description="ranks along this axis (default: 1; along dp what is left of the world)"
    )

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """A number is a size."""
        is_size = isinstance(value, int) and not isinstance(value, bool)
        if value == AUTO:
            return {}
        return {"size": value} if is_size else super().written_out(value)

    @model_serializer(mode="wrap")
    def _short(self, serialize: SerializerFunctionWrapHandler) -> Any:
        if not self.name and not self.model_extra:
            return AUTO if self.size is None else self.size
        return {key: value for key, value in serialize(self).items() if value is not None or key in self.options}


class SuiteSlot(Slot):
    """An evaluator and the name under which its result stands."""

    suite: str | None = Field(None, min_length=1, description="name of the result (default: the evaluator's)")

    @property
    def label(self) -> str:
        """The name of the result: unique within a config."""
        return self.suite or self.name


class CapabilitySlot(Slot):
    """A capability recipe, how much it makes, and which models it asks."""

    prompts: int = Field(100, ge=1, description="dialogs that are tried in each round, at most")
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="its share of all dialogs of a round, at most; default: the recipe's own, else all that are kept",
    )
    model: str | None = Field(
        None, description="who makes the dialogs: a model's path or a server's address; default: the round's model"
    )
    served: str | None = Field(None, description="name of that model at its server; default: the first that it lists")
    judge: str | None = Field(
        None, description="who judges: a model's path or a server's address; default: who makes the dialogs"
    )
    served_judge: str | None = Field(None, description="name of the judge at its server; default: the first one")
    temperature: float = Field(0.8, ge=0, description="of what is made; judges are asked for their likeliest answer")
    max_tokens: int = Field(512, ge=1, le=1 << 30, description="longest answer, unless the recipe says otherwise")


@dataclass(frozen=True, slots=True)
class PluginFamily:
    """Marks a slot with the plugin family it chooses from."""

    name: str

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Leave a mark that `config schema` replaces by the options of the plugins installed here."""
        return {**handler(core_schema), "x-llama3-family": self.name}


@dataclass(frozen=True, slots=True)
class GuardTrees:
    """Marks a mapping of stages to trees of guards (llama3.safety.policy), each leaf of which is a `GuardSlot`."""


_SHORT = BeforeValidator(Slot.written_out)
SourceSlot = Annotated[Slot, _SHORT, PluginFamily("sources")]
FilterSlot = Annotated[Slot, _SHORT, PluginFamily("filters")]
ParallelSlot = Annotated[AxisSlot, BeforeValidator(AxisSlot.written_out), PluginFamily("parallelism")]
DataKindSlot = Annotated[Slot, _SHORT, PluginFamily("data_kinds")]
AlgorithmSlot = Annotated[Slot, _SHORT, PluginFamily("algorithms")]
RewardSlot = Annotated[Slot, _SHORT, PluginFamily("rewards")]
CapabilityChoice = Annotated[CapabilitySlot, _SHORT, PluginFamily("capabilities")]
QuantizationSlot = Annotated[Slot, _SHORT, PluginFamily("quantization")]
EvaluatorSlot = Annotated[SuiteSlot, _SHORT, PluginFamily("evaluators")]
GuardSlot = Annotated[Slot, _SHORT, PluginFamily("guards")]
ExporterSlot = Annotated[Slot, _SHORT, PluginFamily("exporters")]
LoggerSlot = Annotated[Slot, _SHORT, PluginFamily("loggers")]
GuardPolicy = Annotated[dict[str, Any], GuardTrees()]
