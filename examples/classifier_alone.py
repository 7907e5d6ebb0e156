"""A classifier of texts alone: trained from labelled rows, measured on rows that it never saw, and asked.

python examples/classifier_alone.py [ROWS.jsonl]        rows are {text, label}; without a file, a few made here
Needs the extra: pip install 'llama3[fasttext]'
"""

import json
import random
import sys
import tempfile
from pathlib import Path

from llama3.classifying import TextModelTraining, train_text_model
from llama3.data import TextModel

with tempfile.TemporaryDirectory() as folder:
    rows = Path(sys.argv[1]) if sys.argv[1:] else Path(folder, "rows.jsonl")
    if not sys.argv[1:]:
        draw = random.Random(0)
        words = {"tale": ["ship", "sea", "wind", "harbour"], "offer": ["buy", "cheap", "click", "deal"]}
        lines = [
            json.dumps({"text": " ".join(draw.choices(words[label], k=12)) + f" {n}", "label": label})
            for n in range(100)
            for label in words
        ]
        rows.write_text("\n".join(lines))
    card = train_text_model(rows, Path(folder, "model"), TextModelTraining(buckets=1000))
    print(f"{card['accuracy']['rate']:.0%} of {card['texts']} held-out texts are taken for what they are")
    model = TextModel(Path(folder, "model"))
    for label, p in zip(model.labels, model.probabilities(["the wind and the sea"])[0], strict=True):
        print(f"  the wind and the sea: {label} {p:.2f}")
