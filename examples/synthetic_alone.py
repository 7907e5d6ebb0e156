"""Synthetic text alone: a model rephrases your texts, and a guard tells whether it repeats itself.

python examples/synthetic_alone.py MODEL [FILE ...]     a model's directory, or http://127.0.0.1:8000/v1 of a server
python examples/synthetic_alone.py                      texts made here, and in a model's place one that turns them
"""

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from llama3.synthesis import asked, collapse_figures, passages, text_of_answer, writer_of


class Turner:
    """What writes is anything that answers prompts."""

    name, at_once = "turner", 8

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        return [" ".join(reversed(prompt.split("Text:\n")[1].split())) for prompt in prompts]


draw = random.Random(1)
words = ["the", "of", "and", "to", "that", "with", "be", "ship", "sea", "wind", "harbour", "captain", "island", "rope"]
made_here = [" ".join(draw.choices(words, k=90)).capitalize() + "." for _ in range(8)]
model, paths = sys.argv[1:2], sys.argv[2:]
texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths] or made_here

pieces = [piece for text in texts for piece in passages(text, 2000)]
writer = writer_of(model[0]) if model else Turner()
answers = writer.write([asked("rephrase", piece) for piece in pieces], seed=1)
read = [(piece, *text_of_answer("rephrase", piece, answer)) for piece, answer in zip(pieces, answers, strict=True)]
kept = [(piece, text) for piece, text, why in read if not why]
print(f"{writer.name}: {len(kept)} of {len(pieces)} answers can be used", sorted({why for *_, why in read if why}))
if kept:
    before, after = zip(*kept, strict=True)
    figures = collapse_figures({"rephrase": after}, {"rephrase": before})["rephrase"]
    for name in ("distinct", "entropy", "self_bleu"):
        print(f"  {name}: {figures['made'][name]}, of the passages {figures['read'][name]}")
    print("  " + re.sub(r"\s+", " ", after[0])[:100])
