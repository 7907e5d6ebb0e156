"""The analysis alone: one pass over every text gives the numbers that all rules share, and thresholds on them decide.

python examples/analysis_alone.py [FILE ...]        every file is a text; without files, a few made here
"""

import sys
from pathlib import Path

from llama3.filters import FEATURES, DocumentBatch

# Limits of your own, of numbers of your choice; docs/filters.md tells what is recorded and which rules are built in.
LIMITS = {"words": (20, 1e5), "stop_words": (2, 1e9), "duplicate_line_fraction": (0, 0.3), "digit_fraction": (0, 0.2)}

if paths := sys.argv[1:]:
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths]
else:
    tale = "The captain of the ship had a letter to read, and that was all there was to be done before the morning."
    texts = [f"{tale} It said little.", f"{tale}\n" * 9, "Home\nShop\nAbout\n", "1 2 3 and 4 of the 5 to 6 " * 9]
    paths = ["tale", "tale nine times", "menu", "table"]

found = DocumentBatch.of(texts, source="mine", urls=paths).with_features().features
assert found.keys() == set(FEATURES)
for number, path in enumerate(paths):
    told = {name: float(found[name][number]) for name in LIMITS}
    wrong = [name for name, (least, most) in LIMITS.items() if not least <= told[name] <= most]
    print(f"{path}: {'goes by ' + ', '.join(wrong) if wrong else 'stays'}")
    print("  " + ", ".join(f"{name} {value:.3g}" for name, value in told.items()))
