"""The text of a page, as the `html` source reads it."""

from llama3.sources import main_text

__all__ = ["main_text"]
