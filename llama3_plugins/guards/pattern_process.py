"""A process of its own that matches patterns, so that one without end can be ended: a regular expression of Python
cannot be interrupted, and holds the interpreter. Run as a script; it needs nothing but the standard library.

In: a line [[pattern, ignore_case], ...]; then a line [seconds, text, ...] for each question. Out, for each: a line with
the matches [number of the pattern, number of the text, from, to]. It ends with its input, and of itself when a question
takes longer than its seconds.
"""

from __future__ import annotations

import json
import re
import signal
import sys


def main() -> None:
    """Answer until the input ends."""
    patterns = [
        re.compile(pattern, re.IGNORECASE if folds else 0) for pattern, folds in json.loads(sys.stdin.readline())
    ]
    print("[]", flush=True)
    for line in sys.stdin:
        seconds, *texts = json.loads(line)
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


if __name__ == "__main__":
    main()
