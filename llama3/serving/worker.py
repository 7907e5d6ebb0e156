"""A process that computes its part of a model for another one: `python -m llama3.serving.worker`, which nobody but
`llama3.serving.shared` starts. The first line of its standard input says in JSON what to do; when that input ends, so
does the process."""

from __future__ import annotations

import json
import sys

from llama3.errors import CheckpointError, LlamaError
from llama3.serving.shared import work

if __name__ == "__main__":
    try:
        work(json.loads(sys.stdin.buffer.readline()))
    except CheckpointError:  # every rank has it, and rank 0 tells
        sys.exit(1)
    except LlamaError as error:
        sys.exit(f"{error.problems[0].what} [{error.problems[0].code}]")
