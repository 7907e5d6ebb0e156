"""Near-duplicate removal alone: which of your texts say the same as an earlier one.

python examples/dedup_alone.py [FILE ...]        every file is a text; without files, a few made here
"""

import sys
from pathlib import Path

from llama3.data import Deduplicator

if paths := sys.argv[1:]:
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths]
else:
    page = " ".join(f"sentence {n} of a page that two sites have copied" for n in range(40))
    texts = [page, "something else entirely, which stays", page.replace("sentence 9", "clause 9"), page.upper()]
    paths = ["page", "other", "edited copy", "in capitals"]

found = Deduplicator(threshold=0.8).find(texts)
for path, keep, original, similarity in zip(paths, found.keep_D, found.duplicate_of_D, found.similarity_D, strict=True):
    print(f"{path}: " + ("stays" if keep else f"goes, {similarity:.0%} of it is in {paths[original]}"))
print(f"{int(found.keep_D.sum())} of {len(texts)} stay; {found.comparisons} comparisons")
