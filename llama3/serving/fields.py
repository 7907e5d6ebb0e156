"""What may be asked: the bodies of the routes, every size bounded. A field that is not here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from llama3.errors import ConfigError
from llama3.inference.sampling import MOST_TOPS
from llama3.serving.problems import BAD_FIELD

BODY_BYTES = 1 << 20
MOST_PROMPTS = 128
MOST_CHOICES = 8
MOST_ROLLOUTS = 64
"""Answers to one prompt of token ids: the groups of GRPO have that many."""
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
Id = Annotated[int, Field(ge=0, lt=1 << 32)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=MOST_TEXT)]
Stop = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
_BRANCH = "branch:"


def _tag(form: str) -> Tag:
    """Of a branch of a union, whose name is no part of a field's place."""
    return Tag(_BRANCH + form)


def _form(value: Any) -> str:
    """Which branch of a union a value means: only that one's problems are told then, not those of all the others."""
    if isinstance(value, list):
        return _BRANCH + ({int: "ids", list: "lists"}.get(type(value[0]), "list") if value else "list")
    return _BRANCH + {str: "text", dict: "object"}.get(type(value), "other")


def _one_of(said: str) -> Discriminator:
    """Of a union whose branches have tags; `said` is told of a value that means none of them."""
    return Discriminator(_form, custom_error_type="form", custom_error_message=said)


Prompt = Annotated[
    Annotated[Text, _tag("text")]
    | Annotated[Ids, _tag("ids")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS), _tag("list")]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), _tag("lists")],
    _one_of("give a text, token ids, or a list of one of them"),
]
IdPrompt = Annotated[
    Annotated[Ids, _tag("ids")] | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), _tag("lists")],
    _one_of("give token ids, or a list of them for each prompt"),
]
JudgedTexts = Annotated[
    Annotated[Judged, _tag("text")]
    | Annotated[list[Judged], Field(min_length=1, max_length=MOST_PROMPTS), _tag("list")],
    _one_of("give a text, or a list of texts"),
]
Stops = Annotated[
    Annotated[Stop, _tag("text")] | Annotated[list[Stop], Field(max_length=MOST_STOPS), _tag("list")],
    _one_of("give a text, or a list of texts"),
]


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


class Asked(BodyFields, Drawing, Streaming):
    """What OpenAI's routes that write answers have in common."""

    model: Name
    stop: Stops | None = None


class CompletionBody(Asked):
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


class TextPart(Bounded):
    """A part of a message."""

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"a part of the type {kind[:MOST_NAME]!r} is not supported: this model reads text")
        return part


Content = Annotated[
    Annotated[Text, _tag("text")]
    | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PROMPTS), _tag("list")],
    _one_of("give a text, or a list of parts"),
]


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
    content: Content | None = None
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


Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], _tag("text")] | Annotated[NamedTool, _tag("object")],
    _one_of("give none, auto, required, or the function to call"),
]


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


class ChatBody(Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, le=MOST_TEXT)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST_TEXT)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOPS)] | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=MOST_PROMPTS)] | None = None
    tool_choice: Choice | None = None
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


def _place(loc: tuple[int | str, ...]) -> str:
    """The field, without what pydantic says of the branch that was tried, or of a key."""
    parts = [str(part) for part in loc if part != "[key]"]
    return ".".join(part for part in parts if not part.startswith(_BRANCH))[:MOST_NAME]


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
