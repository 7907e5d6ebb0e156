"""What a field may hold: names, texts, token ids, one or many; every size bounded.

A union says by the form of a value which of its branches is meant, so that a wrong value is told what is wrong with it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

MOST_PROMPTS = 128
MOST_STOPS = 16
MOST_TEXT = 1 << 20
"""Characters of a text, tokens of a prompt, tokens of an answer: a body has no more anyway."""
MOST_JUDGED = 1 << 16
"""Characters of a text that only the guards see; what a model is to see is bounded by its context."""
MOST_NAME = 256

Name = Annotated[str, Field(max_length=MOST_NAME)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Judged = Annotated[str, Field(max_length=MOST_JUDGED)]
Id = Annotated[int, Field(ge=0, lt=1 << 32)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=MOST_TEXT)]
Stop = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
_BRANCH = "branch:"
_ONES: dict[type, str] = {str: "text", dict: "object"}
_LISTS: dict[type, str] = {int: "ids", list: "lists"}


def tag(form: str) -> Tag:
    """Of a branch of a union, whose name is no part of a field's place."""
    return Tag(_BRANCH + form)


def _form(value: Any) -> str:
    """Which branch of a union a value means: only that one's problems are told then, not those of all the others."""
    if isinstance(value, list):
        return _BRANCH + (_LISTS.get(type(value[0]), "list") if value else "list")
    return _BRANCH + _ONES.get(type(value), "other")


def one_of(said: str) -> Discriminator:
    """Of a union whose branches have tags; `said` is told of a value that means none of them."""
    return Discriminator(_form, custom_error_type="form", custom_error_message=said)


Prompt = Annotated[
    Annotated[Text, tag("text")]
    | Annotated[Ids, tag("ids")]
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS), tag("list")]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), tag("lists")],
    one_of("give a text, token ids, or a list of one of them"),
]
IdPrompt = Annotated[
    Annotated[Ids, tag("ids")] | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS), tag("lists")],
    one_of("give token ids, or a list of them for each prompt"),
]
JudgedTexts = Annotated[
    Annotated[Judged, tag("text")] | Annotated[list[Judged], Field(min_length=1, max_length=MOST_PROMPTS), tag("list")],
    one_of("give a text, or a list of texts"),
]
Stops = Annotated[
    Annotated[Stop, tag("text")] | Annotated[list[Stop], Field(max_length=MOST_STOPS), tag("list")],
    one_of("give a text, or a list of texts"),
]


def place_of(loc: tuple[int | str, ...]) -> str:
    """The field, without what pydantic says of the branch that was tried, or of a key."""
    parts = [str(part) for part in loc if part != "[key]"]
    return ".".join(part for part in parts if not part.startswith(_BRANCH))[:MOST_NAME]
