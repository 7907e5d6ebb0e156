"""What may be asked: the bodies of the routes, every size bounded. A field that is not here is refused by its name."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llama3.errors import ConfigError
from llama3.inference.sampling import MOST_TOPS
from llama3.serving.problems import BAD_FIELD

BODY_BYTES = 1 << 20
MOST_PROMPTS = 128
MOST_CHOICES = 8
MOST_STOPS = 16
MOST_TEXT = 1 << 20
"""Characters of a text, tokens of a prompt, tokens of an answer: a body has no more anyway."""
MOST_JUDGED = 1 << 16
"""Characters of a text that only the guards see; what a model is to see is bounded by its context."""
MOST_NAME = 256
MOST_PROBLEMS = 16

Body = TypeVar("Body", bound="Bounded")
Name = Annotated[str, Field(max_length=MOST_NAME)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Judged = Annotated[str, Field(max_length=MOST_JUDGED)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], Field(min_length=1, max_length=MOST_TEXT)]
Prompt = (
    Text
    | Ids
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
)
Stop = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
_TRIED = re.compile(r"constrained-|\[")


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


class Drawing(BodyFields):
    """How answers are drawn. What OpenAI's clients may send and this engine does not do is taken where it changes
    nothing."""

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None

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
        return self


class CompletionBody(Drawing):
    """POST /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TEXT)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOPS)] | None = None
    echo: bool | None = None
    suffix: Any = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _no_more(self) -> Self:
        if self.suffix is not None:
            raise ValueError("suffix is not supported: the model was not trained to fill in")
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported: ask for n answers and choose")
        return self


class TextPart(Bounded):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class CalledFunction(Bounded):
    """A function that the model called, with its arguments as JSON."""

    name: Name
    arguments: Text


class MadeCall(Bounded):
    """A call in an earlier message of the assistant."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Bounded):
    """A message. An assistant's may come back as it was given."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PROMPTS)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=MOST_PROMPTS)] | None = None
    tool_call_id: Name | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant has tool_calls")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message has content")
        return self


class FunctionSpec(Bounded):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Bounded):
    """A tool."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Bounded):
    """The function that is to be called."""

    name: Name


class NamedTool(Bounded):
    """The tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Bounded):
    """A JSON schema with its name."""

    name: Name
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: Text | None = None
    strict: bool | None = None


class PlainFormat(Bounded):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Bounded):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatBody(Drawing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TEXT)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TEXT)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOPS)] | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MOST_PROMPTS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        if self.tool_choice not in (None, "none") and not names:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is none of the tools")
        if self.must_call and self.response_format is not None and self.response_format.type != "text":
            raise ValueError("an answer is a call or has a response_format, not both")
        return self

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)


class EmbeddingBody(BodyFields):
    """POST /v1/embeddings."""

    model: Name
    input: Prompt
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


class ModerationBody(BodyFields):
    """POST /v1/moderations."""

    model: Name | None = None
    input: Judged | Annotated[list[Judged], Field(min_length=1, max_length=MOST_PROMPTS)]


class TokenizeBody(BodyFields):
    """POST /tokenize."""

    model: Name | None = None
    prompt: Text
    add_special_tokens: bool = True


class DetokenizeBody(BodyFields):
    """POST /detokenize."""

    model: Name | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 32)]], Field(max_length=MOST_TEXT)]


def _place(loc: tuple[int | str, ...]) -> str:
    """The field; which of its types was tried, as in `list[constrained-str]`, is no part of it."""
    known = takewhile(lambda part: isinstance(part, int) or not _TRIED.search(part), loc)
    return ".".join(map(str, known))[:MOST_NAME]


def read_fields(kind: type[Body], data: bytes) -> Body:
    """The body of a request. Raises ConfigError naming every field that is wrong."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        found: dict[str, str] = {}
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            found.setdefault(_place(one["loc"]), one["msg"])
        raise ConfigError.of(
            BAD_FIELD.problem(where, error=message.removeprefix("Value error, "))
            for where, message in list(found.items())[:MOST_PROBLEMS]
        ) from None
