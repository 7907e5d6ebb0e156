"""Token files of another tool that a run trains on (llama3.data.imported)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TokenFormat = Literal["megatron", "datatrove"]


class TokensSection(BaseModel):
    """Documents that are tokens already. They are trained on in the place of the sources' text, which is still what
    models are evaluated on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: TokenFormat = Field(description="whose files they are: NAME.bin and NAME.idx, or NAME.ds")
    paths: list[str] = Field(min_length=1, description="files or folders of some; each is a source of its name")
    complete: bool = Field(True, description="add BOS and EOS where a document lacks them")
