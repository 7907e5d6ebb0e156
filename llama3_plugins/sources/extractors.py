"""What finds the main text of a page: our own extractor, or one of two libraries.

Ours keeps code to the byte, formulas in one form and alternative texts, and writes no markdown; the libraries are for
comparing, and for whoever must read a crawl as an earlier one was read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Literal

from llama3.errors import ConfigError

Extractor = Literal["core", "resiliparse", "trafilatura"]
MISSING = ConfigError.declare(
    "L3-SRC-021",
    "extractor {name!r} needs a library that is not installed",
    why="{error}",
    fix="pip install 'llama3[{name}]', or leave the extractor out",
)


def library_extractor(name: Extractor) -> Callable[[str], str] | None:
    """From a decoded page to its main text, by a library; None for our own extractor, which reads bytes.

    Raises ConfigError (L3-SRC-021) where the library is not installed.
    """
    if name == "resiliparse":
        extract = _library(name, "resiliparse.extract.html2text").extract_plain_text
        return lambda page: str(extract(page, main_content=True, alt_texts=True, preserve_formatting=True))
    if name == "trafilatura":
        extract = _library(name, "trafilatura").extract
        return lambda page: str(extract(page, include_comments=False, include_images=True) or "")
    return None


def _library(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MISSING("extractor", name=name, error=error) from error
