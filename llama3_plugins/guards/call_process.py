"""A process of its own that holds arguments of tools to JSON schemas and patterns: the schemas are those of whoever
asks, and a regular expression of Python cannot be interrupted. Run as a script.

In, as UTF-8 with surrogates: a line with the folders that Python's modules are imported from; then a line
[seconds, schema or null, arguments, [[value, pattern], ...]] for each question. Out, for each: a line [faults, matches]
with texts, and whether each value is matched whole by its pattern. No fault has a value in it: faults are written down.
It ends with its input, and of itself when a question takes longer than its seconds.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

MOST = 20
"""Faults that are told."""


def main() -> None:
    """Answer until the input ends."""
    lines = map(_read, sys.stdin.buffer)
    sys.path[:] = next(lines)
    import jsonschema  # noqa: F401 - now, and not in the time of the first question

    print("[]", flush=True)
    for seconds, schema, arguments, values in lines:
        # The signal's default ends the process, whatever it is in.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        faults = [] if schema is None else list(islice(_faults(schema, arguments), MOST))
        matches = [re.fullmatch(pattern, value) is not None for value, pattern in values]
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps([faults, matches]), flush=True)


def _faults(schema: Any, arguments: Any) -> Iterator[str]:
    """What of a schema is broken, and where."""
    import jsonschema
    from jsonschema.validators import validator_for
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        # The registry knows no other document, and fetches none.
        validator = kind(schema, registry=EMPTY_REGISTRY, format_checker=kind.FORMAT_CHECKER)
        for error in validator.iter_errors(arguments):
            yield f"{error.json_path[:100]} breaks {error.validator}: {json.dumps(error.validator_value)[:100]}"
    except (jsonschema.SchemaError, Unresolvable, re.error, RecursionError) as error:
        yield f"the schema cannot be used: {type(error).__name__}"


def _read(line: bytes) -> Any:
    """Surrogates stay what they are, one character each."""
    return json.loads(line.decode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    main()
