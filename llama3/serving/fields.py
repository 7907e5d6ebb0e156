"""What may be asked: the bodies of the routes, every size bounded. A field that is not here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llama3.errors import ConfigError, did_you_mean
from llama3.inference.sampling import MOST_TOPS
from llama3.plugins.options import keys_at
from llama3.serving.forms import (
    MOST_PROMPTS,
    MOST_TEXT,
    Id,
    IdPrompt,
    JudgedTexts,
    Name,
    Prompt,
    Stops,
    Text,
    place_of,
)
from llama3.serving.problems import BAD_FIELD

BODY_BYTES = 1 << 20
MOST_CHOICES = 8
MOST_ROLLOUTS = 64
"""Answers to one prompt of token ids: the groups of GRPO have that many."""
MOST_PROBLEMS = 16

Body = TypeVar("Body", bound="Bounded")


class Bounded(BaseModel):
    """Nothing is turned into another type, nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class BodyFields(Bounded):
    """A body."""

    user: Name | None = None
    metadata: dict[Name, Any] | None = None


class StreamOptions(Bounded):
    """`include_usage`: tell the tokens used before the end."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Drawing(Bounded):
    """How answers are drawn. What clients of other servers may send and this engine does not do is taken where it
    changes nothing."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        if any(not key.isdecimal() or len(key) > 9 for key in bias or {}):
            raise ValueError("a key of logit_bias is a token's id")
        return bias

    @model_validator(mode="after")
    def _nothing_else(self) -> Self:
        if self.frequency_penalty or self.presence_penalty:
            raise ValueError("frequency_penalty and presence_penalty are not supported: leave them out")
        if self.repetition_penalty not in (None, 1) or self.min_p:
            raise ValueError("repetition_penalty and min_p are not supported: leave them out")
        return self


class Streaming(Bounded):
    """Whether answers come whole or piece by piece."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with the tokens used."""
        return self.stream_options is not None and self.stream_options.include_usage


class OpenAIBody(BodyFields, Drawing, Streaming):
    """What OpenAI's routes that write answers have in common."""

    model: Name
    stop: Stops | None = None


class CompletionBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TEXT)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOPS)] | None = None
    echo: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    suffix: Any = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _no_more(self) -> Self:
        if self.suffix is not None:
            raise ValueError("suffix is not supported: the model was not trained to fill in")
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported: ask for n answers and choose")
        return self


class RolloutDrawing(Drawing):
    """How answers to token ids are drawn."""

    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] = 0  # -1, too, is any number
    n: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TEXT)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOPS)] | None = None
    stop_token_ids: Annotated[list[Id], Field(max_length=MOST_PROMPTS)] | None = None
    output_kind: Literal[2] | None = None  # as TRL asks vLLM for all of an answer


class RolloutBody(BodyFields, Streaming):
    """POST /inference/v1/generate."""

    model: Name | None = None
    request_id: Name | None = None
    token_ids: IdPrompt
    features: None = None
    sampling_params: RolloutDrawing = RolloutDrawing()


class EmbeddingBody(BodyFields):
    """POST /v1/embeddings."""

    model: Name
    input: Prompt
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


class ModerationBody(BodyFields):
    """POST /v1/moderations."""

    model: Name | None = None
    input: JudgedTexts


class TokenizeBody(BodyFields):
    """POST /tokenize."""

    model: Name | None = None
    prompt: Text
    add_special_tokens: bool = True


class DetokenizeBody(BodyFields):
    """POST /detokenize."""

    model: Name | None = None
    tokens: Annotated[list[Id], Field(max_length=MOST_TEXT)]


def read_fields(kind: type[Body], data: bytes) -> Body:
    """The body of a request. Raises ConfigError naming every wrong field, and what an unknown one is near."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        found: dict[str, str] = {}
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            message = one["msg"].removeprefix("Value error, ")
            if one["type"] == "extra_forbidden":
                near = did_you_mean(str(one["loc"][-1]), keys_at(kind, one["loc"][:-1]))
                message = "; ".join(part for part in (message, near) if part)
            found.setdefault(place_of(one["loc"]) or _field_of(kind, message), message)
        raise ConfigError.of(
            BAD_FIELD.problem(where, error=message) for where, message in list(found.items())[:MOST_PROBLEMS]
        ) from None


def _field_of(kind: type[BaseModel], message: str) -> str:
    """The field that a message about several begins with."""
    first = message.partition(" ")[0]
    return first if first in kind.model_fields else ""
