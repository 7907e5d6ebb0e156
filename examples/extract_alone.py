"""The extractor alone: the main text of pages.

python examples/extract_alone.py [FILE ...]        every file is a page of HTML; without files, one made here
"""

import sys
from pathlib import Path

from llama3.sources import main_text

if paths := sys.argv[1:]:
    pages = [Path(path).read_text(encoding="utf-8", errors="replace") for path in paths]
else:
    said = "".join(f"<p>Paragraph {n} says something that is worth reading to its end.</p>" for n in range(6))
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/shop'>Shop</a></li></ul></nav>"
    code = "<pre><code>for ship in harbour:\n    ship.leave()</code></pre>"
    pages = [f"<html><body>{menu}<main><h1>A page</h1>{said}{code}</main><footer>Cookies</footer></body></html>"]
    paths = ["page"]

for path, page in zip(paths, pages, strict=True):
    text = main_text(page)
    print(f"{path}: {len(text)} of {len(page)} characters are its main text")
    print("\n".join(f"  {line}" for line in text.splitlines()))
