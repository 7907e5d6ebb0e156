"""Does the policy engine ever fail open? 100,000 policies with faults, drawn by a seed: `make guard-faults`.

Each case is a policy of up to six guards, what they say of a text, and what goes wrong in some of them (all that
`llama3.testing.guard_faults` injects: what is raised, what no sound guard says, guards that hang or end their thread).
The decision is compared with a composition written anew, one of five is found again from its audit log, and in answers
the stream is compared with the whole text. A case fails open where a fault makes pass what would not pass without it,
though no guard that fails is advisory; or where it lowers the action, though all of them say `on_error: block`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from common import machine, table, write_results

from llama3.testing.guard_faults import FAULTS, SLOW_FAULTS, check_case, draw_case

CHUNK = 500
LOGGED = 5
"""Of as many cases one is written to an audit log, and found again from it."""
SLOW = 0.002
"""The share of faults that hang: each of them is waited for."""


def run_chunk(seed: int, number: int, count: int) -> tuple[Counter[str], list[str]]:
    """Cases of a chunk: how often each fault was injected, and every wrong that was found."""
    logging.getLogger("llama3").setLevel(logging.ERROR)  # guards that hang are told of when they are closed
    rng, injected, wrongs = random.Random(f"{seed}/{number}"), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            case = draw_case(rng, slow=SLOW)
            injected.update(case.faults.values())
            injected["cases"] += 1
            injected["guards"] += len(case.says)
            injected["with a fault"] += bool(case.faults)
            injected["streamed"] += case.is_answer
            log = Path(folder) / "log" if index % LOGGED == 0 else None
            injected["logged"] += log is not None
            wrongs += [f"{seed}/{number} case {index}: {wrong}" for wrong in check_case(case, log)]
    return injected, wrongs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-results", action="store_true", help="write no file of results")
    options = parser.parse_args()
    print(machine())
    begun = time.monotonic()
    sizes = [min(CHUNK, options.cases - at) for at in range(0, options.cases, CHUNK)]
    injected, wrongs = Counter[str](), []
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        chunks = pool.map(run_chunk, [options.seed] * len(sizes), range(len(sizes)), sizes)
        for found, wrong in chunks:
            injected += found
            wrongs += wrong
    sys.exit(report(options, injected, wrongs, time.monotonic() - begun))


def report(options: argparse.Namespace, injected: Counter[str], wrongs: list[str], seconds: float) -> int:
    """Print what was found and write it; the exit code."""
    counts = {name: injected.pop(name, 0) for name in ("cases", "guards", "with a fault", "streamed", "logged")}
    fail_open = sum("fail-open" in wrong for wrong in wrongs)
    print(table([{"fault": name, "is slow": name in SLOW_FAULTS, "injected": injected[name]} for name in FAULTS]))
    print("".join(f"  {wrong}\n" for wrong in wrongs[:50]), end="")
    figures = {**counts, "fail_open": fail_open, "other_wrongs": len(wrongs) - fail_open, "seed": options.seed}
    figures |= {"seconds": round(seconds, 1), "processes": options.processes}
    print("; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()))
    if not options.no_results:
        write_results("guard_faults", {**figures, "injected": {name: injected[name] for name in FAULTS}})
    return 1 if wrongs else 0


if __name__ == "__main__":
    main()
