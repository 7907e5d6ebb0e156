"""The tokenizer beside tiktoken and Hugging Face tokenizers: same vocabulary, same text, same ids, interleaved.

    python benchmarks/tokenizer.py [--megabytes 3] [--rounds 5]

The text is the Python standard library of this machine. All lines but "first sight" repeat the same text, which
favours whoever remembers words (we keep 1 MiB per thread, Hugging Face 10,000 words, tiktoken nothing).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import string
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from common import corpus_hash, interleaved, machine, stdlib_texts, table, versions, write_results
from tiktoken.load import load_tiktoken_bpe
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from llama3 import _core
from llama3.tokenizer import Tokenizer

Candidates = dict[str, Callable[[], object]]
OURS, FRESH, TIKTOKEN, HF = "llama3", "llama3 first sight", "tiktoken", "tokenizers"
# Words with their marks, as in DeepSeek 3's rule: no splitter is written for it.
WORDS_AND_MARKS = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MESSAGE = "Could you please explain, step by step, how the 3 longest rivers of Europe were measured? I'd like sources."


class Bench:
    """Three tokenizers with one vocabulary, and the text they are measured on."""

    def __init__(self, megabytes: float, rounds: int) -> None:
        self.rounds = rounds
        self.texts = stdlib_texts(int(megabytes * 1e6))
        self.bytes = sum(len(text.encode()) for text in self.texts)
        self.folder = Path(tempfile.mkdtemp(prefix="bench-tokenizer-"))
        self.ours, self.vocabulary = self._vocabulary()
        self.ours.save(self.folder)
        self.ours.save(self.folder / "tokenizer.model")
        self.hf = self.load_hf()
        self.tiktoken = self.load_tiktoken()
        self.rows: list[dict[str, Any]] = []

    def _vocabulary(self) -> tuple[Tokenizer, str]:
        """The real Llama 3 vocabulary where it is installed, else one trained on the text."""
        spec = importlib.util.find_spec("llama_models")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / "llama3" / "tokenizer.model"
            if path.is_file():
                return Tokenizer.load(path), "Llama 3"
        return Tokenizer.train(self.texts, 32_768), "trained on the text"

    def load_ours(self) -> Tokenizer:
        return Tokenizer.load(self.folder / "tokenizer.model")

    def load_hf(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def load_tiktoken(self) -> tiktoken.Encoding:
        rule = json.loads(self.ours.to_json())["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        ranks = load_tiktoken_bpe(str(self.folder / "tokenizer.model"))
        return tiktoken.Encoding("same", pat_str=rule, mergeable_ranks=ranks, special_tokens=self.ours.special_tokens)

    def prove_identity(self) -> int:
        """Ends the benchmark where the three disagree on any text. Returns the number of ids."""
        ids, starts = self.ours.encode_batch(self.texts)
        theirs = self.hf.encode_batch(self.texts, add_special_tokens=False)
        for number, text in enumerate(self.texts):
            row = ids[int(starts[number]) : int(starts[number + 1])].tolist()
            if not row == self.tiktoken.encode_ordinary(text) == theirs[number].ids:
                raise SystemExit(f"text {number} gets different ids; nothing was timed")
        return len(ids)

    def measure(self, what: str, amount: float, unit: str, candidates: Candidates) -> None:
        """Times the candidates; `amount / 1e6` per second is the figure, or seconds where `unit` is s."""
        working = {name: run for name, run in candidates.items() if _works(run)}
        timings = interleaved(working, rounds=self.rounds, warmup=1)
        for name in candidates:
            row: dict[str, Any] = {"what": what, "who": name, "figure": "fails", "unit": unit, "ours is": ""}
            if name in timings:
                timing = timings[name]
                row["figure"] = timing.median if unit == "s" else amount / 1e6 / timing.median
                if name not in (OURS, FRESH):
                    row["ours is"] = f"{timing.median / timings[OURS].median:.1f}x as fast"
                row["timing"] = timing.summary()
            self.rows.append(row)


def _works(run: Callable[[], object]) -> bool:
    """Whether a call ends without an error; a peer's panic arrives as a BaseException."""
    try:
        run()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for us and for Hugging Face; tiktoken has one per call anyway."""
    _core.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        _core.set_num_threads(0)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"


def encoding(bench: Bench) -> None:
    fresh = [bench.load_ours() for _ in range(bench.rounds + 2)]
    texts, ours, tik, hf = bench.texts, bench.ours, bench.tiktoken, bench.hf
    with one_thread():
        candidates: Candidates = {
            OURS: lambda: ours.encode_batch(texts),
            FRESH: lambda: fresh.pop().encode_batch(texts),
            TIKTOKEN: lambda: [tik.encode_ordinary(text) for text in texts],
            HF: lambda: hf.encode_batch_fast(texts, add_special_tokens=False),
        }
        bench.measure("encode, one thread", bench.bytes, "MB/s", candidates)
        candidates = {
            OURS: lambda: [ours.count(text) for text in texts],
            TIKTOKEN: lambda: [len(tik.encode_ordinary(text)) for text in texts],
        }
        bench.measure("count, one thread", bench.bytes, "MB/s", candidates)
    candidates = {
        OURS: lambda: ours.encode_batch(texts),
        TIKTOKEN: lambda: tik.encode_ordinary_batch(texts, num_threads=os.cpu_count() or 1),
        HF: lambda: hf.encode_batch_fast(texts, add_special_tokens=False),
    }
    bench.measure("encode, all threads", bench.bytes, "MB/s", candidates)
    calls = range(2000)
    candidates = {
        OURS: lambda: [ours.encode(MESSAGE) for _ in calls],
        TIKTOKEN: lambda: [tik.encode_ordinary(MESSAGE) for _ in calls],
        HF: lambda: [hf.encode(MESSAGE, add_special_tokens=False).ids for _ in calls],
    }
    bench.measure(f"{len(MESSAGE)}-byte messages", len(calls), "M/s", candidates)


def other_rules(bench: Bench) -> None:
    """The same vocabulary under the split rules of other families, the last one through the regex engine."""
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    given = {"type": "Split", "pattern": {"Regex": WORDS_AND_MARKS}, "behavior": "Isolated", "invert": False}
    rules = {
        "GPT-2": to_bytes,
        "digits, then GPT-2": {"type": "Sequence", "pretokenizers": [digits, to_bytes]},
        "a given pattern": {"type": "Sequence", "pretokenizers": [given, {**to_bytes, "use_regex": False}]},
    }
    content = json.loads(bench.ours.to_json())
    content["model"]["ignore_merges"] = False
    file = bench.folder / "other.json"
    for name, rule in rules.items():
        file.write_text(json.dumps({**content, "pre_tokenizer": rule}), encoding="utf-8")
        ours, hf = Tokenizer.load(file), tokenizers.Tokenizer.from_file(str(file))
        expected = [id for row in hf.encode_batch_fast(bench.texts, add_special_tokens=False) for id in row.ids]
        if ours.encode_batch(bench.texts)[0].tolist() != expected:
            raise SystemExit(f"the rule {name} gives different ids; nothing more was timed")
        with one_thread():
            candidates: Candidates = {
                OURS: lambda: ours.encode_batch(bench.texts),  # noqa: B023 - called in this round
                HF: lambda: hf.encode_batch_fast(bench.texts, add_special_tokens=False),  # noqa: B023
            }
            bench.measure(f"encode by {name}", bench.bytes, "MB/s", candidates)


def decoding(bench: Bench) -> None:
    rows = [bench.ours.encode(text) for text in bench.texts]
    lists = [row.tolist() for row in rows]
    count = sum(map(len, rows))
    candidates: Candidates = {
        OURS: lambda: [bench.ours.decode(row) for row in rows],
        TIKTOKEN: lambda: [bench.tiktoken.decode(row) for row in lists],
        HF: lambda: [bench.hf.decode(row, skip_special_tokens=False) for row in lists],
    }
    bench.measure("decode", count, "M ids/s", candidates)


def adversaries(bench: Bench) -> None:
    length = 100_000
    rng = random.Random(1)
    texts = {
        "one letter": "a" * length,
        "blanks, then a letter": " " * length + "x",
        "carets": "^" * length,
        "random letters": "".join(rng.choices(string.ascii_lowercase, k=length)),
    }
    for name, text in texts.items():
        candidates: Candidates = {
            OURS: lambda text=text: bench.ours.encode(text),  # type: ignore[misc]
            TIKTOKEN: lambda text=text: bench.tiktoken.encode_ordinary(text),  # type: ignore[misc]
        }
        bench.measure(f"100 kB: {name}", len(text), "MB/s", candidates)


def training(bench: Bench) -> None:
    size = 8192
    rule = tokenizers.Tokenizer.from_file(str(bench.folder / "tokenizer.json")).pre_tokenizer

    def hf_train() -> None:
        learner = tokenizers.Tokenizer(BPE())
        learner.pre_tokenizer = rule
        trainer = BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
        learner.train_from_iterator(bench.texts, trainer)

    candidates: Candidates = {OURS: lambda: Tokenizer.train(bench.texts, size + 256), HF: hf_train}
    bench.measure(f"train {size} tokens", bench.bytes, "s", candidates)


def loading(bench: Bench) -> None:
    candidates: Candidates = {OURS: bench.load_ours, TIKTOKEN: bench.load_tiktoken, HF: bench.load_hf}
    bench.measure("load", 0, "s", candidates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    bench = Bench(options.megabytes, options.rounds)
    ids = bench.prove_identity()
    facts = {
        "versions": versions("llama3", "tiktoken", "tokenizers", "numpy"),
        "vocabulary": bench.vocabulary,
        "corpus": {
            "texts": len(bench.texts),
            "bytes": bench.bytes,
            "ids": ids,
            "sha256": corpus_hash(bench.texts),
        },
        "rounds": options.rounds,
    }
    print(json.dumps({**machine(), **facts}, indent=1))
    for part in (encoding, other_rules, decoding, adversaries, training, loading):
        part(bench)
    print(table([{name: row[name] for name in ("what", "who", "figure", "unit", "ours is")} for row in bench.rows]))
    print(f"written: {write_results('tokenizer', {**facts, 'results': bench.rows})}")


if __name__ == "__main__":
    main()
