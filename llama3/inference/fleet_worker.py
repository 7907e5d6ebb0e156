"""A process that draws answers for another one: `python -m llama3.inference.fleet_worker ORDER`, which nobody but
`llama3.inference.fleet` starts."""

from __future__ import annotations

import json
import sys

from llama3.inference.fleet import work

if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
