"""What may be asked of a chat: messages, tools and formats of answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from llama3.inference.sampling import MOST_TOPS
from llama3.serving.fields import Bounded, OpenAIBody
from llama3.serving.forms import MOST_NAME, MOST_PROMPTS, MOST_TEXT, Name, Text, one_of, tag


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
    Annotated[Text, tag("text")] | Annotated[list[TextPart], Field(min_length=1, max_length=MOST_PROMPTS), tag("list")],
    one_of("give a text, or a list of parts"),
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
    Annotated[Literal["none", "auto", "required"], tag("text")] | Annotated[NamedTool, tag("object")],
    one_of("give none, auto, required, or the function to call"),
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


class ChatBody(OpenAIBody):
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
