"""A process of its own that matches patterns, so that one without end can be ended: a regular expression of Python
cannot be interrupted, and holds the interpreter. Run as a script; it needs nothing but the standard library.

In, as UTF-8 with surrogates: a line [[pattern, ignore_case], ...]; then a line [seconds, text, ...] for each question.
Out, for each: a line with the matches [number of the pattern, number of the text, from, to]. It ends with its input,
and of itself when a question takes longer than its seconds.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import Any


def main() -> None:
    """Answer until the input ends."""
    lines = map(_read, sys.stdin.buffer)
    patterns = [re.compile(pattern, re.IGNORECASE if folds else 0) for pattern, folds in next(lines)]
    print("[]", flush=True)
    for seconds, *texts in lines:
        # The signal's default ends the process, whatever it is in.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        found = [
            (number, which, *match.span())
            for number, pattern in enumerate(patterns)
            for which, text in enumerate(texts)
            for match in pattern.finditer(text)
            if match.end() > match.start()
        ]
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(found), flush=True)


def _read(line: bytes) -> Any:
    """Surrogates stay what they are, one character each."""
    return json.loads(line.decode("utf-8", "surrogatepass"))


if __name__ == "__main__":
    main()
