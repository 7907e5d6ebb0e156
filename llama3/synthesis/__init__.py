"""Text that a model makes of other text: rephrased, as questions and answers, as facts; and the guard against collapse.

`synthesise` is the stage that a run has before curation (`data.synthetic`). Its parts stand alone: `writer_of` opens a
model, `passages` cuts a document, `asked` says what a model is asked of one, `text_of_answer` what is taken of it, and
`collapse_figures` and `collapse_signs` whether all that it made is too alike.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.synthesis.collapse import collapse_figures, collapse_signs
    from llama3.synthesis.stage import SynthesisOptions, synthesise
    from llama3.synthesis.tasks import asked, passages, text_of_answer
    from llama3.synthesis.writers import TextWriter, writer_of

__all__ = [
    "SynthesisOptions",
    "TextWriter",
    "asked",
    "collapse_figures",
    "collapse_signs",
    "passages",
    "synthesise",
    "text_of_answer",
    "writer_of",
]

_HOME = {
    "SynthesisOptions": "llama3.synthesis.stage",
    "TextWriter": "llama3.synthesis.writers",
    "asked": "llama3.synthesis.tasks",
    "collapse_figures": "llama3.synthesis.collapse",
    "collapse_signs": "llama3.synthesis.collapse",
    "passages": "llama3.synthesis.tasks",
    "text_of_answer": "llama3.synthesis.tasks",
    "synthesise": "llama3.synthesis.stage",
    "writer_of": "llama3.synthesis.writers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
