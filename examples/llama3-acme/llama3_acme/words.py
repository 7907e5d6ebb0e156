from pydantic import BaseModel, Field

from llama3.guards import Guard, Verdict


class WordOptions(BaseModel, extra="forbid"):
    words: list[str] = Field(["password"], min_length=1, description="words that no text may hold")


class WordGuard(Guard):
    def __init__(self, options):
        self.words = [word.casefold() for word in options.words]

    async def check(self, x):
        found = [word for word in self.words if word in x.text.casefold()]
        return Verdict(action="block" if found else "allow", reason=", ".join(found))
