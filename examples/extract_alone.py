"""Extraction and analysis alone: the main text of pages, and what one pass over a text finds in it.

python examples/extract_alone.py [FILE ...]        every file is a page of HTML; without files, one made here
"""

import sys
from pathlib import Path

from llama3.filters import FEATURES
from llama3.sources import DocumentBatch, main_text

if paths := sys.argv[1:]:
    pages = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths]
else:
    said = "".join(f"<p>Paragraph {n} says something that is worth reading to its end.</p>" for n in range(6))
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/shop'>Shop</a></li></ul></nav>"
    pages = [f"<html><body>{menu}<main><h1>A page</h1>{said}</main><footer>Cookies</footer></body></html>"]
    paths = ["page"]

texts = [main_text(page) for page in pages]
found = DocumentBatch.of(texts, source="pages", urls=paths).with_features().features
for number, (path, page, text) in enumerate(zip(paths, pages, texts, strict=True)):
    print(f"{path}: {len(text)} of {len(page)} characters are its main text")
    print("  " + ", ".join(f"{name} {found[name][number]:.3g}" for name in FEATURES[:6]))
