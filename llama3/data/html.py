"""The main text of HTML pages: markup, navigation and hidden text go; code, formulas and alternative texts stay."""

from __future__ import annotations

from dataclasses import dataclass

from llama3 import _core
from llama3.errors import DataError

UNREADABLE_PAGE = DataError.declare("L3-DAT-113", "the page cannot be read", why="{error}")


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says, and how it was read."""

    text: str
    """The main text; "" where there is none."""
    encoding: str
    """Its encoding, as browsers find it: byte order mark, declaration, else by its bytes."""
    characters: int
    """Characters of the page, markup included."""
    undecodable: int
    """Those of them that no text has: bytes that mean nothing in this encoding, and control characters."""


def read_page(data: bytes) -> Page:
    """The page in these bytes. Raises DataError (L3-DAT-113) where no parser can read it."""
    try:
        return Page(*_core.html_page_text(data))
    except ValueError as error:
        raise UNREADABLE_PAGE("page", error=error) from error


def main_text(page: str) -> str:
    """The main text of a page that is decoded already; "" where there is none."""
    try:
        return _core.html_main_text(page.encode("utf-8", "replace").decode())
    except ValueError as error:
        raise UNREADABLE_PAGE("page", error=error) from error
